"""Measurements as a DICOM Structured Report: TID 1500, Comprehensive 3D SR, by highdicom.

It refers to the segments of a BINARY SEG or to the slices of a series (see ``subject``), takes the
patient from there byte for byte, and is marked preliminary and unverified: nobody has looked at
it. The same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import pydicom
from highdicom import sr
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset

from segmate_cli import __version__, files
from segmate_cli.dicom.objects import (
    ANATOMY,
    ARTIFICIAL_INTELLIGENCE,
    add_patient,
    algorithm_of,
    drop_the_clock,
    quiet,
    type_code,
)
from segmate_cli.dicom.subject import Subject
from segmate_cli.dicom.uids import UidMaker
from segmate_cli.doubt.words import NOT_TOLD, OrganStatus
from segmate_cli.errors import NothingFoundError
from segmate_cli.measurement import OrganStats
from segmate_cli.organs import CODE_SCHEME, LATERALITY_CODES

SERIES_NUMBER = 301
_DEVICE = ("121007", "DCM", "Device")
_TITLE = ("126000", "DCM", "Imaging Measurement Report")
_LIBRARY = ("111028", "DCM", "Image Library")
_LIBRARY_GROUP = ("126200", "DCM", "Image Library Group")
_SOURCE = ("121112", "DCM", "Source of Measurement")
_CT = ("77477000", "SCT", "Computed tomography")
_VOLUME = ("118565006", "SCT", "Volume")
_MILLILITRE = ("mL", "UCUM", "milliliter")
_ATTENUATION = ("112031", "DCM", "Attenuation Coefficient")
_HOUNSFIELD = ("[hnsf'U]", "UCUM", "Hounsfield unit")
_MEAN = ("373098007", "SCT", "Mean")
_SPREAD = ("386136009", "SCT", "Standard Deviation")
_COMMENT = ("121106", "DCM", "Comment")
# What DICOM has words for; a comment has segmate's own word for every organ, since validators
# refuse a coding scheme that they do not know.
_PRESENCE = ("121052", "DCM", "Presence of property")
_PRESENCE_OF = {
    "truncated": ("130576", "DCM", "Anatomy coverage incomplete"),
    "absent": ("122288", "DCM", "Not visualized"),
    "not_found": ("121059", "DCM", "Presence Undetermined"),
}


def write_sr(stats: Sequence[OrganStats], subject: Subject, path: Path) -> None:
    """Write the measurements of a label map's organs as a DICOM SR.

    Each organ has its status, in DICOM's words where it has them, and always as a comment, with
    why it is not complete. Volumes are in mL, means and deviations in HU.

    Args:
        stats: Of the organs to report.
        subject: What they were measured on.
        path: The SR's file.

    Raises:
        NothingFoundError: Not one organ has a voxel; nothing is written.
        OutputError: The file cannot be written.
    """
    if not any(each.voxels for each in stats):
        raise NothingFoundError(f"{path}: no organ was found, so no DICOM SR was written.")
    uids = UidMaker.of(_facts(stats, subject), subject.uid_root)
    with quiet():
        document = _build(stats, subject, uids)
        drop_the_clock(document)
        add_patient(document, subject.shared)
        with files.write_atomically(path) as stream:
            document.save_as(stream, enforce_file_format=True)


def _facts(stats: Sequence[OrganStats], subject: Subject) -> dict[str, Any]:
    """All that decides the report's bytes; what the network told of an organ is not written."""
    written = [replace(each, certainty=NOT_TOLD) for each in stats]
    return {
        "object": "SR",
        "writers": [__version__, highdicom.__version__, pydicom.__version__],
        "evidence": [str(each.SOPInstanceUID) for each in subject.evidence],
        "series": [str(subject.evidence[0].SeriesInstanceUID), subject.series_uid],
        "shared": repr(sorted(subject.shared.items())),
        "made_at": subject.made_at,
        "model": dict(subject.model),
        "stats": [repr(each) for each in written],
    }


