"""Connected components of a label volume that is never in memory as a whole.

Planes come in slabs; each slab is labelled for itself together with the last plane of the one
before, and components that meet in that plane are one (union-find). So memory is that of a slab,
however many planes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Uint8Array = npt.NDArray[np.uint8]
PartArray = npt.NDArray[Any]

_SLAB_PLANES = 8


class Components:
    """Components of equal value other than 0, numbered from 1 in the order in which they begin.

    Attributes:
        sizes: Voxels of each component; 0 at number 0 and at numbers that have become another.
        values: The value that each component has.
    """

    def __init__(
        self, read: Callable[[int], Uint8Array], planes: range, connectivity: Literal[6, 26]
    ) -> None:
        """Find them.

        Args:
            read: Gives a plane; called twice for each, with the same answer.
            planes: Their numbers.
            connectivity: Voxels that touch by a face, or by a corner.
        """
        self._read = read
        self._planes = planes
        self._connectivity = connectivity
        self._parent = [0]
        sizes, values = [np.zeros(1, np.intp)], [np.zeros(1, np.uint8)]
        before: PartArray | None = None
        for _, slab, parts, count in self._slabs():
            offset = len(self._parent) - 1
            self._parent += range(offset + 1, offset + count + 1)
            if before is not None:
                self._join(before, parts[0], offset)
            before = np.where(parts[-1] > 0, parts[-1].astype(np.intp) + offset, 0)
            own_sizes, own_values = _count(slab, parts[len(parts) - len(slab) :], count)
            sizes.append(own_sizes)
            values.append(own_values)
        self._roots = np.array([self._root(part) for part in range(len(self._parent))])
        self.sizes = np.zeros(len(self._parent), np.intp)
        np.add.at(self.sizes, self._roots, np.concatenate(sizes))
        self.values = np.concatenate(values)

    def chosen(self, keep: npt.NDArray[np.bool_]) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
        """Yield each plane's number and where it holds components that ``keep`` says True of."""
        wanted = keep[self._roots]
        wanted[0] = False
        offset = 0
        for numbers, slab, parts, count in self._slabs():
            own = np.concatenate((wanted[:1], wanted[offset + 1 : offset + count + 1]))
            for n, plane in zip(numbers, parts[len(parts) - len(slab) :], strict=True):
                yield n, own[plane]
            offset += count

    def _slabs(self) -> Iterator[tuple[range, Uint8Array, PartArray, int]]:
        """Numbers of a slab's planes, its planes, and components of these and the plane before."""
        import cc3d

        last: list[Uint8Array] = []
        for start in range(0, len(self._planes), _SLAB_PLANES):
            numbers = self._planes[start : start + _SLAB_PLANES]
            slab = np.stack([self._read(n) for n in numbers])
            parts, count = cc3d.connected_components(
                np.concatenate([*last, slab]), connectivity=self._connectivity, return_N=True
            )
            yield numbers, slab, parts, int(count)
            last = [slab[-1:]]

    def _join(self, before: PartArray, after: PartArray, offset: int) -> None:
        # Both: a run goes on from the end of a row to the next, where the numbers may part ways.
        starts = np.union1d(_run_starts(before), _run_starts(after))
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
    starts = _run_starts(parts)
    lengths = np.diff(starts, append=parts.size)
    numbers = parts.flat[starts]
    sizes = np.bincount(numbers, weights=lengths, minlength=count + 1).astype(np.intp)
    values = np.zeros(count + 1, np.uint8)
    values[numbers] = slab.flat[starts]
    return sizes[1:], values[1:]


def _run_starts(parts: PartArray) -> npt.NDArray[np.intp]:
    """Where, along an array in its order, a number follows another; the first place, too."""
    flat = parts.reshape(-1)
    return np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
