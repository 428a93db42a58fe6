"""Slices that are tilted, uneven or have gaps, on one upright grid and back.

Rows and columns of such slices run alike, so a slice is moved by whole pixels within a canvas that
is wide enough for all: tilt becomes a shift from slice to slice. Each of its voxels stays a voxel,
at most half a pixel off its place, and comes back from where it was put. The network sees the
canvas, interpolated between the slices; an even grid, as NIfTI asks for, shows at each plane the
slice that is nearest, so that nothing in it was seen on a slice that does not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.geometry import SAME_GRID_MM, Geometry, ScalarT
from segmate_cli.organs import Organ
from segmate_cli.volume import LabelMap, Labels, LabelValues, Source

# Share of a step by which slices may lie off an even grid that keeps their usual step.
_ON_GRID_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Upright:
    """How the slices of an uneven stack lie on one canvas.

    Attributes:
        slices: Where the slices lie.
        geometry: Of the canvas: the slices' mean step along their normal, no shear.
        steps: (k,) position of each slice along the normal, in mean steps from the first one.
        corners: Row and column of the canvas where each slice's first voxel lies.
    """

    slices: Geometry
    geometry: Geometry
    steps: npt.NDArray[np.float64]
    corners: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, geometry: Geometry) -> Upright:
        """Lay slices on a canvas."""
        places = np.asarray(geometry.places_mm)
        along = (places - places[0]) @ geometry.normal
        # Sideways, in pixels of rows and columns.
        pixels = (places - places[0]) @ np.linalg.pinv(geometry.affine[:3, 1:3]).T
        corners = np.rint(pixels).astype(np.intp)
        least = corners.min(axis=0)
        count, rows, columns = geometry.shape
        extra = corners.max(axis=0) - least
        affine = geometry.affine.copy()
        affine[:3, 0] = geometry.normal * along[-1] / (count - 1)
        affine[:3, 3] = places[0] + affine[:3, 1:3] @ least
        return cls(
            slices=geometry,
            geometry=Geometry(affine, (count, rows + int(extra[0]), columns + int(extra[1]))),
            steps=along / along[-1] * (count - 1),
            corners=tuple((int(row), int(column)) for row, column in corners - least),
        )

    def put(self, k: int, plane: npt.NDArray[ScalarT], outside: int) -> npt.NDArray[ScalarT]:
        """Slice k on the canvas, with ``outside`` around it."""
        canvas = np.full(self.geometry.shape[1:], outside, dtype=plane.dtype)
        self.take(k, canvas)[...] = plane
        return canvas

    def take(self, k: int, canvas: npt.NDArray[ScalarT]) -> npt.NDArray[ScalarT]:
        """Slice k from the canvas; a view."""
        (row, column), (_, rows, columns) = self.corners[k], self.slices.shape
        return canvas[row : row + rows, column : column + columns]

    def put_all(
        self, planes: Iterable[npt.NDArray[ScalarT]], outside: int
    ) -> Iterator[npt.NDArray[ScalarT]]:
        """All slices on the canvas, one after the other."""
        return (self.put(k, plane, outside) for k, plane in enumerate(planes))

    @property
    def even(self) -> EvenGrid:
        """The even grid of the canvas: with the usual step where that fits, else the least one."""
        count = len(self.steps)
        apart = np.diff(self.steps)
        planes = int(np.rint(self.steps[-1] / np.median(apart)))
        step = self.steps[-1] / planes
        nearest = np.rint(self.steps / step)
        fits = np.abs(self.steps / step - nearest).max() <= _ON_GRID_SHARE
        if not fits or len(set(nearest)) < count:
            step = float(apart.min())
            # Half a step may be short of the last slice, but no more: it needs a plane, too.
            planes = int(np.floor(self.steps[-1] / step + 0.5 + 1e-6))
        middles = (self.steps[:-1] + self.steps[1:]) / 2
        slices = np.searchsorted(middles, np.arange(planes + 1) * step, side="right")
        affine = self.geometry.affine.copy()
        affine[:3, 0] *= step
        geometry = Geometry(affine, (planes + 1, *self.geometry.shape[1:]))
        return EvenGrid(self, geometry, tuple(int(k) for k in slices))


@dataclass(frozen=True, slots=True)
class EvenGrid:
    """An even grid over uneven slices.

    Attributes:
        upright: The canvas.
        geometry: Of the grid.
        slices: For each of its planes the slice that is nearest, ascending; each slice occurs.
    """

    upright: Upright
    geometry: Geometry
    slices: tuple[int, ...]

    def planes(
        self, slices: Iterable[npt.NDArray[ScalarT]], outside: int = 0
    ) -> Iterator[npt.NDArray[ScalarT]]:
        """The grid's planes, from the slices k = 0, 1, ..."""
        source = enumerate(self.upright.put_all(slices, outside))
        k, canvas = next(source)
        for wanted in self.slices:
            while k < wanted:
                k, canvas = next(source)
            yield canvas
        for _ in source:
            pass

    def back(self, planes: npt.NDArray[ScalarT]) -> npt.NDArray[ScalarT]:
        """The slices, from all of the grid's planes."""
        found = np.empty(self.upright.slices.shape, dtype=planes.dtype)
        for plane, k in enumerate(self.slices):
            found[k] = self.upright.take(k, planes[plane])
        return found


