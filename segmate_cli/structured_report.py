"""From a label map in a file to a DICOM Structured Report of its measurements."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from segmate_cli import examining, scans, sidecar
from segmate_cli.dicom import reference as dicom_reference
from segmate_cli.dicom import subject as subjects
from segmate_cli.dicom.seg_read import open_seg
from segmate_cli.dicom.sr import write_sr
from segmate_cli.dicom.subject import Subject
from segmate_cli.errors import GeometryError
from segmate_cli.label_table import read_label_table
from segmate_cli.measurement import OrganStats, examine
from segmate_cli.nifti import is_nifti_name


@dataclass(frozen=True, slots=True)
class SrOptions:
    """Choices of a report.

    Attributes:
        table: What the label map's values mean; None for what it says itself.
        ct: The scan, for HU; by default ``reference``, and None for volumes alone.
        series: Which series of ``ct`` or ``reference``, where there are several.
        organs: Names or aliases; None for all.
        reference: The DICOM series that a NIfTI label map lies on; by default ``ct``, where that
            is DICOM, else what the sidecar says.
        uid_root: Root of the UIDs; None for 2.25.
    """

    table: str | None = None
    ct: Path | None = None
    series: str | None = None
    organs: tuple[str, ...] | None = None
    reference: Path | None = None
    uid_root: str | None = None


def report_as_sr(path: Path, output: Path, options: SrOptions) -> tuple[str, ...]:
    """Measure the organs of a DICOM SEG or NIfTI label map and write a DICOM SR.

    Returns:
        What the report lacks, one sentence each.

    Raises:
        UsageError: Nobody tells on which series a NIfTI label map lies; a SEG that no SR refers to.
        InputError: A file that cannot be read or referred to.
        NothingFoundError: Not one organ has a voxel; nothing is written.
        OutputError: The file cannot be written.
    """
    find = _of_seg if scans.is_dicom_name(path) else _of_nifti
    subject, stats, warnings = find(path, options)
    write_sr(stats, subject, output)
    if subject.shared:
        return warnings
    return (
        *warnings,
        f"{output} names no patient, since {sidecar.path_for(path).name} does not; give the "
        "series with --reference-dicom FOLDER for an archive.",
    )


_Found: TypeAlias = tuple[Subject, tuple[OrganStats, ...], tuple[str, ...]]


def _of_seg(path: Path, options: SrOptions) -> _Found:
    """What a SEG is about, its organs' measurements, and what they lack."""
    seg = open_seg(path, read_label_table(Path(options.table)) if options.table else None)
    subject = subjects.of_seg(path, seg.organs, options.uid_root)
    measured = examining.measure_path(
        path, table=options.table, ct=options.ct, series=options.series, organs=options.organs
    )
    return subject, measured, ()


def _of_nifti(path: Path, options: SrOptions) -> _Found:
    """The same of a NIfTI label map."""
    labels, ct = scans.load_with_ct(path, options.table, options.ct, options.series)
    rules, earlier = examining.gates_of(path, None)
    measured = partial(examine, organs=options.organs, rules=rules, earlier=earlier)
    origin = sidecar.origin_of(path)
    folder = options.reference
    if folder is None and options.ct is not None and not is_nifti_name(options.ct):
        folder = options.ct
    reference = None
    if folder is not None:
        named = origin.source.series_uid if origin and origin.source else None
        reference = dicom_reference.of_folder(
            labels.geometry, folder, options.series or named or None
        )
    subject = subjects.of_series(path, origin, reference, options.uid_root)
    if ct is not None or reference is None or folder is None:
        return subject, measured(labels, ct).stats, ()
    # The series that the label map lies on is its CT.
    uid = reference.slices[0].series_uid
    try:
        seen, ct = scans.load_with_ct(path, options.table, folder, options.series or uid)
        return subject, measured(seen, ct).stats, ()
    except GeometryError:  # on the slices as far as they need to be, but not to the voxel
        why = f"{path.name} lies off the slices of {folder} by more than rounding: no HU."
        return subject, measured(labels, None).stats, (why,)
