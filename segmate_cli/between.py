"""Labels of the scan's own slices, interpolated in score space between the model's.

A scan's slices mostly lie closer than the model's. Taking the nearest label leaves stairs; here the
logits of the two neighbouring slices are mixed by distance, and the label is decided from those. A
scan that is stored coronally or sagittally has its slices between the model's rows or columns:
there the logits of the two neighbouring ones are mixed as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segmate_cli.masks import IndexArray, nonzero
from segmate_cli.planes import Uint8Array
from segmate_cli.resample import ModelGrid

FloatArray = npt.NDArray[np.float32]
# Labels (N, H, W) of logits (N, channels, H, W).
Decide = Callable[[FloatArray], Uint8Array]


@dataclass(frozen=True, slots=True)
class ScoredSlice:
    """One of the model's slices after the network.

    Attributes:
        number: Along the model's slice axis.
        labels: (rows, columns).
        logits: (channels, rows, columns) that the labels were decided from.
        highest: (channels,) what none of them is over; None where that is not known.
    """

    number: int
    labels: Uint8Array
    logits: FloatArray
    highest: FloatArray | None = None


def scan_slices(
    scored: Iterator[ScoredSlice], grid: ModelGrid, stride: int, decide: Decide
) -> Iterator[tuple[int, Uint8Array]]:
    """Yield (k, labels) for the scan's slices across the model's slice axis.

    The labels have the model's rows and columns but, along the axis on which the scan's slices are
    stored where that is one of these, a row or column for each stored slice: as
    ``ModelGrid.at_scan_slices`` says.

    Args:
        scored: Every ``stride``-th of the model's slices, in the grid's order; all are taken.
        grid: How they lie on the scan. ``k`` counts along the model's slice axis.
        stride: How many of the model's slices one step is.
        decide: Settles labels.
    """
    last = (grid.shape[0] - 1) // stride
    ks = range(grid.source_shape[0])
    recent: dict[int, ScoredSlice] = {}
    gap: _Gap | None = None
    places = grid.places.get(0, np.asarray(ks))
    lines = None if grid.streams else _Lines.of(grid)
    for k in reversed(ks) if grid.descending else ks:
        at = (float(places[k]) / grid.steps[0] - grid.offset) / stride
        at = min(max(at, 0.0), last)
        low = int(at)
        part = np.float32(at - low)
        wanted = {low, low + 1} if part else {low}
        recent = {n: each for n, each in recent.items() if n in wanted}
        while not wanted <= recent.keys():
            each = next(scored)
            if each.number // stride in wanted:
                recent[each.number // stride] = each
        if lines:
            yield k, lines.mix(recent[low], recent[low + 1 if part else low], part, decide)
            continue
        if not part:
            yield k, recent[low].labels
            continue
        if gap is None or gap.low != low:  # the scan's slices lie closer: several in one gap
            gap = _Gap.between(low, recent[low], recent[low + 1])
        yield k, gap.mixed(part, decide)
    for _ in scored:  # those beyond the scan's last slice
        pass


@dataclass(frozen=True, slots=True)
class _Gap:
    """Two neighbours among the model's slices, and where they differ.

    Where both agree every mixture does: a logit that is the largest, or over its threshold, in both
    is so in between. That leaves some hundreds of voxels to be decided.

    Attributes:
        low: Which step of the model's slices the gap follows.
        labels: (rows, columns) of the slice below.
        rows: Of the voxels that differ.
        columns: Of the same.
        under: (channels, voxels) logits there of the slice below.
        over: The same of the slice above.
    """

    low: int
    labels: Uint8Array
    rows: IndexArray
    columns: IndexArray
    under: FloatArray
    over: FloatArray

    @classmethod
    def between(cls, low: int, below: ScoredSlice, above: ScoredSlice) -> _Gap:
        rows, columns = nonzero(below.labels != above.labels)
        under, over = (each.logits[:, rows, columns] for each in (below, above))
        return cls(low, below.labels, rows, columns, under, over)

    def mixed(self, part: np.float32, decide: Decide) -> Uint8Array:
        """Labels at a part of the way from the slice below to the one above."""
        labels: Uint8Array = self.labels.copy()
        if self.rows.size:
            logits = self.under * (1 - part) + self.over * part
            labels[self.rows, self.columns] = decide(logits[None, :, None])[0, 0]
        return labels


@dataclass(frozen=True, slots=True)
class _Lines:
    """Where the scan's stored slices lie between the model's rows or columns.

    Attributes:
        axis: 1 for rows, 2 for columns.
        low: For each stored slice the row or column below it.
        high: The one above it; the same at the end.
        part: How far towards that it lies.
    """

    axis: int
    low: IndexArray
    high: IndexArray
    part: FloatArray

    @classmethod
    def of(cls, grid: ModelGrid) -> _Lines:
        axis = grid.across
        places = grid.places.get(axis, np.arange(grid.source_shape[axis]))
        last = grid.shape[axis] - 1
        at = np.minimum(places / grid.steps[axis], last)
        low = at.astype(np.intp)
        return cls(axis, low, np.minimum(low + 1, last), (at - low).astype(np.float32))

    def mix(
        self, below: ScoredSlice, above: ScoredSlice, part: np.float32, decide: Decide
    ) -> Uint8Array:
        """Labels at the stored slices, ``part`` of the way from one of the model's to the next."""
        ends = [self._rows_first(each) for each in ((below, above) if part else (below,))]
        labels: Uint8Array = ends[0][0][self.low]
        # As in _Gap: where all neighbours agree, so does what lies between them.
        differ = labels != ends[0][0][self.high]
        for others, _ in ends[1:]:
            differ |= (labels != others[self.low]) | (labels != others[self.high])
        rows, columns = nonzero(differ)
        if rows.size:
            towards = self.part[rows]
            mixed = [
                logits[:, self.low[rows], columns] * (1 - towards)
                + logits[:, self.high[rows], columns] * towards
                for _, logits in ends
            ]
            logits = mixed[0] * (1 - part) + mixed[1] * part if part else mixed[0]
            labels[rows, columns] = decide(logits[None, :, None])[0, 0]
        return labels if self.axis == 1 else labels.T

    def _rows_first(self, scored: ScoredSlice) -> tuple[Uint8Array, FloatArray]:
        """Labels and logits with the axis of the stored slices first; views."""
        if self.axis == 1:
            return scored.labels, scored.logits
        return scored.labels.T, scored.logits.swapaxes(1, 2)