def _build(stats: Sequence[OrganStats], subject: Subject, uids: UidMaker) -> sr.Comprehensive3DSR:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uids.uid("device"),
        name="segmate",
        manufacturer_name="segmate",
        model_name=f"segmate {__version__}",
    )
    observer = sr.ObserverContext(CodedConcept(*_DEVICE), device)
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=CodedConcept(*_CT),
        imaging_measurements=[_group(each, subject) for each in stats],
        title=CodedConcept(*_TITLE),
    )
    if not subject.segments:
        _add_library(report[0], subject.evidence)
    return sr.Comprehensive3DSR(
        evidence=subject.evidence,
        content=report[0],
        series_instance_uid=uids.uid("series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids.uid("instance"),
        instance_number=1,
        manufacturer="segmate",
        manufacturer_model_name="segmate",
        software_versions=__version__,
        series_description="segmate measurements",
        content_date=subject.made_at[0],
        content_time=subject.made_at[1],
        is_complete=True,
        is_final=False,
        is_verified=False,
    )


def _add_library(report: Dataset, slices: Sequence[Dataset]) -> None:
    """List the slices that were measured (TID 1600), before the measurements (TID 1500)."""
    library = sr.ContainerContentItem(
        CodedConcept(*_LIBRARY), template_id="1600", relationship_type="CONTAINS"
    )
    group = sr.ContainerContentItem(CodedConcept(*_LIBRARY_GROUP), relationship_type="CONTAINS")
    images = []
    for one in slices:
        image = sr.ImageContentItem(
            CodedConcept(*_SOURCE),
            one.SOPClassUID,
            one.SOPInstanceUID,
            relationship_type="CONTAINS",
        )
        images.append(image)
    group.ContentSequence = sr.ContentSequence(images)
    library.ContentSequence = sr.ContentSequence([group])
    report.ContentSequence.insert(len(report.ContentSequence) - 1, library)


def _group(each: OrganStats, subject: Subject) -> Dataset:
    """One organ: what it is, where, how large, how dense."""
    key = each.organ.key
    segment = subject.segments.get(key, Dataset())
    tracking = sr.TrackingIdentifier(
        uid=str(segment.get("TrackingUID") or subject.tracking.uid(key)),
        identifier=str(segment.get("TrackingID") or key),
    )
    code = CodedConcept(*type_code(each.organ))
    side = LATERALITY_CODES.get(each.organ.side or "")
    laterality = CodedConcept(side[0], CODE_SCHEME, side[1]) if side else None
    common = {
        "tracking_identifier": tracking,
        "finding_type": code,
        "finding_category": CodedConcept(*ANATOMY),
        "finding_sites": [sr.FindingSite(code, laterality)],
        "algorithm_id": _algorithm(segment, subject.model),
        "measurements": _measurements(each) or None,
        "qualitative_evaluations": _presence(each.status),
    }
    if not each.voxels or not subject.segments:
        group = sr.MeasurementsAndQualitativeEvaluations(**common)
    else:
        seg = subject.evidence[0]
        group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=sr.ReferencedSegment(
                seg.SOPClassUID,
                seg.SOPInstanceUID,
                int(segment.SegmentNumber),
                source_series=sr.SourceSeriesForSegmentation(subject.series_uid),
            ),
            **common,
        )
    group[0].ContentSequence.append(_comment(each.status))
    return group


def _presence(status: OrganStatus) -> list[sr.QualitativeEvaluation] | None:
    """The status in DICOM's own words, where it has any."""
    cut = _PRESENCE_OF["truncated"] if status.is_lower_bound else None
    said = _PRESENCE_OF.get(status.kind, cut)
    if said is None:
        return None
    return [sr.QualitativeEvaluation(CodedConcept(*_PRESENCE), CodedConcept(*said))]


def _comment(status: OrganStatus) -> sr.TextContentItem:
    """``status: truncated; cut at ...``: what the status is, and why it is not complete."""
    parts = [f"status: {status.kind}", *status.reasons]
    if status.is_lower_bound:
        parts.append("the volume is a lower bound")
    return sr.TextContentItem(CodedConcept(*_COMMENT), "; ".join(parts), "CONTAINS")


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


def _algorithm(segment: Dataset, model: Mapping[str, str]) -> sr.AlgorithmIdentification:
    """What made the segment, as the SEG says or the sidecar, else what measured it."""
    named = (segment.get("SegmentationAlgorithmIdentificationSequence") or [Dataset()])[0]
    name, version = named.get("AlgorithmName"), named.get("AlgorithmVersion")
    parameters = named.get("AlgorithmParameters")
    if model:
        name, version = algorithm_of(model)
        parameters = f"weights_sha256={model['weights_sha256']}"
    return sr.AlgorithmIdentification(
        name=str(name or "segmate"),
        version=str(version or __version__),
        parameters=[str(parameters)] if parameters else None,
        family=CodedConcept(*ARTIFICIAL_INTELLIGENCE) if parameters else None,
    )
