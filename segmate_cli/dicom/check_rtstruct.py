"""What is wrong with a DICOM RT Structure Set; see ``check``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset

from segmate_cli.dicom.check_common import (
    SAME_PLACE_MM,
    Finding,
    Sources,
    missing_sources,
    referred,
)

_KINDS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_FLAT_MM = 0.1


def check_rtstruct(found: Dataset, sources: Sources | None) -> Iterator[Finding]:
    """Everything about an RTSTRUCT that segmate can tell itself."""
    listed = _listed(found)
    if not listed:
        where = "ReferencedFrameOfReferenceSequence"
        yield Finding("error", where, "lists no slice of a series", "Eclipse, OHIF, plastimatch")
    yield from _rois(found)
    named: dict[str, str] = {}
    for item in found.get("ROIContourSequence") or []:
        where = f"ROI {item.get('ReferencedROINumber')}"
        for n, contour in enumerate(item.get("ContourSequence") or [], start=1):
            yield from _contour(contour, f"{where}, contour {n}", sources)
            for image in contour.get("ContourImageSequence") or []:
                named[str(image.get("ReferencedSOPInstanceUID", ""))] = f"{where}, contour {n}"
    yield from missing_sources(named, listed, sources)


def _listed(found: Dataset) -> set[str]:
    return {
        str(image.get("ReferencedSOPInstanceUID", ""))
        for frame in found.get("ReferencedFrameOfReferenceSequence") or []
        for study in frame.get("RTReferencedStudySequence") or []
        for series in study.get("RTReferencedSeriesSequence") or []
        for image in series.get("ContourImageSequence") or []
    }


def _rois(found: Dataset) -> Iterator[Finding]:
    rois = found.get("StructureSetROISequence") or []
    numbers = [int(item.get("ROINumber") or 0) for item in rois]
    if not numbers:
        yield Finding("error", "StructureSetROISequence", "has no ROI", "all")
    if len(set(numbers)) < len(numbers):
        yield Finding("error", "StructureSetROISequence", "has a number twice", "all")
    names = [str(item.get("ROIName") or "") for item in rois]
    if not all(names):
        yield Finding("error", "StructureSetROISequence", "has an ROI without a name", "Eclipse")
    if len(set(names)) < len(names):
        yield Finding("warning", "StructureSetROISequence", "has a name twice", "Eclipse, rt-utils")
    frames = {
        str(frame.get("FrameOfReferenceUID", ""))
        for frame in found.get("ReferencedFrameOfReferenceSequence") or []
    }
    drawn = {
        int(item.get("ReferencedROINumber") or 0): bool(item.get("ContourSequence"))
        for item in found.get("ROIContourSequence") or []
    }
    observed = {
        int(item.get("ReferencedROINumber") or 0)
        for item in found.get("RTROIObservationsSequence") or []
    }
    for number, roi in zip(numbers, rois, strict=True):
        if str(roi.get("ReferencedFrameOfReferenceUID", "")) not in frames:
            what = "lies in a frame of reference that the file does not list"
            yield Finding("error", f"ROI {number}", what, "Eclipse, OHIF")
        if not drawn.get(number):
            yield Finding("note", f"ROI {number}", "has no contour, so is empty")
        if number not in observed:
            what = "has no item in RTROIObservationsSequence"
            yield Finding("error", f"ROI {number}", what, "Eclipse, OHIF")
    for number in sorted({*drawn, *observed} - set(numbers)):
        yield Finding("error", f"ROI {number}", "is drawn or observed, but not named", "all")


def _contour(contour: Dataset, where: str, sources: Sources | None) -> Iterator[Finding]:
    kind = contour.get("ContourGeometricType")
    if kind not in _KINDS:
        yield Finding("error", where, "is of no known ContourGeometricType", "all")
    values = np.array(contour.get("ContourData") or [], dtype=np.float64)
    if not values.size or values.size % 3:
        yield Finding("error", where, "is no list of points", "all")
        return
    points = values.reshape(-1, 3)
    if int(contour.get("NumberOfContourPoints") or 0) != len(points):
        yield Finding("error", where, "has another number of points than it says", "plastimatch")
    if kind not in _CLOSED:
        return
    if len(points) < 3:
        yield Finding("error", where, "is closed, with fewer than 3 points", "Eclipse, Slicer")
        return
    normal = np.cross(points - points[0], np.roll(points, -1, 0) - points[0]).sum(axis=0)
    size = float(np.linalg.norm(normal))
    if size == 0.0:
        yield Finding("error", where, "encloses no area", "Eclipse, Slicer")
        return
    off_mm = float(np.abs((points - points.mean(axis=0)) @ (normal / size)).max())
    if off_mm > _FLAT_MM:
        yield Finding("error", where, f"is not planar: points are {off_mm:.2f} mm off", "all")
    images = contour.get("ContourImageSequence") or [Dataset()]
    header = referred(images[0], sources)
    if header is None or header.orientation is None:
        return
    row, column = np.array(header.orientation, dtype=np.float64).reshape(2, 3)
    apart = np.abs((points - np.array(header.position_mm)) @ np.cross(row, column)).max()
    if apart > max(_FLAT_MM, SAME_PLACE_MM):
        yield Finding("error", where, f"lies {apart:.2f} mm off the slice that it names", "all")
