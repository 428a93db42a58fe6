"""Evidence about a label map, gathered slice by slice: surfaces, edges, a small copy.

Nothing here grows with the voxels: counts by value, and a copy of every n-th voxel, some 5 mm
apart. A label map on the model's grid stands for the scan's voxels by weights, how many of them
each row and column has, so that what is counted is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.doubt.words import FACES
from segmate_cli.geometry import Geometry
from segmate_cli.masks import IndexArray, nonzero

FloatArray = npt.NDArray[np.float64]
LabelArray = npt.NDArray[np.unsignedinteger[Any]]
Mask = npt.NDArray[np.bool_]
_Places = tuple[IndexArray, ...]  # planes, rows and columns

# Distance between the voxels of the small copy. A kidney has a thousand of them.
SMALL_MM = 5.0
# How near to the reconstruction circle a mask ends that is cut by it: the model's voxel and a half.
CIRCLE_MM = 3.0
# So many pixels are looked at at once, and at least one plane.
_BLOCK_PIXELS = 1 << 19
# Up to so many values are looked for one by one.
_FEW_VALUES = 16
_FACE_OF = dict(zip("SILRAP", FACES, strict=True))
_OPPOSITE = dict(zip("SILRAP", "ISRLPA", strict=True))


@dataclass(frozen=True, slots=True)
class Small:
    """Every n-th voxel of a scan.

    Attributes:
        labels: (k, j, i) label values; several where organs overlap, each with values of its own.
        geometry: Where they lie.
    """

    labels: tuple[LabelArray, ...]
    geometry: Geometry

    def mask(self, values: Collection[int]) -> Mask:
        """Which voxels have one of some values."""
        return reduce(np.logical_or, (_which(sheet, values) for sheet in self.labels))

    def background(self) -> Mask:
        """Which voxels have no value."""
        return reduce(np.logical_and, (sheet == 0 for sheet in self.labels))


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known about a label map, by value.

    Attributes:
        geometry: The scan's.
        voxels: Voxels of each value.
        volume_ml: Of each value; of uneven slices each by its own extent.
        surface_mm2: Area of the voxel faces between a value and others, edges included.
        edge_mm2: (values, 6) area on each face of the scan, in the order of FACES.
        circle_mm2: Area on the circle that the slices' shorter side goes round; 0 where slices are
            not stored axially.
        changed: Labelled voxels that differ from the next slice, and from the next but one.
        changed_of: The same by value, twice: voxels that have the value in one of the two.
        small: A small copy.
        open_faces: Of FACES, those of the grid beyond which the scan may go on, for all that is
            known.
    """

    geometry: Geometry
    voxels: FloatArray
    volume_ml: FloatArray
    surface_mm2: FloatArray
    edge_mm2: FloatArray
    circle_mm2: FloatArray
    changed: tuple[float, float]
    changed_of: tuple[FloatArray, FloatArray]
    small: Small
    open_faces: frozenset[str] = frozenset()

    @property
    def ends_known(self) -> bool:
        """Whether it is known how far the scan reaches along the body."""
        return not self.open_faces & {"superior", "inferior"}


def joined(
    surveys: Sequence[Survey],
    open_faces: frozenset[str] = frozenset(),
    told: Mapping[int, tuple[int, float]] | None = None,
) -> Survey:
    """Surveys of label maps of one grid, no value in two of them, as one.

    Args:
        surveys: At least one.
        open_faces: See Survey.
        told: Voxels and millilitres by value, where something finer than the grid told them.
    """
    first = surveys[0]
    names = ("voxels", "volume_ml", "surface_mm2", "edge_mm2", "circle_mm2")
    sums = {name: np.sum([getattr(each, name) for each in surveys], axis=0) for name in names}
    for value, (voxels, volume_ml) in (told or {}).items():
        sums["voxels"][value], sums["volume_ml"][value] = voxels, volume_ml
    near, far = np.sum([each.changed for each in surveys], axis=0).tolist()
    near_of, far_of = np.sum([each.changed_of for each in surveys], axis=0)
    sheets = tuple(sheet for each in surveys for sheet in each.small.labels)
    return replace(
        first,
        **sums,
        changed=(near, far),
        changed_of=(near_of, far_of),
        small=Small(sheets, first.small.geometry),
        open_faces=open_faces,
    )


