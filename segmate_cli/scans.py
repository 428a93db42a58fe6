"""Scans and label maps by path, whatever the format: the doors in and out.

``find_scan`` looks at headers only; the ``Scan`` it gives then yields the voxels. ``load``,
``load_labels`` and ``save`` are the short forms.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segmate_cli import files, memory, nifti, sidecar
from segmate_cli.errors import (
    EngineMissingError,
    InputError,
    MemoryCapError,
    OutputError,
    UnreadableError,
    UsageError,
)
from segmate_cli.label_table import read_label_table
from segmate_cli.organs import foreign_organ
from segmate_cli.volume import LabelMap, Labels, Scan, Volume

if TYPE_CHECKING:
    from segmate_cli.dicom.reference import Reference, SegOptions

# The labels, packed frames and their copies while writing: 3.2 measured for 300 slices, 11 organs.
_SEG_BYTES_A_VOXEL = 4


def find_scan(path: Path, *, series: str | None = None, assume_ras: bool = False) -> Scan:
    """Find the one scan that a path names.

    Args:
        path: A NIfTI file, a folder of DICOM files, one DICOM file, or a .zip of them.
        series: Which one, for DICOM with several CT series; see ``dicom.choose``.
        assume_ras: See ``nifti.open_nifti``.

    Raises:
        InputError: There is none, or it cannot be used.
        AmbiguousSeriesError: There are several and none is clearly the best.
    """
    if not files.exists(path):
        raise UnreadableError(f"{path}: there is no such file or folder; check the path.")
    if nifti.is_nifti_name(path):
        file = nifti.open_nifti(path, assume_ras=assume_ras)
        return nifti.as_scan(file)
    from segmate_cli import dicom

    finding = dicom.find_series(path)
    choice = dicom.choose(finding, series)
    return dataclasses.replace(dicom.as_scan(finding, choice.series), notes=(choice.note,))


def load(path: str | Path, *, series: str | None = None, assume_ras: bool = False) -> Volume:
    """Read a CT scan; see ``find_scan`` for what a path may be and which errors are raised."""
    return find_scan(Path(path), series=series, assume_ras=assume_ras).read()


def load_labels(path: str | Path, table: str | Path | None = None) -> Labels:
    """Read a label map with its organ names.

    The names come from ``table`` (see ``label_table``), else from the file's header (segmate and
    TotalSegmentator write them there), else from the sidecar beside the file.

    Raises:
        UnreadableError: No readable label map.
        InputError: Nobody says what the values mean.
    """
    path = Path(path)
    if not files.exists(path):
        raise UnreadableError(f"{path}: there is no such file; check the path.")
    if is_seg_name(path):
        from segmate_cli.dicom.seg_read import read_seg

        return read_seg(path, read_label_table(Path(table)) if table else None)
    if not nifti.is_nifti_name(path):
        raise UsageError(f"{path}: label maps are .nii or .nii.gz files, or DICOM SEG (.dcm).")
    file = nifti.open_nifti(path)
    names = read_label_table(Path(table)) if table else nifti.label_names(file)
    names = names or sidecar.label_names(path)
    if not names:
        raise InputError(
            f"{path}: neither its header nor a sidecar {sidecar.path_for(path).name} says what "
            "the values mean; give a table with --labels table.csv or table.json."
        )
    labels = nifti.read_labels(file, names)
    unnamed = {value for value in _values(labels) if value not in names}
    full = {**names, **{value: foreign_organ(f"label_{value}", value) for value in unnamed}}
    return Labels(labels.values, labels.geometry, full, labels.source)


def save(
    labels: LabelMap,
    path: str | Path,
    *,
    overwrite: bool = False,
    seconds: dict[str, float] | None = None,
    seg: SegOptions | None = None,
    with_sidecar: bool = True,
) -> Path:
    """Write a label map and, beside it, its sidecar (``labels.nii.gz``, ``labels.json``).

    Args:
        labels: From ``predict`` or ``segment``.
        path: A .nii or .nii.gz file, or .dcm for a DICOM SEG (needs the extra [dicom]).
        overwrite: Replace what is there.
        seconds: Time spent outside ``predict``, by stage; writing is added.
        seg: How a DICOM SEG is written.
        with_sidecar: Whether to write the sidecar.

    Returns:
        The label map's path.

    Raises:
        OutputError: It cannot be written, or exists.
        UsageError: The suffix is not one that segmate writes, or a SEG lacks its DICOM series.
        InputError: The DICOM series does not hold the label map's voxels.
        NothingFoundError: A SEG without a single voxel, which is not written.
    """
    path = Path(path)
    check_label_output(path, overwrite=overwrite, with_sidecar=with_sidecar)
    start = time.perf_counter()
    if is_seg_name(path):
        check_seg_writer()
        from segmate_cli.dicom import reference as dicom_reference
        from segmate_cli.dicom import seg as dicom_seg

        seg = seg or dicom_reference.SegOptions()
        reference = dicom_reference.reference_for(labels.geometry, labels.source, seg)
        digest = dicom_seg.write_seg(labels, path, reference, seg)
    else:
        digest = nifti.write_labels(labels, path)
    spent = {**(seconds or {}), "write": time.perf_counter() - start}
    if with_sidecar:
        _write_sidecar(labels, path, digest, spent)
    return path


def _write_sidecar(labels: LabelMap, path: Path, digest: str, seconds: dict[str, float]) -> None:
    """Write it, or take the label map back: one without the other would tell half."""
    try:
        sidecar.write(labels, path, digest, seconds)
    except OutputError:
        path.unlink(missing_ok=True)
        raise


def save_all(
    labels: LabelMap,
    paths: Sequence[Path],
    overwrite: bool,
    *,
    seconds: dict[str, float],
    seg: SegOptions | None,
) -> Iterator[Path]:
    """Write a label map to several files and yield each once it is there; see ``save``.

    NIfTI comes first: it can say that nothing was found, which a DICOM SEG cannot.
    """
    for path in sorted(paths, key=is_seg_name):
        own = has_sidecar(path, paths)
        yield save(labels, path, overwrite=overwrite, seconds=seconds, seg=seg, with_sidecar=own)


def is_seg_name(path: Path) -> bool:
    """Whether the name ends in .dcm, in any case."""
    return path.suffix.lower() == ".dcm"


def check_seg_writer() -> None:
    """Refuse to go on without what writes DICOM SEG.

    Raises:
        EngineMissingError: highdicom is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("highdicom") is None:
        raise EngineMissingError(
            "DICOM SEG and SR need highdicom; pip install 'segmate-cli[dicom]'."
        )


