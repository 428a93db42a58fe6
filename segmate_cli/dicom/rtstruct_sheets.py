"""The contours of an RTSTRUCT filled: on its scan's grid, or without it on one made for them.

Structures of others overlap (a body, its organs, a target), so they may need several sheets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segmate_cli.dicom.contours import fill
from segmate_cli.dicom.rtstruct_read import Structure, StructureSet
from segmate_cli.dicom.rtstruct_slices import even_or_not_mm, is_uneven, jumps
from segmate_cli.doubt.words import FACES
from segmate_cli.errors import GeometryError
from segmate_cli.geometry import Geometry
from segmate_cli.organs import Organ
from segmate_cli.sheets import SheetMaker, Sheets

Points = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Without the scan's grid, to measure: pixels of at most half a millimetre, and so many across at
# least.
_PIXEL_MM = 0.5
_PIXELS_ACROSS = 256
# To judge structures by each other, and to show them, on one grid: a millimetre; of small ones
# fewer, so that there are so many across at least, and of large ones more.
_SHARED_PIXEL_MM, _SHARED_LEAST, _SHARED_MOST = 1.0, 128, 512
_SAME_PLANE_MM = 1e-2
# Contours that would need more slices than a body has come of damage.
_MOST_PLANES = 4000
# Share of the step by which a contour may lie off its slice.
_OFF_SLICE = 0.25
_NO_CONTOUR = "the structure has no contour"
_MAYBE_GAPS = "whether slices between its contours are missing or empty is not known without --ct"


@dataclass(frozen=True, slots=True)
class _Stack:
    """The slices, as far as the file tells.

    Attributes:
        normal: Unit vector.
        step_mm: The usual distance.
        uneven_mm: Where uneven slices lie along the normal, ascending; None for even ones.
        reach_mm: Where all slices lie that are known, ascending.
        ends_known: Whether these are all of the scan's.
        jumps: Whether that leaves open whether slices are missing.
    """

    normal: Points
    step_mm: float
    uneven_mm: Points | None
    reach_mm: Points
    ends_known: bool
    jumps: bool


@dataclass(frozen=True, slots=True)
class _Drawn:
    """All structures that mean one organ, and the value they get."""

    organ: Organ
    value: int
    parts: tuple[Structure, ...]

    @property
    def contours(self) -> list[Points]:
        return [points for part in self.parts for points in part.contours]


def sheets_of(found: StructureSet, scan: Geometry | None = None) -> Sheets:
    """Fill the structures of a file; those that mean one organ are one.

    A pixel counts where its centre lies inside; a contour inside another is a hole. Without the
    scan, volumes are told by pixels of half a millimetre or less, slices lie where the file's
    contours and list of slices say, and where the scan ends is not known, but for the slices of
    segmate's own files.

    Args:
        found: The structures.
        scan: Where the voxels lie of the scan that they were drawn on.

    Raises:
        GeometryError: Contours that lie on no slice of the scan, or on no even stack.
    """
    drawn = _drawn(found)
    organs = {each.value: each.organ for each in drawn}
    doubts = {each.organ.key: (_NO_CONTOUR,) for each in drawn if not each.contours}
    if scan is not None:
        made = SheetMaker(scan, organs)
        for each in drawn:
            made.lay(each.value, _fill(found.path, each, scan))
        return Sheets(made.made(), doubts=doubts)
    stack = _stack(found)
    shared = _shared_grid(found, stack)
    made, told = SheetMaker(shared, organs), {}
    for each in drawn:
        if each.contours:
            made.lay(each.value, _fill(found.path, each, shared, off_slices=True))
            told[each.value] = _told(found.path, each, stack)
            if _leaves_open(each, stack):
                doubts[each.organ.key] = (_MAYBE_GAPS,)
    ends = {*FACES}
    if stack.ends_known:
        ends -= _along(shared)
    return Sheets(made.made(), frozenset(ends), told, doubts)


def _drawn(found: StructureSet) -> list[_Drawn]:
    keys = dict.fromkeys(each.organ.key for each in found.structures)
    grouped = (tuple(each for each in found.structures if each.organ.key == key) for key in keys)
    return [_Drawn(parts[0].organ, n, parts) for n, parts in enumerate(grouped, 1)]


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
        up = np.array([0.0, 0.0, 1.0])
        return _Stack(up, 1.0, None, np.zeros(1), ends_known=False, jumps=False)
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
    listed = even_or_not_mm(found.listed, drawn, is_own=found.is_own)
    uneven = listed if listed is not None and is_uneven(listed) else None
    step_mm = float(np.median(apart))
    told = uneven is not None or (found.is_own and drawn.keys() <= set(found.listed))
    count = round(float(np.ptp(along)) / step_mm) + 1
    return _Stack(
        normal,
        step_mm,
        uneven,
        along.min() + step_mm * np.arange(count) if listed is None else listed,
        ends_known=listed is not None and found.is_own,
        jumps=not told and jumps(along, step_mm),
    )


def _leaves_open(drawn: _Drawn, stack: _Stack) -> bool:
    """Whether slices may be missing between an organ's contours."""
    along = [float((points @ stack.normal).mean()) for points in drawn.contours]
    return stack.jumps and jumps(along, stack.step_mm)


def _axes(normal: Points) -> Points:
    """(3, 3) unit vectors along k, j and i, as columns."""
    column = np.cross(normal, np.eye(3)[int(np.argmin(np.abs(normal)))])
    column /= np.linalg.norm(column)
    return np.stack([normal, column, np.cross(column, normal)], axis=1)


