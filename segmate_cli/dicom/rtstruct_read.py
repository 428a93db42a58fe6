"""DICOM RT Structure Sets as measurements: segmate's and those of others.

Structures of others overlap (a body, its organs, a target), so each is measured by itself and none
becomes a label map. What an organ is comes from its code and side, else from its name. pydicom's
values are used, never quoted: a file names a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import RTStructureSetStorage

from segmate_cli import organs as organ_table
from segmate_cli.dicom.contours import fill
from segmate_cli.dicom.header import MALFORMED
from segmate_cli.dicom.objects import check_inflated, organ_by_code, quiet
from segmate_cli.dicom.rtstruct_slices import image_of, jumps, listed_images, uneven_places_mm
from segmate_cli.doubt.words import OrganStatus
from segmate_cli.errors import GeometryError, UnreadableError
from segmate_cli.geometry import Geometry
from segmate_cli.measurement import OrganStats, measure
from segmate_cli.organs import Organ, foreign_organ
from segmate_cli.volume import Labels, Volume

Points = npt.NDArray[np.float64]

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# Without the scan's grid: pixels of at most half a millimetre, and so many across at least.
_PIXEL_MM = 0.5
_PIXELS_ACROSS = 256
_SAME_PLANE_MM = 1e-2
# Share of the step by which a contour may lie off its slice.
_OFF_SLICE = 0.25
_NO_CONTOUR = OrganStatus("not_found", reasons=("the structure has no contour",))
_NO_EDGE = OrganStatus("complete", reasons=("where the scan ends is not known without --ct",))
_MAYBE_GAPS = replace(
    _NO_EDGE,
    reasons=(
        *_NO_EDGE.reasons,
        "whether slices between its contours are missing or empty is not known without --ct",
    ),
)
_BROKEN = (*MALFORMED, InvalidDicomError, BytesLengthException)


@dataclass(frozen=True, slots=True)
class Structure:
    """One region of interest.

    Attributes:
        organ: What it is.
        contours: Closed planar ones, (n, 3) LPS mm each.
        images: The slice that each was drawn on, or "".
    """

    organ: Organ
    contours: tuple[Points, ...]
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StructureSet:
    """What an RTSTRUCT holds.

    Attributes:
        path: The file.
        structures: In the file's order.
        series_uid: The series that it was drawn on, or None.
        listed: The slices of that series, as far as the file names them, in its order.
        is_own: Whether segmate wrote it, and so lists all slices.
    """

    path: Path
    structures: tuple[Structure, ...]
    series_uid: str | None
    listed: tuple[str, ...] = ()
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class _Stack:
    """The slices, as far as the file tells.

    Attributes:
        normal: Unit vector.
        step_mm: The usual distance.
        places_mm: Where uneven slices lie along the normal, ascending; None for even ones.
        jumps: Whether that leaves open whether slices are missing.
    """

    normal: Points
    step_mm: float
    places_mm: Points | None
    jumps: bool


def is_rtstruct(path: Path) -> bool:
    """Whether a file is an RTSTRUCT, by its first bytes."""
    try:
        with quiet():
            return bool(read_file_meta_info(path).MediaStorageSOPClassUID == RTStructureSetStorage)
    except _BROKEN:
        return False


def read_rtstruct(path: Path, names: dict[int, Organ] | None = None) -> StructureSet:
    """Read an RTSTRUCT.

    Args:
        path: The file.
        names: What the ROI numbers mean; by default as the file says.

    Raises:
        UnreadableError: No RTSTRUCT, or damaged.
    """
    try:
        with quiet():
            check_inflated(path)
            found = pydicom.dcmread(path)
            drawn = {
                int(item.ReferencedROINumber): _contours(item) for item in found.ROIContourSequence
            }
            organs = names or _organs(found)
            structures = tuple(
                Structure(
                    organ,
                    tuple(_points(each) for each in drawn.get(number, [])),
                    tuple(image_of(each) for each in drawn.get(number, [])),
                )
                for number, organ in organs.items()
            )
            own = found.get("Manufacturer") == "segmate"
            return StructureSet(path, structures, _series_uid(found), listed_images(found), own)
    except _BROKEN as error:
        raise UnreadableError(
            f"{path}: damaged, cut off, or no RTSTRUCT that segmate can read; copy it again."
        ) from error


def measure_structures(
    found: StructureSet, ct: Volume | None = None, organs: Sequence[str] | None = None
) -> tuple[OrganStats, ...]:
    """Measure each structure by itself.

    A pixel counts where its centre lies inside; a contour inside another is a hole. Without the
    CT, pixels are of half a millimetre or less, slices lie where the file's contours and list of
    slices say, and where the scan ends is not known, so that nothing is said to touch its edge.

    Args:
        found: The structures.
        ct: The scan that they were drawn on.
        organs: Names or aliases; by default all.

    Raises:
        GeometryError: Contours that lie on no slice of the CT, or on no even stack.
        UnknownOrganError: An organ that the file does not have.
    """
    known = [each.organ for each in found.structures]
    wanted = {each.key for each in organ_table.select(organs, known)} if organs else None
    stack = None if ct else _stack(found)
    stats: list[OrganStats] = []
    for each in found.structures:
        if wanted is not None and each.organ.key not in wanted:
            continue
        if not each.contours:
            stats.append(OrganStats(each.organ, 0, None, None, None, False, _NO_CONTOUR))
            continue
        geometry = ct.geometry if ct else _grid(found.path, each, stack)
        values = _fill(found.path, each, geometry)
        measured = measure(Labels(values, geometry, {1: each.organ}), ct, rules=())
        status = _MAYBE_GAPS if stack and _leaves_open(each, stack) else _NO_EDGE
        stats.extend(measured if ct else (replace(one, status=status) for one in measured))
    return tuple(stats)


def _contours(item: Dataset) -> list[Dataset]:
    return [
        each
        for each in item.get("ContourSequence") or []
        if each.get("ContourGeometricType") in _CLOSED and len(each.ContourData) >= 9
    ]


def _points(contour: Dataset) -> Points:
    return np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3)


def _organs(found: Dataset) -> dict[int, Organ]:
    """Organ of each ROI number: the first of a name or code; a second keeps its own name."""
    codes: dict[int, Dataset] = {}
    for item in found.get("RTROIObservationsSequence") or []:
        if kinds := item.get("RTROIIdentificationCodeSequence"):
            codes[int(item.ReferencedROINumber)] = kinds[0]
    organs: dict[int, Organ] = {}
    for item in found.StructureSetROISequence:
        number = int(item.ROINumber)
        name = str(item.get("ROIName") or f"roi_{number}").strip()
        known = organ_by_code(codes[number]) if number in codes else None
        organs[number] = known or foreign_organ(name, number)
    return organs


def _series_uid(found: Dataset) -> str | None:
    for frame in found.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                return str(series.SeriesInstanceUID)
    return None


def _normal(contours: Sequence[Points]) -> Points:
    """Unit normal of the largest contour, the same for either direction of drawing."""
    best = np.zeros(3)
    for points in contours:
        turned = np.cross(points - points[0], np.roll(points, -1, axis=0) - points[0]).sum(axis=0)
        if np.linalg.norm(turned) > np.linalg.norm(best):
            best = turned
    length = float(np.linalg.norm(best))
    if length == 0.0:
        raise GeometryError("its contours enclose no area")
    best = best / length
    positive: Points = best * np.sign(best[np.argmax(np.abs(best))])
    return positive


def _stack(found: StructureSet) -> _Stack:
    """The slices, by the contours of all structures together and the file's list."""
    contours = [points for each in found.structures for points in each.contours]
    if not contours:
        return _Stack(np.array([0.0, 0.0, 1.0]), 1.0, None, jumps=False)
    try:
        normal = _normal(contours)
    except GeometryError as error:
        raise GeometryError(f"{found.path}: {error}.") from error
    along = np.array([float((points @ normal).mean()) for points in contours])
    apart = np.diff(np.sort(along))
    apart = apart[apart > _SAME_PLANE_MM]
    if not apart.size:
        raise GeometryError(
            f"{found.path}: its contours lie on one slice, so how thick that is nobody says; give "
            "the scan with --ct."
        )
    drawn: dict[str, list[float]] = {}
    images = (image for each in found.structures for image in each.images)
    for image, place in zip(images, along, strict=True):
        drawn.setdefault(image, []).append(float(place))
    places = uneven_places_mm(found.listed, drawn, is_own=found.is_own)
    step_mm = float(np.median(apart))
    told = places is not None or (found.is_own and drawn.keys() <= set(found.listed))
    return _Stack(normal, step_mm, places, jumps=not told and jumps(along, step_mm))