def seg_reference(scan: Scan, seg: SegOptions, memory_cap_bytes: int | None = None) -> Reference:
    """The DICOM slices that a scan's SEG will lie on; to know before the network runs.

    Raises:
        UsageError, InputError: As ``save``.
        MemoryCapError: The SEG cannot be written under the cap.
    """
    from segmate_cli.dicom import reference as dicom_reference

    check_seg_writer()
    need = memory.resident_bytes() + _SEG_BYTES_A_VOXEL * scan.geometry.voxels
    if memory_cap_bytes is not None and need > memory_cap_bytes:
        raise MemoryCapError(
            f"a memory cap of {memory.human(memory_cap_bytes)} is too small to write this scan's "
            f"DICOM SEG: at least {memory.human(need)} is needed; .nii.gz takes less."
        )
    return dicom_reference.reference_for(scan.geometry, scan.source, seg)


def check_label_outputs(
    paths: Sequence[Path], *, overwrite: bool, inputs: tuple[Path, ...] = ()
) -> None:
    """Refuse the outputs of one run that could not all be written; see ``save``.

    Where there is a NIfTI file among them, DICOM files get no sidecar of their own.
    """
    taken: set[Path] = set()
    for path in paths:
        own = has_sidecar(path, paths)
        check_label_output(path, overwrite=overwrite, inputs=inputs, with_sidecar=own)
        written = {path.absolute(), *([sidecar.path_for(path).absolute()] if own else [])}
        if written & taken:
            raise UsageError(f"{path}: two outputs, or their sidecars, have the same name.")
        taken |= written


def has_sidecar(path: Path, outputs: Sequence[Path]) -> bool:
    """Whether an output among those of a run gets a sidecar: each NIfTI, or a lone DICOM file."""
    return nifti.is_nifti_name(path) or not any(map(nifti.is_nifti_name, outputs))


def check_label_output(
    path: Path, *, overwrite: bool, inputs: tuple[Path, ...] = (), with_sidecar: bool = True
) -> None:
    """Refuse an output name that ``save`` could not use; see there."""
    if not nifti.is_nifti_name(path) and not is_seg_name(path):
        raise UsageError(
            f"{path}: unknown suffix; label maps are written as .nii, .nii.gz or .dcm (DICOM SEG)."
        )
    files.check_output(path, overwrite=overwrite, inputs=inputs)
    if with_sidecar:
        files.check_output(sidecar.path_for(path), overwrite=overwrite, inputs=inputs)


def _values(labels: Labels) -> set[int]:
    import numpy as np

    found: set[int] = set()
    for plane in labels.values:
        found.update(int(value) for value in np.flatnonzero(np.bincount(plane.reshape(-1))))
    return found - {0}