@dataclass(frozen=True, slots=True)
class EvenLabels:
    """A label map of uneven slices, on the even grid over them; a ``LabelMap``."""

    labels: LabelMap
    grid: EvenGrid

    @property
    def geometry(self) -> Geometry:
        """Of the even grid."""
        return self.grid.geometry

    @property
    def organs(self) -> dict[int, Organ]:
        """See LabelMap."""
        return self.labels.organs

    @property
    def source(self) -> Source | None:
        """See LabelMap."""
        return self.labels.source

    @property
    def run(self) -> dict[str, Any] | None:
        """See LabelMap."""
        return self.labels.run

    @property
    def dtype(self) -> np.dtype[Any]:
        """See LabelMap."""
        return self.labels.dtype

    def planes(self) -> Iterator[LabelValues]:
        """See LabelMap."""
        return self.grid.planes(self.labels.planes())


def evened(labels: LabelMap) -> LabelMap:
    """A label map as a file of an even grid holds it: itself, unless its slices are uneven."""
    if labels.geometry.places_mm is None:
        return labels
    return EvenLabels(labels, Upright.of(labels.geometry).even)


def on_slices(labels: Labels, slices: Geometry | None) -> Labels:
    """Put a label map back on the uneven slices that it was made of.

    Args:
        labels: What a file held: an even grid over the slices, or the slices themselves, of which
            the file knows the places of those alone that have labels.
        slices: Where the slices lie. None, an even stack, and slices of another label map change
            nothing.
    """
    if slices is None or slices.places_mm is None:
        return labels
    values = labels.values
    if not _lies_on(labels, slices):
        grid = Upright.of(slices).even
        if not grid.geometry.same_as(labels.geometry):
            return labels
        values = grid.back(values)
    return Labels(values, slices, labels.organs, labels.source, labels.run)


def _lies_on(labels: Labels, slices: Geometry) -> bool:
    """Whether all that is labelled lies on the slices, whatever is known of the empty ones."""
    if labels.geometry.shape != slices.shape:
        return False
    used = [k for k, plane in enumerate(labels.values) if plane.any()]
    corners = np.array(
        [(k, j, i) for k in used for j in (0, slices.shape[1]) for i in (0, slices.shape[2])]
    )
    off = labels.geometry.to_lps_mm(corners) - slices.to_lps_mm(corners)
    return bool(np.linalg.norm(off, axis=-1).max(initial=0.0) < SAME_GRID_MM)