def _leaves_open(structure: Structure, stack: _Stack) -> bool:
    """Whether slices may be missing between a structure's contours."""
    along = [float((points @ stack.normal).mean()) for points in structure.contours]
    return stack.jumps and jumps(along, stack.step_mm)


def _grid(path: Path, structure: Structure, stack: _Stack | None) -> Geometry:
    """A grid of fine pixels around a structure, with room to every side."""
    points = np.concatenate(structure.contours)
    try:
        normal = _normal(structure.contours)
    except GeometryError as error:
        raise GeometryError(f"{path}, {structure.organ.title}: {error}.") from error
    column = np.cross(normal, np.eye(3)[int(np.argmin(np.abs(normal)))])
    column /= np.linalg.norm(column)
    axes = np.stack([normal, column, np.cross(column, normal)], axis=1)
    along = points @ axes
    pixel_mm = min(_PIXEL_MM, float(np.ptp(along[:, 1:], axis=0).max()) / _PIXELS_ACROSS)
    steps = np.array([stack.step_mm if stack else 1.0, pixel_mm, pixel_mm])
    # The outermost points lie on pixels' edges, so that none is counted for lying on a centre.
    first = along.min(axis=0) - steps * np.array([1.0, 0.5, 0.5])
    planes, rows, columns = (np.ceil(np.ptp(along, axis=0) / steps).astype(int) + 3).tolist()
    places = None
    if stack and stack.places_mm is not None:
        near = _around(stack.places_mm, along[:, 0])
        planes, first[0] = len(near), near[0]
        steps[0] = (near[-1] - near[0]) / (planes - 1)
        places = near[:, None] * axes[:, 0] + axes[:, 1:] @ first[1:]
    affine = np.eye(4)
    affine[:3, :3] = axes * steps
    affine[:3, 3] = axes @ first
    return Geometry(affine, (planes, rows, columns), places)


