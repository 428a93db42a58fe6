"""What a DICOM Structured Report is about: a SEG, or a label map and the series that it lies on.

A report refers to a SEG's segments where there is one, else to the slices of the series. Of a
series, the sidecar of a label map knows the UIDs but no patient; the series itself knows both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from segmate_cli.dicom.malformed import MALFORMED
from segmate_cli.dicom.objects import add_patient, blank_patient, quiet, tracking_uids
from segmate_cli.dicom.reference import NO_DATE, SHARED, Reference, whole_time
from segmate_cli.dicom.uids import UidMaker
from segmate_cli.errors import InputError, UnreadableError, UsageError
from segmate_cli.organs import Organ
from segmate_cli.sidecar import Origin
from segmate_cli.volume import DicomSource

_IDENTITY = {
    "PatientName": "Name",
    "PatientID": "ID",
    "PatientBirthDate": "Born",
    "PatientSex": "Sex",
    "StudyDate": "Study date",
    "AccessionNumber": "Accession",
}
_BINARY_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a report refers to and repeats.

    Attributes:
        evidence: The SEG, or every slice, as highdicom wants evidence: without the patient.
        series_uid: The series that was segmented.
        shared: Raw bytes of the study's attributes by keyword; they name a patient.
        made_at: (date, time) that the report bears, as DICOM writes them.
        segments: Segment of each organ, by key; empty where there is no SEG.
        model: Name, version and weights' hash of what segmented; empty where nobody tells, or
            the SEG's segments do.
        uid_root: Root of the UIDs; None for 2.25.
    """

    evidence: tuple[Dataset, ...]
    series_uid: str
    shared: dict[str, bytes]
    made_at: tuple[str, str]
    segments: Mapping[str, Dataset]
    model: Mapping[str, str]
    uid_root: str | None = None

    @property
    def tracking(self) -> UidMaker:
        """Maker of the tracking UIDs of organs whose segment has none."""
        return tracking_uids(self.series_uid, self.model, self.uid_root)


def of_seg(path: Path, organs: Mapping[int, Organ], uid_root: str | None = None) -> Subject:
    """A BINARY SEG as the subject of a report.

    Args:
        path: The SEG.
        organs: Its organs by segment number.
        uid_root: See Subject.

    Raises:
        UsageError: The SEG is a LABELMAP, which readers of SR do not take.
        InputError: It is damaged, or cannot be referred to.
    """
    try:
        with quiet():
            seg = pydicom.dcmread(path, stop_before_pixels=True)
            shared = _shared_of(seg)
            _check_seg(path, seg)
            return Subject(
                evidence=(_evidence(seg),),
                series_uid=str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID),
                shared=shared,
                made_at=_made_at(seg),
                segments=_segments_of(path, seg, organs),
                model={},
                uid_root=uid_root,
            )
    except (*MALFORMED, InvalidDicomError) as error:
        raise UnreadableError(f"{path}: damaged or cut off; copy it again.") from error


def of_series(
    path: Path, origin: Origin | None, reference: Reference | None, uid_root: str | None = None
) -> Subject:
    """A label map without SEG as the subject of a report on its series.

    Args:
        path: The label map.
        origin: What its sidecar says.
        reference: The series that it lies on, which also tells the patient.
        uid_root: See Subject.

    Raises:
        UsageError: Neither tells which series that is.
    """
    model = dict(origin.model) if origin else {}
    if reference is not None:
        first = reference.slices[0]
        classes = [(one.sop_class_uid, one.sop_uid) for one in reference.slices]
        return Subject(
            evidence=_slices(classes, first.study_uid, first.series_uid),
            series_uid=first.series_uid,
            shared=reference.shared,
            made_at=reference.made_at,
            segments={},
            model=model,
            uid_root=uid_root,
        )
    source = origin.source if origin else None
    if origin is None or source is None or not _identified(source):
        raise UsageError(
            f"{path}: a DICOM SR refers to a DICOM series, and no sidecar names one; give it with "
            "--reference-dicom FOLDER, or the DICOM SEG of the same run in place of the label map."
        )
    classes = [(source.sop_class_uid, uid) for uid in source.sop_instance_uids]
    return Subject(
        evidence=_slices(classes, source.study_uid or "", source.series_uid),
        series_uid=source.series_uid,
        shared={},
        # The sidecar's own time would make another report of the same labels.
        made_at=NO_DATE,
        segments={},
        model=model,
        uid_root=uid_root,
    )