def _which(labels: LabelArray, values: Collection[int]) -> Mask:
    """``np.isin`` of a few values, at a fiftieth of its time."""
    if len(values) > _FEW_VALUES:
        return np.isin(labels, list(values))
    found = np.zeros(labels.shape, np.bool_)
    for value in values:
        found |= labels == value
    return found


def small_steps(geometry: Geometry) -> tuple[int, int, int]:
    """Every how-manieth slice, row and column the small copy takes."""
    k, j, i = (max(1, round(SMALL_MM / size)) for size in geometry.spacing_mm)
    return k, j, i


def small_geometry(geometry: Geometry) -> Geometry:
    """Where the voxels of the small copy lie."""
    steps = small_steps(geometry)
    affine = np.array(geometry.affine)
    affine[:3, :3] *= steps
    k, j, i = (-(-n // step) for n, step in zip(geometry.shape, steps, strict=True))
    return Geometry(affine, (k, j, i))


@dataclass(frozen=True, slots=True)
class Weights:
    """How many of the scan's rows and columns each row and column of a plane stands for."""

    rows: IndexArray
    columns: IndexArray

    @classmethod
    def ones(cls, geometry: Geometry) -> Weights:
        """Of planes on the scan's own grid."""
        return cls(*(np.ones(n, np.intp) for n in geometry.shape[1:]))


class _Sums:
    """What is counted of some slices, by value; see Survey."""

    def __init__(self, n: int) -> None:
        self.voxels = np.zeros(n)
        self.uneven_ml = np.zeros(n)
        self.surface = np.zeros(n)
        self.edge = np.zeros((6, n))  # low and high end of k, j and i
        self.circle = np.zeros(n)
        self.changed = np.zeros(2)
        self.changed_of = np.zeros((2, n))

    def add(self, other: _Sums) -> None:
        for name, own in vars(self).items():
            own += getattr(other, name)

    def face(self, face: int, area_mm2: FloatArray) -> None:
        self.edge[face] += area_mm2
        self.surface += area_mm2


@dataclass(frozen=True, slots=True)
class _Block:
    """Some slices: their numbers, what was counted of them, what the small copy has of them."""

    numbers: range
    sums: _Sums
    small: list[LabelArray]


class Surveyor:
    """Adds up a Survey as the slices k = 0, 1, ... of a label map go by.

    Args:
        geometry: The scan's.
        highest: Largest label value.
        weights: What the planes' rows and columns stand for; None for the scan's own.
        recountable: Keep what is counted apart, so that ``survey`` can count slices again.
    """

    def __init__(
        self,
        geometry: Geometry,
        highest: int,
        weights: Weights | None = None,
        *,
        recountable: bool = False,
    ) -> None:
        self._geometry = geometry
        self._n = highest + 1
        weights = weights or Weights.ones(geometry)
        self._rows, self._columns = weights.rows, weights.columns
        self._reach = np.cumsum(weights.columns)  # of the scan's columns, up to each one's end
        k_mm, j_mm, i_mm = geometry.spacing_mm
        # Areas of a voxel's faces across k, j and i.
        self._areas = (j_mm * i_mm, k_mm * i_mm, k_mm * j_mm)
        self._slice_ml = None if geometry.places_mm is None else geometry.slice_voxel_ml
        self._ring = _ring(geometry, weights)
        self._steps = small_steps(geometry)
        self._small_at = tuple(
            np.repeat(np.arange(part.size), part)[::step]
            for part, step in zip((self._rows, self._columns), self._steps[1:], strict=True)
        )
        self._recountable = recountable
        self._recent: list[LabelArray] = []  # at most two planes, the later one last
        self._waiting: list[LabelArray] = []
        self._slices = 0
        self._blocks: list[_Block] = []
        self._total = _Sums(self._n)
        self._small: list[LabelArray] = []

    def add(self, plane: LabelArray) -> None:
        """Count the next slice (rows, columns)."""
        self._waiting.append(plane)
        if (len(self._waiting) + 1) * plane.size > _BLOCK_PIXELS:
            self._count_waiting()

    def _count_waiting(self) -> None:
        """Count the slices that wait: some at once, since most of them hold little to count."""
        if not self._waiting:
            return
        planes = np.stack([*self._recent, *self._waiting])
        numbers = range(self._slices, self._slices + len(self._waiting))
        block = self._counted_block(planes, numbers)
        if self._recountable:
            self._blocks.append(block)
        else:
            self._include(block)
        self._recent = list(planes[-2:])
        self._waiting = []
        self._slices = numbers.stop

    def _include(self, block: _Block) -> None:
        self._total.add(block.sums)
        self._small += block.small

    def _counted_block(self, planes: LabelArray, numbers: range) -> _Block:
        """Count slices ``numbers``, before which up to two more come in ``planes``."""
        sums = _Sums(self._n)
        own = planes[len(planes) - len(numbers) :]
        small = [
            own[n][np.ix_(*self._small_at)]
            for n, k in enumerate(numbers)
            if k % self._steps[0] == 0
        ]
        if own.max():
            ends = nonzero(own[:, :, :-1] != own[:, :, 1:])
            counted = self._by_runs(own, ends)
            sums.voxels += counted.sum(axis=0)
            if self._slice_ml is not None:
                sums.uneven_ml += self._slice_ml[numbers.start : numbers.stop] @ counted
            for end, outermost in enumerate((0, self._geometry.shape[0] - 1)):
                if outermost in numbers:
                    sums.face(end, self._areas[0] * counted[outermost - numbers.start])
            self._in_plane(own, ends, sums)
        self._between(planes, len(planes) - len(numbers), sums)
        return _Block(numbers, sums, small)

    def _by_runs(self, planes: LabelArray, ends: _Places) -> FloatArray:
        """Voxels by plane and value: there are far fewer ends of runs along rows than voxels."""
        n, rows, columns = ends
        up_to = self._rows[rows] * self._reach[columns]
        last = np.broadcast_to(self._rows * self._reach[-1], planes.shape[:2])
        # Each plane has values of its own.
        of_plane = np.arange(len(planes)) * self._n
        by_plane: FloatArray = np.zeros((len(planes), self._n))
        for values, plane, weights in (
            (planes[n, rows, columns], n, up_to),
            (planes[n, rows, columns + 1], n, -up_to),
            (planes[:, :, -1].ravel(), np.repeat(np.arange(len(planes)), last.shape[1]), last),
        ):
            index = values.astype(np.intp) + of_plane[plane]
            counts = np.bincount(index, weights.ravel(), by_plane.size)
            by_plane += counts.reshape(by_plane.shape)
        by_plane[:, 0] = 0.0
        return by_plane

    def _counted(self, values: LabelArray, weights: IndexArray) -> FloatArray:
        of_values = np.bincount(values.ravel().astype(np.intp), weights.ravel(), self._n)
        counts: FloatArray = of_values.astype(np.float64)
        counts[0] = 0.0
        return counts

    def _in_plane(self, planes: LabelArray, ends: _Places, sums: _Sums) -> None:
        """Faces inside the slices, on their four ends, and on the circle.

        ``ends`` is where along a row a voxel's value is not that of the next.
        """
        sides = ((0, self._areas[1], self._columns), (1, self._areas[2], self._rows))
        for axis, area, along in sides:
            one = planes[:, :-1] if axis == 0 else planes[:, :, :-1]
            other = planes[:, 1:] if axis == 0 else planes[:, :, 1:]
            where = ends if axis == 1 else nonzero(one != other)
            for side in (one, other):
                sums.surface += area * self._counted(side[where], along[where[2 - axis]])
            for end in (0, -1):
                values = planes[:, end] if axis == 0 else planes[:, :, end]
                weights = np.broadcast_to(along, values.shape)
                sums.face(2 + 2 * axis - end, area * self._counted(values, weights))
            rows, columns = self._ring[axis]
            values = planes[:, rows, columns]
            weights = np.broadcast_to(along[(rows, columns)[1 - axis]], values.shape)
            sums.circle += area * self._counted(values, weights)

    def _between(self, planes: LabelArray, before: int, sums: _Sums) -> None:
        """Faces to the slice before, and changes since that and the one before it."""
        for lag in (1, 2):
            first = max(before, lag)
            now, then = planes[first:], planes[first - lag : len(planes) - lag]
            where = nonzero(now != then)
            across = self._rows[where[1]] * self._columns[where[2]]
            sums.changed[lag - 1] += float(across.sum())
            for side in (now, then):
                counted = self._counted(side[where], across)
                sums.changed_of[lag - 1] += counted
                if lag == 1:
                    sums.surface += self._areas[0] * counted

    def survey(
        self,
        changed: Collection[int] = (),
        read: Callable[[int], LabelArray] | None = None,
    ) -> Survey:
        """What has been counted.

        Args:
            changed: Slices that are no longer what they were when they were added; the surveyor
                must be ``recountable``.
            read: Gives a slice as it is now.
        """
        self._count_waiting()
        for block in self._blocks:
            first = max(0, block.numbers.start - 2)
            numbers = range(first, block.numbers.stop)
            if read is not None and any(k in numbers for k in changed):
                planes = np.stack([read(k) for k in numbers])
                block = self._counted_block(planes, block.numbers)
            self._include(block)
        self._blocks = []
        return self._survey(self._total)

    def _survey(self, sums: _Sums) -> Survey:
        edge = np.zeros((self._n, len(FACES)))
        for axis, letter in enumerate(self._geometry.directions):
            for end, own in enumerate((_OPPOSITE[letter], letter)):
                edge[:, FACES.index(_FACE_OF[own])] += sums.edge[2 * axis + end]
        even_ml = sums.voxels * self._geometry.voxel_ml
        near, far = sums.changed.tolist()
        return Survey(
            geometry=self._geometry,
            voxels=sums.voxels,
            volume_ml=even_ml if self._slice_ml is None else sums.uneven_ml,
            surface_mm2=sums.surface,
            edge_mm2=edge,
            circle_mm2=sums.circle,
            changed=(near, far),
            changed_of=(sums.changed_of[0], sums.changed_of[1]),
            small=Small((np.stack(self._small),), small_geometry(self._geometry)),
        )


def _ring(geometry: Geometry, weights: Weights) -> tuple[tuple[IndexArray, IndexArray], ...]:
    """Places (rows, columns) whose next row, or next column, lies across the circle."""
    nowhere = np.zeros(0, np.intp)
    if geometry.directions[0] not in "SI":
        return ((nowhere, nowhere),) * 2
    middles = [np.cumsum(part) - part / 2 for part in (weights.rows, weights.columns)]
    from_centre_mm, radius_mm = _from_centre(geometry, middles[0], middles[1])
    inside = from_centre_mm < radius_mm - CIRCLE_MM
    found = []
    for axis in (0, 1):
        reach = np.zeros_like(inside)
        for shift in (1, -1):
            beyond = np.roll(inside, -shift, axis)
            edge = (-1 if shift == 1 else 0,)
            beyond[edge if axis == 0 else (slice(None), *edge)] = True  # the scan's own edge
            reach |= inside & ~beyond
        found.append(np.nonzero(reach))
    return tuple((one, other) for one, other in found)


def outside_circle(geometry: Geometry) -> IndexArray:
    """Flat places of a slice's pixels outside the circle; none where slices are not axial."""
    if geometry.directions[0] not in "SI":
        return np.zeros(0, np.intp)
    _, rows, columns = geometry.shape
    from_centre_mm, radius_mm = _from_centre(
        geometry, np.arange(rows) + 0.5, np.arange(columns) + 0.5
    )
    return np.flatnonzero(from_centre_mm > radius_mm + max(geometry.spacing_mm[1:]))


def _from_centre(
    geometry: Geometry, rows: npt.NDArray[Any], columns: npt.NDArray[Any]
) -> tuple[FloatArray, float]:
    """Distance of pixels from a slice's centre, in mm, and the circle's radius."""
    _, j_mm, i_mm = geometry.spacing_mm
    height, width = geometry.shape[1:]
    y_mm, x_mm = (rows - height / 2) * j_mm, (columns - width / 2) * i_mm
    return np.hypot(y_mm[:, None], x_mm), min(height * j_mm, width * i_mm) / 2
