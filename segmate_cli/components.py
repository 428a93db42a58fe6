"""Connected components of a label volume that is never in memory as a whole.

Planes come in slabs; each slab is labelled for itself together with the last plane of the one
before, and components that meet in that plane are one (union-find). So memory is that of a slab,
however many planes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Uint8Array = npt.NDArray[np.uint8]
PartArray = npt.NDArray[Any]

_SLAB_PLANES = 8


@dataclass(frozen=True, slots=True)
class _Slab:
    """Some planes and their components; arrays are cut to a box outside of which all is 0.

    Attributes:
        numbers: Of the planes.
        box: Rows and columns.
        planes: Values, (planes, rows, columns).
        parts: Numbers of components from 1, of the same shape.
        before: Numbers in the plane before the first, (rows, columns); None where there is none.
        last: Values of the last plane, not cut.
        count: How many components there are.
    """

    numbers: range
    box: tuple[slice, slice]
    planes: Uint8Array
    parts: PartArray
    before: PartArray | None
    last: Uint8Array
    count: int


class Components:
    """Components of equal value other than 0, numbered from 1 in the order in which they begin.

    They are found as the planes come, by ``advance``; after ``finish`` they are known.

    Attributes:
        sizes: Voxels of each component; 0 at number 0 and at numbers that have become another.
        values: The value that each component has.
    """

    def __init__(
        self, read: Callable[[int], Uint8Array], planes: range, connectivity: Literal[6, 26]
    ) -> None:
        """Begin to find them.

        Args:
            read: Gives a plane; called more than once for some, with the same answer.
            planes: Their numbers.
            connectivity: Voxels that touch by a face, or by a corner.
        """
        self._read = read
        self._planes = planes
        self._connectivity = connectivity
        self._parent = [0]
        # Of each slab: the number before its first component, and how many it has.
        self._spans: list[tuple[int, int]] = []
        self._last = np.zeros((0, 0), np.intp)
        self._plane_before: Uint8Array | None = None
        self._found: list[tuple[npt.NDArray[np.intp], Uint8Array]] = []
        self.sizes = np.zeros(1, np.intp)
        self.values = np.zeros(1, np.uint8)

    def advance(self, there: int) -> None:
        """Go on through the slabs of which all planes, the first ``there`` of all, can be read."""
        while (start := len(self._spans) * _SLAB_PLANES) < len(self._planes):
            if min(start + _SLAB_PLANES, len(self._planes)) > there:
                return
            self._take(self._slab(start, self._plane_before))

    def finish(self) -> Components:
        """Go through all that is left; gives itself."""
        self.advance(len(self._planes))
        self._roots = np.array([self._root(part) for part in range(len(self._parent))])
        sizes, values = zip((self.sizes, self.values), *self._found, strict=True)
        self.sizes = np.zeros(len(self._parent), np.intp)
        np.add.at(self.sizes, self._roots, np.concatenate(sizes))
        self.values = np.concatenate(values)
        self._plane_before, self._found = None, []
        return self

    def _take(self, slab: _Slab) -> None:
        offset = len(self._parent) - 1
        self._parent += range(offset + 1, offset + slab.count + 1)
        self._spans.append((offset, slab.count))
        if slab.before is not None:
            self._join(self._last[slab.box], slab.before, offset)
        self._last = np.zeros(slab.last.shape, np.intp)
        own = slab.parts[-1].astype(np.intp)
        self._last[slab.box] = np.where(own > 0, own + offset, 0)
        self._found.append(_count(slab.planes, slab.parts, slab.count))
        self._plane_before = slab.last

    def chosen(self, keep: npt.NDArray[np.bool_]) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
        """Yield a plane's number and where it holds components that ``keep`` says True of.

        Planes far from any such component are left out. Planes that were yielded may be changed.
        """
        wanted = keep[self._roots]
        wanted[0] = False
        slab: _Slab | None = None
        for n, (offset, count) in enumerate(self._spans):
            own = np.concatenate((wanted[:1], wanted[offset + 1 : offset + count + 1]))
            if not own.any():
                slab = None
                continue
            slab = self._slab(n * _SLAB_PLANES, slab.last if slab else None)
            for number, plane in zip(slab.numbers, slab.parts, strict=True):
                found = np.zeros(slab.last.shape, np.bool_)
                found[slab.box] = own[plane]
                yield number, found

    def _slab(self, start: int, plane_before: Uint8Array | None) -> _Slab:
        """The slab that begins with a plane; the one before it is read if it is not given."""
        import cc3d

        numbers = self._planes[start : start + _SLAB_PLANES]
        before = []
        if start:
            last = self._planes[start - 1]
            before = [self._read(last) if plane_before is None else plane_before]
        whole = np.stack([*before, *map(self._read, numbers)])
        box = _box(whole)
        planes = np.ascontiguousarray(whole[:, box[0], box[1]])
        parts, count = np.zeros(planes.shape, np.uint16), 0
        if planes.size:
            parts, count = cc3d.connected_components(
                planes, connectivity=self._connectivity, return_N=True
            )
        own = slice(len(before), None)
        before_parts = parts[0] if before else None
        last = whole[-1].copy()
        return _Slab(numbers, box, planes[own], parts[own], before_parts, last, int(count))

    def _join(self, before: PartArray, after: PartArray, offset: int) -> None:
        # Both: a run goes on from the end of a row to the next, where the numbers may part ways.
        if not before.size:
            return
        starts = np.flatnonzero(_changes(before) | _changes(after))
        pairs = zip(before.flat[starts].tolist(), after.flat[starts].tolist(), strict=True)
        for one, other in set(pairs) - {(0, 0)}:
            first, second = sorted((self._root(one), self._root(offset + other)))
            self._parent[second] = first

    def _root(self, part: int) -> int:
        while self._parent[part] != part:
            self._parent[part] = self._parent[self._parent[part]]
            part = self._parent[part]
        return part


def _count(
    slab: Uint8Array, parts: PartArray, count: int
) -> tuple[npt.NDArray[np.intp], Uint8Array]:
    """Voxels and value of each part, by runs of voxels, which are far fewer than voxels."""
    if not parts.size:
        return np.zeros(0, np.intp), np.zeros(0, np.uint8)
    starts = _run_starts(parts)
    lengths = np.diff(starts, append=parts.size)
    numbers = parts.flat[starts]
    sizes = np.bincount(numbers, weights=lengths, minlength=count + 1).astype(np.intp)
    values = np.zeros(count + 1, np.uint8)
    values[numbers] = slab.flat[starts]
    return sizes[1:], values[1:]


def _box(planes: Uint8Array) -> tuple[slice, slice]:
    """Rows and columns in which any plane holds something; of no extent where none does."""
    held = np.bitwise_or.reduce(planes, axis=0)
    rows, columns = (np.flatnonzero(held.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _run_starts(parts: PartArray) -> npt.NDArray[np.intp]:
    """Where, along an array in its order, a number follows another; the first place, too."""
    return np.flatnonzero(_changes(parts))


def _changes(parts: PartArray) -> npt.NDArray[np.bool_]:
    flat = parts.reshape(-1)
    out = np.ones(flat.size, np.bool_)
    np.not_equal(flat[1:], flat[:-1], out=out[1:])
    return out