def _around(places_mm: Points, along_mm: Points) -> Points:
    """The slices of a structure and one more at each end, so that it touches no edge.

    Beyond the outermost slice of the list that one lies so far that a slice counts as it does at
    the end of a scan: see ``Geometry.slice_extents_mm``.
    """
    apart = np.diff(places_mm)
    ends = places_mm[0] - apart[:2].min(), places_mm[-1] + apart[-2:].min()
    wider = np.concatenate([ends[:1], places_mm, ends[1:]])
    first, last = np.abs(wider[:, None] - [along_mm.min(), along_mm.max()]).argmin(axis=0)
    return np.asarray(wider[max(first - 1, 0) : last + 2])


def _fill(path: Path, structure: Structure, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Voxels (k, j, i) inside a structure, 1, and outside, 0."""
    planes: dict[int, list[Points]] = {}
    for points in structure.contours:
        index = geometry.to_index(points)
        k = round(float(index[:, 0].mean()))
        if np.abs(index[:, 0] - k).max() > _OFF_SLICE or not 0 <= k < geometry.shape[0]:
            raise GeometryError(
                f"{path}: a contour of {structure.organ.title} lies on no slice of its scan; give "
                "the scan that it was drawn on with --ct."
            )
        planes.setdefault(k, []).append(index[:, 1:])
    values = np.zeros(geometry.shape, dtype=np.uint8)
    for k, polygons in planes.items():
        values[k] = fill(polygons, geometry.shape[1:])
    return values
