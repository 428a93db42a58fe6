"""Where the phantom is sampled, and what a shape is.

A shape is a signed distance in millimetres (negative inside), good near its surface, sampled on a
`Grid`. Coordinates are those of a patient in LPS: x to the Left, y to Posterior, z to Superior;
arrays are (k, j, i) = (slice, row, column). Every shape knows the box that holds it, so that a
small organ costs nothing elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float32]
Vector: TypeAlias = tuple[float, float, float]
Window: TypeAlias = tuple[slice, slice, slice]

FAR_MM = 1e4
"""Stands for 'outside, nowhere near' in a distance, and for an unbounded side of a box."""


@dataclass(frozen=True, slots=True)
class Box:
    """Millimetre bounds of a shape; `low` and `high` are (x, y, z)."""

    low: Vector = (-FAR_MM, -FAR_MM, -FAR_MM)
    high: Vector = (FAR_MM, FAR_MM, FAR_MM)

    def grown(self, mm: float) -> Box:
        """Return this box with every side moved outwards by `mm`."""
        x, y, z = self.low
        u, v, w = self.high
        return Box((x - mm, y - mm, z - mm), (u + mm, v + mm, w + mm))

    def joined(self, other: Box) -> Box:
        """Return the smallest box that holds both."""
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return box_of(low, high)

    def met(self, other: Box) -> Box:
        """Return what the two boxes share (an empty one where they do not meet)."""
        low, high = np.maximum(self.low, other.low), np.minimum(self.high, other.high)
        return box_of(low, high)


def box_of(low: npt.NDArray[np.floating], high: npt.NDArray[np.floating]) -> Box:
    """Return the box between two corners given as arrays."""
    return Box(
        (float(low[0]), float(low[1]), float(low[2])),
        (float(high[0]), float(high[1]), float(high[2])),
    )


@dataclass(frozen=True, slots=True)
class Grid:
    """Sample points of a slab of slices, or of a window of it.

    Attributes:
        xs, ys, zs: Positions in mm along columns, rows and slices.
        x, y: The same positions (k, j, i) after the patient's own slow deformation.
        slack_mm: The largest deformation; boxes are widened by it.
        slab: The whole slab if this is a window of it, else None.
        window: Where in that slab this window lies.
        cache: Distances of `Shared` shapes on the whole slab.
    """

    xs: Array
    ys: Array
    zs: Array
    x: Array
    y: Array
    slack_mm: float
    slab: Grid | None = None
    window: Window = (slice(None), slice(None), slice(None))
    cache: dict[int, Array] = field(default_factory=dict)

    @property
    def z(self) -> Array:
        """Slice positions, shaped to be used with x and y."""
        return self.zs[:, None, None]

    def inside(self, box: Box) -> Grid | None:
        """Return the window of this grid that holds `box`, or None if they do not meet."""
        mine = []
        for axis, (at, slack) in enumerate(
            ((self.xs, self.slack_mm), (self.ys, self.slack_mm), (self.zs, 0.0))
        ):
            first = int(np.searchsorted(at, box.low[axis] - slack))
            last = int(np.searchsorted(at, box.high[axis] + slack, side="right"))
            if first >= last:
                return None
            mine.append(slice(first, last))
        i, j, k = mine
        base = [s.start or 0 for s in self.window]
        window = tuple(slice(b + s.start, b + s.stop) for b, s in zip(base, (k, j, i), strict=True))
        return Grid(
            self.xs[i],
            self.ys[j],
            self.zs[k],
            self.x[k, j, i],
            self.y[k, j, i],
            self.slack_mm,
            self.slab or self,
            (window[0], window[1], window[2]),
            self.cache,
        )


class Shape(Protocol):
    """Anything with a box and a signed distance."""

    @property
    def box(self) -> Box:
        """Bounds in mm."""

    def distance(self, grid: Grid) -> Array:
        """Return the signed distance in mm at the points of `grid`, (k, j, i)."""


def smooth_max(a: Array, b: Array, reach_mm: float) -> Array:
    """Return the maximum of two distances with a rounded seam of about `reach_mm`."""
    if reach_mm <= 0:
        hard: Array = np.maximum(a, b)
        return hard
    seam: Array = np.maximum(reach_mm - np.abs(a - b), 0)
    seam *= seam
    seam *= 0.25 / reach_mm
    seam += np.maximum(a, b)
    return seam