def _identified(source: DicomSource) -> bool:
    names = (source.study_uid, source.series_uid, source.sop_class_uid, *source.sop_instance_uids)
    return bool(source.sop_instance_uids) and all(names)


def _slices(
    classes: Sequence[tuple[str, str]], study_uid: str, series_uid: str
) -> tuple[Dataset, ...]:
    """Slices, by class and instance, as evidence."""
    found = []
    for sop_class, sop_uid in dict.fromkeys(classes):  # frames of one file have one UID
        item = blank_patient()
        item.SOPClassUID, item.SOPInstanceUID, item.Modality = sop_class, sop_uid, "CT"
        item.StudyInstanceUID, item.SeriesInstanceUID = study_uid, series_uid
        found.append(item)
    return tuple(found)


def _evidence(seg: Dataset) -> Dataset:
    """The SEG as evidence."""
    evidence = blank_patient()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(evidence, keyword, seg[keyword].value)
    evidence.Modality = "SEG"
    return evidence


def _made_at(seg: Dataset) -> tuple[str, str]:
    date, time = (str(seg.get(f"Content{unit}") or "") for unit in ("Date", "Time"))
    return whole_time(date, time) or NO_DATE


def identity_of(reference: Reference) -> list[tuple[str, str]]:
    """Who a series is of, as titles and texts for people; only for those who asked for it.

    Raises:
        UnreadableError: The attributes cannot be read.
    """
    document = Dataset()
    try:
        with quiet():
            add_patient(document, reference.shared)
            document.decode()
            found = [(title, str(document.get(key) or "")) for key, title in _IDENTITY.items()]
    except MALFORMED as error:
        raise UnreadableError(
            "the series' patient attributes are damaged; leave them out."
        ) from error
    return [(title, text) for title, text in found if text]


def _shared_of(seg: Dataset) -> dict[str, bytes]:
    """What every object of the study repeats, as raw bytes."""
    found = {}
    for keyword in SHARED:
        element = seg.get_item(keyword) if keyword in seg else None
        if isinstance(element, RawDataElement):
            found[keyword] = element.value or b""
        elif element is not None:  # pydicom itself has looked at the character set
            values = element.value if element.VM > 1 else [element.value or ""]
            found[keyword] = "\\".join(values).encode("ascii")
    return found


def _check_seg(path: Path, seg: Dataset) -> None:
    if seg.get("SOPClassUID") != _BINARY_CLASS or seg.get("SegmentationType") != "BINARY":
        raise UsageError(
            f"{path}: a DICOM SR refers to a BINARY SEG; write one with --seg-type binary."
        )
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        if not seg.get(keyword):
            raise InputError(f"{path}: it has no {keyword}, so nothing can refer to it.")
    if not seg.get("ReferencedSeriesSequence"):
        raise InputError(f"{path}: it does not say on which series it lies; use another SEG.")


def _segments_of(path: Path, seg: Dataset, organs: Mapping[int, Organ]) -> dict[str, Dataset]:
    """Segment of each organ, by key."""
    by_number = {int(item.SegmentNumber): item for item in seg.SegmentSequence}
    found: dict[str, Dataset] = {}
    for number, organ in organs.items():
        if organ.key in found:
            raise InputError(f"{path}: two segments are {organ.title}; give a SEG with one.")
        found[organ.key] = by_number[number]
    return found
