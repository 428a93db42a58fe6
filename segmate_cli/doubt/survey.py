"""Evidence about a label map, gathered slice by slice: surfaces, edges, a small copy.

Nothing here grows with the voxels: counts by value, and a copy of every n-th voxel, some 5 mm
apart. A label map on the model's grid stands for the scan's voxels by weights, how many of them
each row and column has, so that what is counted is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.doubt.words import FACES
from segmate_cli.geometry import Geometry

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.intp]
LabelArray = npt.NDArray[np.unsignedinteger[Any]]

# Distance between the voxels of the small copy. A kidney has a thousand of them.
SMALL_MM = 5.0
# How near to the reconstruction circle a mask ends that is cut by it: the model's voxel and a half.
CIRCLE_MM = 3.0
_FACE_OF = dict(zip("SILRAP", FACES, strict=True))
_OPPOSITE = dict(zip("SILRAP", "ISRLPA", strict=True))


@dataclass(frozen=True, slots=True)
class Small:
    """Every n-th voxel of a scan.

    Attributes:
        labels: (k, j, i) label values.
        geometry: Where they lie.
    """

    labels: LabelArray
    geometry: Geometry


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
        small: A small copy.
    """

    geometry: Geometry
    voxels: FloatArray
    volume_ml: FloatArray
    surface_mm2: FloatArray
    edge_mm2: FloatArray
    circle_mm2: FloatArray
    changed: tuple[float, float]
    small: Small


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


class Surveyor:
    """Adds up a Survey as the slices k = 0, 1, ... of a label map go by.

    Args:
        geometry: The scan's.
        highest: Largest label value.
        weights: What the planes' rows and columns stand for; None for the scan's own.
    """

    def __init__(self, geometry: Geometry, highest: int, weights: Weights | None = None) -> None:
        self._geometry = geometry
        self._n = highest + 1
        weights = weights or Weights.ones(geometry)
        self._rows, self._columns = weights.rows, weights.columns
        self._reach = np.cumsum(weights.columns)  # of the scan's columns, up to each one's end
        k_mm, j_mm, i_mm = geometry.spacing_mm
        # Areas of a voxel's faces across k, j and i.
        self._areas = (j_mm * i_mm, k_mm * i_mm, k_mm * j_mm)
        self._voxels = np.zeros(self._n)
        self._slice_ml = None if geometry.places_mm is None else geometry.slice_voxel_ml
        self._uneven_ml = np.zeros(self._n)
        self._surface = np.zeros(self._n)
        self._edge = np.zeros((6, self._n))  # low and high end of k, j and i
        self._circle = np.zeros(self._n)
        self._ring = _ring(geometry, weights)
        self._changed = [0.0, 0.0]
        self._recent: list[LabelArray] = []
        self._steps = small_steps(geometry)
        self._small: list[LabelArray] = []
        self._small_at = tuple(
            np.repeat(np.arange(part.size), part)[::step]
            for part, step in zip((self._rows, self._columns), self._steps[1:], strict=True)
        )
        self._slices = 0

    def add(self, plane: LabelArray) -> None:
        """Count the next slice (rows, columns)."""
        k = self._slices
        if k % self._steps[0] == 0:
            self._small.append(plane[np.ix_(*self._small_at)])
        if plane.max():
            ends = _where(plane[:, :-1] != plane[:, 1:])
            counted = self._by_runs(plane, *ends)
            self._voxels += counted
            if self._slice_ml is not None:
                self._uneven_ml += counted * self._slice_ml[k]
            for end, outermost in enumerate((0, self._geometry.shape[0] - 1)):
                if k == outermost:
                    self._face(end, self._areas[0] * counted)
            self._in_plane(plane, ends)
        self._between(plane)
        self._recent = [plane, *self._recent[:1]]
        self._slices += 1

    def _by_runs(self, plane: LabelArray, rows: IndexArray, columns: IndexArray) -> FloatArray:
        """Voxels of each value: there are far fewer ends of runs along rows than voxels."""
        up_to = self._rows[rows] * self._reach[columns]
        ended = self._counted(plane[rows, columns], up_to)
        begun = self._counted(plane[rows, columns + 1], up_to)
        return ended - begun + self._counted(plane[:, -1], self._rows * self._reach[-1])

    def _counted(self, values: LabelArray, weights: IndexArray) -> FloatArray:
        counts = np.bincount(values.astype(np.intp), weights, self._n).astype(np.float64)
        counts[0] = 0.0
        return counts

    def _in_plane(self, plane: LabelArray, ends: tuple[IndexArray, IndexArray]) -> None:
        """Faces inside the slice, on its four ends, and on the circle.

        ``ends`` is where along a row a voxel's value is not that of the next.
        """
        sides = ((0, self._areas[1], self._columns), (1, self._areas[2], self._rows))
        for axis, area, along in sides:
            one, other = (plane[:-1], plane[1:]) if axis == 0 else (plane[:, :-1], plane[:, 1:])
            where = ends if axis == 1 else _where(one != other)
            for side in (one, other):
                self._surface += area * self._counted(side[where], along[where[1 - axis]])
            for end in (0, -1):
                values = plane[end] if axis == 0 else plane[:, end]
                self._face(2 + 2 * axis - end, area * self._counted(values, along))
            rows, columns = self._ring[axis]
            at = (rows, columns)[1 - axis]
            self._circle += area * self._counted(plane[rows, columns], along[at])

    def _face(self, face: int, area_mm2: FloatArray) -> None:
        self._edge[face] += area_mm2
        self._surface += area_mm2

    def _between(self, plane: LabelArray) -> None:
        """Faces to the slice before, and changes since that and the one before it."""
        for lag, before in enumerate(self._recent):
            where = _where(plane != before)
            across = self._rows[where[0]] * self._columns[where[1]]
            self._changed[lag] += float(across.sum())
            if lag == 0:
                for side in (plane, before):
                    self._surface += self._areas[0] * self._counted(side[where], across)

    def survey(self) -> Survey:
        """What has been counted."""
        edge = np.zeros((self._n, len(FACES)))
        for axis, letter in enumerate(self._geometry.directions):
            for end, own in enumerate((_OPPOSITE[letter], letter)):
                edge[:, FACES.index(_FACE_OF[own])] += self._edge[2 * axis + end]
        even_ml = self._voxels * self._geometry.voxel_ml
        return Survey(
            geometry=self._geometry,
            voxels=self._voxels,
            volume_ml=even_ml if self._slice_ml is None else self._uneven_ml,
            surface_mm2=self._surface,
            edge_mm2=edge,
            circle_mm2=self._circle,
            changed=(self._changed[0], self._changed[1]),
            small=Small(np.stack(self._small), small_geometry(self._geometry)),
        )


def _where(plane: npt.NDArray[Any]) -> tuple[IndexArray, IndexArray]:
    """``np.nonzero``, at a third of its time for a plane."""
    rows, columns = np.divmod(np.flatnonzero(plane), plane.shape[1])
    return rows, columns


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
