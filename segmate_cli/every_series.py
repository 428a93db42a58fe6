"""One run for each series of a study (``predict --all-series``): names of outputs, failures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segmate_cli import nifti, scans
from segmate_cli.errors import ExitCode, OutputError, SegmateError, UsageError, one_line

if TYPE_CHECKING:
    from segmate_cli.dicom import Finding, SeriesInfo
    from segmate_cli.dicom.files import Place
    from segmate_cli.saving import OutputKind

_NUMBER = "{series}"


def find_each(path: Place) -> Finding:
    """All series of a study, of which ``candidates`` are to be segmented.

    Raises:
        UsageError: ``path`` is a NIfTI file.
        InputError: There is no CT series.
    """
    if isinstance(path, Path) and nifti.is_nifti_name(path):
        raise UsageError(f"{path}: a NIfTI file is one scan; --all-series is about DICOM.")
    from segmate_cli import dicom

    finding = dicom.find_series(path)
    if not finding.candidates:
        raise dicom.none_found(finding)
    return finding


def output_of(given: str, number: int, kind: OutputKind | None = None) -> Path:
    """The output of a series, by its number in the table of ``segmate inspect``.

    Args:
        given: A name with ``{series}`` in it, or a folder, which is made where it is missing.
        number: The series'.
        kind: What is written, where ``--format`` says so; in a folder NIfTI by default.

    Raises:
        UsageError: ``given`` is the name of one file.
        OutputError: The folder cannot be made.
    """
    if _NUMBER in given:
        return Path(given.replace(_NUMBER, str(number)))
    folder = Path(given)
    if nifti.is_nifti_name(folder) or scans.is_dicom_name(folder):
        raise UsageError(
            f"{given}: --all-series writes a file for each series; give a folder, or put "
            f"{_NUMBER} into the name."
        )
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}).") from error
    suffix = ".dcm" if kind in ("seg", "rtstruct") else ".nii.gz"
    return folder / f"series_{number}{suffix}"


def in_turn(
    series: Sequence[SeriesInfo],
    run: Callable[[SeriesInfo], None],
    tell: Callable[[str], None],
) -> ExitCode:
    """Run each; tell of those that failed, and go on."""
    failed = 0
    for one in series:
        try:
            run(one)
        except SegmateError as error:
            failed += 1
            tell(f"series {one.number} failed: {one_line(error, most=1000)}")
    if failed:
        tell(f"{failed} of {len(series)} series failed")
    if failed == len(series):
        return ExitCode.BATCH_NONE_SUCCEEDED
    return ExitCode.BATCH_SOME_FAILED if failed else ExitCode.DONE