def _shared_grid(found: StructureSet, stack: _Stack) -> Geometry:
    """One grid around all structures; to no side does one reach its edge but along the slices."""
    axes = _axes(stack.normal)
    contours = [points for each in found.structures for points in each.contours]
    across = np.concatenate(contours or [np.zeros((1, 3))]) @ axes[:, 1:]
    extent_mm = float(np.ptp(across, axis=0).max())
    pixel_mm = max(min(_SHARED_PIXEL_MM, extent_mm / _SHARED_LEAST), extent_mm / _SHARED_MOST)
    pixel_mm = pixel_mm or _SHARED_PIXEL_MM
    planes = len(stack.reach_mm)
    if planes > _MOST_PLANES:
        raise GeometryError(
            f"{found.path}: its contours form no stack of slices; give the scan with --ct."
        )
    rows, columns = (np.ceil(np.ptp(across, axis=0) / pixel_mm).astype(int) + 2).tolist()
    first = np.array([stack.reach_mm[0], *(across.min(axis=0) - 0.5 * pixel_mm)])
    step_mm = stack.step_mm
    if planes > 1:
        step_mm = float(stack.reach_mm[-1] - stack.reach_mm[0]) / (planes - 1)
    places = None
    if stack.uneven_mm is not None:
        places = stack.uneven_mm[:, None] * axes[:, 0] + axes[:, 1:] @ first[1:]
    return _geometry(axes, first, (step_mm, pixel_mm), (planes, rows, columns), places)


def _told(path: Path, drawn: _Drawn, stack: _Stack) -> tuple[int, float]:
    """Voxels and millilitres of an organ, on a grid of fine pixels."""
    grid = _fine_grid(path, drawn, stack)
    mask = _fill(path, drawn, grid)
    by_slice = np.count_nonzero(mask, axis=(1, 2))
    return int(by_slice.sum()), float(by_slice @ grid.slice_voxel_ml)


def _fine_grid(path: Path, drawn: _Drawn, stack: _Stack) -> Geometry:
    """A grid of fine pixels around an organ, with room to every side."""
    points = np.concatenate(drawn.contours)
    try:
        normal = _normal(drawn.contours)
    except GeometryError as error:
        raise GeometryError(f"{path}, {drawn.organ.title}: {error}.") from error
    axes = _axes(normal)
    along = points @ axes
    pixel_mm = min(_PIXEL_MM, float(np.ptp(along[:, 1:], axis=0).max()) / _PIXELS_ACROSS)
    steps = np.array([stack.step_mm, pixel_mm, pixel_mm])
    # The outermost points lie on pixels' edges, so that none is counted for lying on a centre.
    first = along.min(axis=0) - steps * np.array([1.0, 0.5, 0.5])
    planes, rows, columns = (np.ceil(np.ptp(along, axis=0) / steps).astype(int) + 3).tolist()
    places, step_mm = None, stack.step_mm
    if stack.uneven_mm is not None:
        near = _around(stack.uneven_mm, along[:, 0])
        planes, first[0] = len(near), near[0]
        step_mm = float(near[-1] - near[0]) / (planes - 1)
        places = near[:, None] * axes[:, 0] + axes[:, 1:] @ first[1:]
    return _geometry(axes, first, (step_mm, pixel_mm), (planes, rows, columns), places)


def _geometry(
    axes: Points,
    first: Points,
    steps_mm: tuple[float, float],
    shape: tuple[int, int, int],
    places: Points | None,
) -> Geometry:
    """Of square pixels, by steps along the slices and in them."""
    step_mm, pixel_mm = steps_mm
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array([step_mm, pixel_mm, pixel_mm])
    affine[:3, 3] = axes @ first
    return Geometry(affine, shape, places)


def _around(places_mm: Points, along_mm: Points) -> Points:
    """The slices of an organ and one more at each end, so that it touches no edge.

    Beyond the outermost slice of the list that one lies so far that a slice counts as it does at
    the end of a scan: see ``Geometry.slice_extents_mm``.
    """
    apart = np.diff(places_mm)
    ends = places_mm[0] - apart[:2].min(), places_mm[-1] + apart[-2:].min()
    wider = np.concatenate([ends[:1], places_mm, ends[1:]])
    first, last = np.abs(wider[:, None] - [along_mm.min(), along_mm.max()]).argmin(axis=0)
    return np.asarray(wider[max(first - 1, 0) : last + 2])


def _along(geometry: Geometry) -> set[str]:
    """The faces below the first slice and behind the last."""
    pairs = {"SI": FACES[:2], "LR": FACES[2:4], "AP": FACES[4:]}
    return {*next(pair for letters, pair in pairs.items() if geometry.directions[0] in letters)}


def _fill(path: Path, drawn: _Drawn, geometry: Geometry, *, off_slices: bool = False) -> Mask:
    """Voxels (k, j, i) inside an organ; ``off_slices`` counts contours to the nearest slice."""
    values = np.zeros(geometry.shape, dtype=np.bool_)
    for part in drawn.parts:
        planes: dict[int, list[Points]] = {}
        for points in part.contours:
            index = geometry.to_index(points)
            k = round(float(index[:, 0].mean()))
            if off_slices:
                k = min(max(k, 0), geometry.shape[0] - 1)
            elif np.abs(index[:, 0] - k).max() > _OFF_SLICE or not 0 <= k < geometry.shape[0]:
                raise GeometryError(
                    f"{path}: a contour of {drawn.organ.title} lies on no slice of its scan; give "
                    "the scan that it was drawn on with --ct."
                )
            planes.setdefault(k, []).append(index[:, 1:])
        for k, polygons in planes.items():
            values[k] |= fill(polygons, geometry.shape[1:])
    return values
