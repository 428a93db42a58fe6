"""From a label map in a file to a DICOM Structured Report of its measurements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segmate_cli import scans, sidecar
from segmate_cli.dicom import reference as dicom_reference
from segmate_cli.dicom import subject as subjects
from segmate_cli.dicom.sr import write_sr
from segmate_cli.dicom.subject import Subject
from segmate_cli.measurement import measure
from segmate_cli.nifti import is_nifti_name
from segmate_cli.volume import Labels


@dataclass(frozen=True, slots=True)
class SrOptions:
    """Choices of a report.

    Attributes:
        table: What the label map's values mean; None for what it says itself.
        ct: The scan, for HU; None for volumes alone.
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
    labels, ct = scans.load_with_ct(path, options.table, options.ct, options.series)
    subject = _subject(path, labels, options)
    write_sr(measure(labels, ct, options.organs), subject, output)
    if subject.shared:
        return ()
    return (
        f"{output} names no patient, since {sidecar.path_for(path).name} does not; give the "
        "series with --reference-dicom FOLDER for an archive.",
    )


def _subject(path: Path, labels: Labels, options: SrOptions) -> Subject:
    if scans.is_dicom_name(path):
        return subjects.of_seg(path, labels.organs, options.uid_root)
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
    return subjects.of_series(path, origin, reference, options.uid_root)
