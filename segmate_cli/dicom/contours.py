"""Outlines of masks as closed polygons, and back: what RTSTRUCT is made of.

Points are (row, column) in pixels, whole numbers at pixel centres. Nothing here knows DICOM.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import contourpy
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]

# Half way between a pixel inside and one outside, where every reader finds the same centres
# inside; and a hair less, so that readers which round points to pixels find those inside.
_LEVEL = 0.52
# Contours through half-way points lose half a pixel of area each, much for a small spot; those
# follow the pixels' edges, with corners cut by so much that nothing touches itself.
_AREA_SHARE = 0.01
_CORNER_PIXELS = 1 / 32
_STRAIGHT = 1e-9


def outlines(mask: Mask) -> list[Points]:
    """Closed polygons (n, 2), n >= 3, around what is true in a mask (rows, columns).

    A hole is joined to the contour around it by a seam without width ("keyhole", PS3.3
    C.8.8.6.3), so each polygon stands for itself and no reader needs to know of holes. Their
    area differs from the pixels' by 1 % at most.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    found = _smooth(part)
    pixels = np.count_nonzero(part)
    if abs(sum(map(area, found)) - pixels) > _AREA_SHARE * pixels:
        found = _along_edges(part)
    corner = np.array([rows[0], columns[0]], dtype=np.float64)
    return [polygon + corner for polygon in found]


def area(polygon: Points) -> float:
    """Area that a polygon encloses, in pixels; holes behind a seam do not count."""
    row, column = polygon.T
    return abs(float(row @ np.roll(column, -1) - column @ np.roll(row, -1))) / 2


def fill(polygons: Sequence[Points], shape: tuple[int, int]) -> Mask:
    """Mask (rows, columns) of the pixels whose centres lie inside; what lies in two is outside.

    So holes are holes whether they hang on a seam or are contours of their own.
    """
    starts = np.concatenate(polygons)
    ends = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    low, high = np.minimum(starts[:, 0], ends[:, 0]), np.maximum(starts[:, 0], ends[:, 0])
    first = np.clip(np.ceil(low), 0, shape[0]).astype(np.intp)
    # An end on a pixel's row belongs to one of the two edges that meet there.
    counts = np.clip(np.ceil(high), 0, shape[0]).astype(np.intp) - first
    edge = np.repeat(np.arange(len(starts)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    share = (row - starts[edge, 0]) / (ends[edge, 0] - starts[edge, 0])
    crossing = starts[edge, 1] + share * (ends[edge, 1] - starts[edge, 1])
    column = np.clip(np.ceil(crossing), 0, shape[1]).astype(np.intp)
    inside: Mask = np.zeros(shape, dtype=np.bool_)
    if not row.size:
        return inside
    # Only the box around the polygons is looked at, and whether crossings are odd.
    top, left = int(row.min()), int(column.min())
    crossed = np.zeros((int(row.max()) + 1 - top, int(column.max()) + 1 - left), dtype=np.uint8)
    np.add.at(crossed, (row - top, column - left), 1)
    odd = np.bitwise_xor.accumulate(crossed & 1, axis=1)[:, :-1]
    inside[top : top + odd.shape[0], left : left + odd.shape[1]] = odd
    return inside


def _smooth(mask: Mask) -> list[Points]:
    padded = np.pad(mask, 1).astype(np.float64)
    rows, columns = (np.arange(size, dtype=np.float64) - 1.0 for size in padded.shape)
    return _polygons(padded, rows, columns)


def _along_edges(mask: Mask) -> list[Points]:
    """Each pixel as four points close to its corners, so that contours run along its edges."""
    doubled = np.pad(mask, 1).repeat(2, axis=0).repeat(2, axis=1).astype(np.float64)
    inset = 0.5 - _CORNER_PIXELS
    rows, columns = (
        (np.arange(size + 2)[:, None] - 1 + np.array([-inset, inset])).reshape(-1)
        for size in mask.shape
    )
    return _polygons(doubled, rows, columns)


def _polygons(values: Points, rows: Points, columns: Points) -> list[Points]:
    lines = contourpy.contour_generator(
        columns, rows, values, name="serial", fill_type=contourpy.FillType.OuterOffset
    )
    polygons = []
    for points, offsets in zip(*lines.filled(_LEVEL, 2.0), strict=True):
        # The last point of each ring repeats the first.
        rings = [points[a : b - 1, ::-1] for a, b in itertools.pairwise(offsets)]
        polygons.append(_without_straight_points(_keyholed(rings[0], rings[1:])))
    return polygons


def _keyholed(ring: Points, holes: list[Points]) -> Points:
    """A contour with its holes joined to it, the nearest first, at the nearest points."""
    nearest = [_nearest(ring, hole) for hole in holes]
    while holes:
        n = int(np.argmin([distance for distance, _, _ in nearest]))
        hole, (_, at, begin) = holes.pop(n), nearest.pop(n)
        inner = np.roll(hole, -begin, axis=0)
        ring = np.concatenate([ring[: at + 1], inner, inner[:1], ring[at:]])
        for other, (distance, before, to) in enumerate(nearest):
            shifted = before + len(inner) + 2 if before > at else before
            nearest[other] = (distance, shifted, to)
            closer = _nearest(inner, holes[other])
            if closer[0] < distance:
                nearest[other] = (closer[0], at + 1 + closer[1], closer[2])
    return ring


def _nearest(ring: Points, hole: Points) -> tuple[float, int, int]:
    """(distance, index into the ring, index into the hole) of the two closest points."""
    apart = (ring**2).sum(axis=1)[:, None] - 2.0 * (ring @ hole.T) + (hole**2).sum(axis=1)
    at, begin = np.unravel_index(int(apart.argmin()), apart.shape)
    return float(apart[at, begin]), int(at), int(begin)


def _without_straight_points(ring: Points) -> Points:
    """Drop points that lie between their neighbours on a line."""
    ahead = np.roll(ring, -1, axis=0) - ring
    behind = np.roll(ahead, 1, axis=0)
    cross = ahead[:, 0] * behind[:, 1] - ahead[:, 1] * behind[:, 0]
    turns = (np.abs(cross) > _STRAIGHT) | ((ahead * behind).sum(axis=1) < 0)
    kept: Points = ring[turns]
    return kept
