"""Label maps as DICOM RT Structure Sets (PS3.3 A.19): contours on the source's own slices.

Contours are closed and planar, each on one slice, half way between the voxels inside and those
outside; holes hang on a seam (see ``contours``). Written in implicit VR, since explicit VR has no
room for the points of a long contour. The same labels on the same series give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from segmate_cli import __version__, files
from segmate_cli.dicom.contours import Points, outlines
from segmate_cli.dicom.header import Header
from segmate_cli.dicom.objects import (
    add_patient,
    algorithm_of,
    blank_patient,
    code_item,
    facts_of,
    model_of,
    put_raw,
    quiet,
    segment_numbers,
    side_codes,
    type_code,
)
from segmate_cli.dicom.reference import Reference
from segmate_cli.dicom.uids import UidMaker
from segmate_cli.errors import NothingFoundError
from segmate_cli.organs import Organ
from segmate_cli.volume import LabelMap

SERIES_NUMBER = 302
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, retired; RTSTRUCT keeps it
_DESCRIPTION = "Organs segmented by segmate, not reviewed"


def write_rtstruct(
    labels: LabelMap, path: Path, reference: Reference, uid_root: str | None = None
) -> str:
    """Write a label map as a DICOM RT Structure Set.

    ROIs are the label map's organs in the order of their values. An organ that was not found is
    an ROI without contours.

    Args:
        labels: What was segmented; ``run`` must say by which model.
        path: The file.
        reference: Of ``reference_for``.
        uid_root: Root of the UIDs; None for 2.25.

    Returns:
        sha256 of the label map's voxels: little-endian, in (k, j, i) order.

    Raises:
        NothingFoundError: No voxel has a label; nothing is written.
        UsageError: The labels do not say what made them; a UID root that is none.
        OutputError: The file cannot be written.
    """
    numbers, found, digest = segment_numbers(labels)
    if not found:
        raise NothingFoundError(
            f"{path}: no organ was found, so no RTSTRUCT was written; look at the scan."
        )
    uids = UidMaker.of(_facts(labels, digest, reference), uid_root)
    with quiet():
        structures = _structure_set(reference, uids)
        _add_rois(structures, labels, found)
        _add_contours(structures, reference.turn.view(numbers), reference)
        add_patient(structures, reference.shared)
        with files.write_atomically(path) as stream:
            structures.save_as(stream, enforce_file_format=True)
    return digest


def _facts(labels: LabelMap, digest: str, reference: Reference) -> dict[str, Any]:
    """All that decides the object's bytes."""
    return {
        "object": "RTSTRUCT",
        "writers": [__version__, pydicom.__version__, contourpy.__version__],
        **facts_of(labels, digest, reference),
    }


def _structure_set(reference: Reference, uids: UidMaker) -> Dataset:
    """All but organs and patient."""
    made = blank_patient()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = RTStructureSetStorage, uids.uid("instance")
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.StudyInstanceUID = reference.slices[0].study_uid
    made.SeriesInstanceUID, made.SeriesNumber = uids.uid("series"), SERIES_NUMBER
    made.Modality, made.SeriesDescription = "RTSTRUCT", "segmate organs"
    made.Manufacturer = made.ManufacturerModelName = "segmate"
    made.SoftwareVersions, made.OperatorsName = __version__, ""
    made.ReferringPhysicianName, made.InstanceNumber = "", 1
    made.StructureSetLabel, made.StructureSetName = "SEGMATE", "segmate organs"
    made.StructureSetDescription = _DESCRIPTION
    made.StructureSetDate, made.StructureSetTime = reference.made_at
    made.ApprovalStatus = "UNAPPROVED"
    made.FrameOfReferenceUID = reference.slices[0].frame_of_reference_uid
    made.PositionReferenceIndicator = ""
    made.ReferencedFrameOfReferenceSequence = [_frame_of_reference(reference.slices)]
    return made


def _frame_of_reference(slices: Sequence[Header]) -> Dataset:
    """The series that the contours lie on, every slice of it."""
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = slices[0].series_uid
    series.ContourImageSequence = list(map(_image, slices))
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = slices[0].study_uid
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = slices[0].frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(header: Header) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.sop_class_uid, header.sop_uid
    if header.frame is not None:
        item.ReferencedFrameNumber = header.frame
    return item


def _add_rois(structures: Dataset, labels: LabelMap, found: frozenset[int]) -> None:
    """Name, code, colour and maker of each organ."""
    algorithm = ", ".join(algorithm_of(model_of(labels)))[:64]
    structures.StructureSetROISequence = []
    structures.ROIContourSequence = []
    structures.RTROIObservationsSequence = []
    for number, (_, organ) in enumerate(sorted(labels.organs.items()), start=1):
        roi, contour = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, organ.title[:64]
        roi.ReferencedFrameOfReferenceUID = structures.FrameOfReferenceUID
        roi.ROIGenerationAlgorithm, roi.ROIGenerationDescription = "AUTOMATIC", algorithm
        if number not in found:
            roi.ROIDescription = "Not found in this scan"
        contour.ReferencedROINumber, contour.ROIDisplayColor = number, list(organ.rgb)
        structures.StructureSetROISequence.append(roi)
        structures.ROIContourSequence.append(contour)
        structures.RTROIObservationsSequence.append(_observation(number, organ))


def _observation(number: int, organ: Organ) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    item.RTROIInterpretedType, item.ROIInterpreter = "ORGAN", ""
    code = code_item(type_code(organ))
    if sides := side_codes(organ):
        code.SegmentedPropertyTypeModifierCodeSequence = sides
    item.RTROIIdentificationCodeSequence = [code]
    return item


def _add_contours(
    structures: Dataset,
    numbers: npt.NDArray[np.unsignedinteger[Any]],
    reference: Reference,
) -> None:
    """Contours of every organ, slice by slice, each placed by its slice's own attributes."""
    contours: dict[int, list[Dataset]] = {}
    for plane, header in zip(numbers, reference.slices, strict=True):
        for number in np.flatnonzero(np.bincount(plane.reshape(-1))):
            if number:
                drawn = contours.setdefault(int(number), [])
                drawn.extend(_contour(each, header) for each in outlines(plane == number))
    for item in structures.ROIContourSequence:
        if drawn := contours.get(int(item.ReferencedROINumber), []):
            item.ContourSequence = drawn


def _contour(polygon: Points, header: Header) -> Dataset:
    row, column = np.array(header.orientation, dtype=np.float64).reshape(2, 3)
    between_rows, between_columns = header.pixel_spacing_mm or (0.0, 0.0)
    places = np.array(header.position_mm, dtype=np.float64) + (
        polygon[:, :1] * between_rows * column + polygon[:, 1:] * between_columns * row
    )
    item = Dataset()
    item.ContourImageSequence = [_image(header)]
    item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(polygon)
    # + 0.0: no "-0.0000". A tenth of a micrometre; a number in DICOM has at most 16 characters.
    values = (places.round(4) + 0.0).reshape(-1)
    put_raw(item, "ContourData", "\\".join(f"{value:.4f}" for value in values).encode())
    return item
