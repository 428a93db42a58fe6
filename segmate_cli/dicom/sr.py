"""Measurements as a DICOM Structured Report: TID 1500, Comprehensive 3D SR, by highdicom.

It refers to the segments of a BINARY SEG, takes the patient from it byte for byte, and is marked
preliminary and unverified: nobody has looked at it. The same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom
import pydicom
from highdicom import sr
from highdicom.sr.coding import CodedConcept
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from segmate_cli import __version__, files
from segmate_cli.dicom.header import MALFORMED
from segmate_cli.dicom.objects import (
    ANATOMY,
    ARTIFICIAL_INTELLIGENCE,
    add_patient,
    blank_patient,
    drop_the_clock,
    quiet,
    type_code,
)
from segmate_cli.dicom.reference import SHARED
from segmate_cli.dicom.uids import UidMaker
from segmate_cli.errors import InputError, NothingFoundError, UnreadableError, UsageError
from segmate_cli.measurement import OrganStats
from segmate_cli.organs import CODE_SCHEME, LATERALITY_CODES, Organ

SERIES_NUMBER = 301
_BINARY_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
_DEVICE = ("121007", "DCM", "Device")
_TITLE = ("126000", "DCM", "Imaging Measurement Report")
_CT = ("77477000", "SCT", "Computed tomography")
_VOLUME = ("118565006", "SCT", "Volume")
_MILLILITRE = ("mL", "UCUM", "milliliter")
_ATTENUATION = ("112031", "DCM", "Attenuation Coefficient")
_HOUNSFIELD = ("[hnsf'U]", "UCUM", "Hounsfield unit")
_MEAN = ("373098007", "SCT", "Mean")
_SPREAD = ("386136009", "SCT", "Standard Deviation")
_PRESENCE = ("121052", "DCM", "Presence of property")
_NOT_FOUND = ("121059", "DCM", "Presence Undetermined")
_CUT = ("130576", "DCM", "Anatomy coverage incomplete")


def write_sr(
    stats: Sequence[OrganStats],
    organs: dict[int, Organ],
    seg_path: Path,
    path: Path,
    uid_root: str | None = None,
) -> None:
    """Write the measurements of a SEG's organs as a DICOM SR.

    An organ that was not found has its presence undetermined, one that is cut by the scan's edge
    has its anatomy incompletely covered; volumes are in mL, means and deviations in HU.

    Args:
        stats: Of the organs to report.
        organs: The SEG's organs by segment number.
        seg_path: The BINARY SEG that was measured.
        path: The SR's file.
        uid_root: Root of the UIDs; None for 2.25.

    Raises:
        UsageError: The SEG is a LABELMAP, which readers of SR do not take.
        InputError: The SEG cannot be referred to.
        NothingFoundError: Not one organ has a voxel; nothing is written.
        OutputError: The file cannot be written.
    """
    if not any(each.voxels for each in stats):
        raise NothingFoundError(f"{path}: no organ was found, so no DICOM SR was written.")
    try:
        with quiet():
            seg = pydicom.dcmread(seg_path, stop_before_pixels=True)
            shared = _shared_of(seg)
            _check_seg(seg_path, seg)
            segments = _segments_of(seg_path, seg, organs)
    except (*MALFORMED, InvalidDicomError) as error:
        raise UnreadableError(f"{seg_path}: damaged or cut off; copy it again.") from error
    uids = UidMaker.of(_facts(stats, seg, shared), uid_root)
    with quiet():
        document = _build(stats, seg, segments, uids)
        drop_the_clock(document)
        add_patient(document, shared)
        with files.write_atomically(path) as stream:
            document.save_as(stream, enforce_file_format=True)


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


def _segments_of(path: Path, seg: Dataset, organs: dict[int, Organ]) -> dict[str, Dataset]:
    """Segment of each organ, by key."""
    by_number = {int(item.SegmentNumber): item for item in seg.SegmentSequence}
    found: dict[str, Dataset] = {}
    for number, organ in organs.items():
        if organ.key in found:
            raise InputError(f"{path}: two segments are {organ.title}; give a SEG with one.")
        found[organ.key] = by_number[number]
    return found


def _facts(stats: Sequence[OrganStats], seg: Dataset, shared: dict[str, bytes]) -> dict[str, Any]:
    """All that decides the report's bytes."""
    return {
        "object": "SR",
        "writers": [__version__, highdicom.__version__, pydicom.__version__],
        "seg": [str(seg.SOPInstanceUID), str(seg.SeriesInstanceUID)],
        "shared": repr(sorted(shared.items())),
        "stats": [repr(each) for each in stats],
    }


def _build(
    stats: Sequence[OrganStats], seg: Dataset, segments: dict[str, Dataset], uids: UidMaker
) -> sr.Comprehensive3DSR:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uids.uid("device"),
        name="segmate",
        manufacturer_name="segmate",
        model_name=f"segmate {__version__}",
    )
    observer = sr.ObserverContext(CodedConcept(*_DEVICE), device)
    groups = [_group(each, seg, segments[each.organ.key], uids) for each in stats]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=CodedConcept(*_CT),
        imaging_measurements=groups,
        title=CodedConcept(*_TITLE),
    )
    return sr.Comprehensive3DSR(
        evidence=[_seg_without_patient(seg)],
        content=report[0],
        series_instance_uid=uids.uid("series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids.uid("instance"),
        instance_number=1,
        manufacturer="segmate",
        manufacturer_model_name="segmate",
        software_versions=__version__,
        series_description="segmate measurements",
        content_date=str(seg.get("ContentDate") or "19000101"),
        content_time=str(seg.get("ContentTime") or "000000"),
        is_complete=True,
        is_final=False,
        is_verified=False,
    )


def _seg_without_patient(seg: Dataset) -> Dataset:
    """The SEG as highdicom wants evidence."""
    evidence = blank_patient()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(evidence, keyword, seg[keyword].value)
    evidence.Modality = "SEG"
    return evidence


def _group(each: OrganStats, seg: Dataset, segment: Dataset, uids: UidMaker) -> Dataset:
    """One organ: what it is, where, how large, how dense."""
    key = each.organ.key
    tracking = sr.TrackingIdentifier(
        uid=str(segment.get("TrackingUID") or uids.uid("tracking", key)),
        identifier=str(segment.get("TrackingID") or key),
    )
    code = CodedConcept(*type_code(each.organ))
    side = LATERALITY_CODES.get(each.organ.side or "")
    laterality = CodedConcept(side[0], CODE_SCHEME, side[1]) if side else None
    status = _CUT if each.touches_edge else None if each.voxels else _NOT_FOUND
    evaluation = status and sr.QualitativeEvaluation(
        CodedConcept(*_PRESENCE), CodedConcept(*status)
    )
    common = {
        "tracking_identifier": tracking,
        "finding_type": code,
        "finding_category": CodedConcept(*ANATOMY),
        "finding_sites": [sr.FindingSite(code, laterality)],
        "algorithm_id": _algorithm(segment),
        "qualitative_evaluations": [evaluation] if evaluation else None,
    }
    if not each.voxels:
        return sr.MeasurementsAndQualitativeEvaluations(**common)
    series = str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=sr.ReferencedSegment(
            seg.SOPClassUID,
            seg.SOPInstanceUID,
            int(segment.SegmentNumber),
            source_series=sr.SourceSeriesForSegmentation(series),
        ),
        measurements=_measurements(each),
        **common,
    )


def _measurements(each: OrganStats) -> list[sr.Measurement]:
    found = []
    for value, name, unit, derivation in (
        (each.volume_ml, _VOLUME, _MILLILITRE, None),
        (each.mean_hu, _ATTENUATION, _HOUNSFIELD, _MEAN),
        (each.sd_hu, _ATTENUATION, _HOUNSFIELD, _SPREAD),
    ):
        if value is not None:
            found.append(
                sr.Measurement(
                    name=CodedConcept(*name),
                    # A number in DICOM has at most 16 characters.
                    value=float(f"{value:.7g}"),
                    unit=CodedConcept(*unit),
                    derivation=CodedConcept(*derivation) if derivation else None,
                )
            )
    return found


def _algorithm(segment: Dataset) -> sr.AlgorithmIdentification:
    """What made the segment, as the SEG says, else what measured it."""
    named = segment.get("SegmentationAlgorithmIdentificationSequence") or [Dataset()]
    parameters = named[0].get("AlgorithmParameters")
    return sr.AlgorithmIdentification(
        name=str(named[0].get("AlgorithmName") or "segmate"),
        version=str(named[0].get("AlgorithmVersion") or __version__),
        parameters=[str(parameters)] if parameters else None,
        family=CodedConcept(*ARTIFICIAL_INTELLIGENCE) if parameters else None,
    )
