"""Labels of the scan's own slices, interpolated in score space between the model's.

A scan's slices mostly lie closer than the model's. Taking the nearest label leaves stairs; here the
logits of the two neighbouring slices are mixed by distance, and the label is decided from those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
    """

    number: int
    labels: Uint8Array
    logits: FloatArray


def scan_slices(
    scored: Iterator[ScoredSlice], grid: ModelGrid, stride: int, decide: Decide
) -> Iterator[tuple[int, Uint8Array]]:
    """Yield (k, labels) for the scan's slices, with the model's rows and columns.

    Args:
        scored: Every ``stride``-th of the model's slices, in the grid's order; all are taken.
        grid: How they lie on the scan. ``k`` counts along the model's slice axis.
        stride: How many of the model's slices one step is.
        decide: Settles labels.
    """
    last = (grid.shape[0] - 1) // stride
    ks = range(grid.source_shape[0])
    recent: dict[int, ScoredSlice] = {}
    places = grid.places.get(0, np.asarray(ks))
    for k in reversed(ks) if grid.descending else ks:
        at = min(float(places[k]) / (grid.steps[0] * stride), last)
        low = int(at)
        part = np.float32(at - low)
        wanted = {low, low + 1} if part else {low}
        recent = {n: each for n, each in recent.items() if n in wanted}
        while not wanted <= recent.keys():
            each = next(scored)
            if each.number // stride in wanted:
                recent[each.number // stride] = each
        if part:
            yield k, _mix(recent[low], recent[low + 1], part, decide)
        else:
            yield k, recent[low].labels
    for _ in scored:  # those beyond the scan's last slice
        pass


def _mix(below: ScoredSlice, above: ScoredSlice, part: np.float32, decide: Decide) -> Uint8Array:
    labels: Uint8Array = below.labels.copy()
    # Where both agree every mixture does: a logit that is the largest, or over its threshold, in
    # both is so in between. That leaves some hundreds of voxels to be decided.
    rows, columns = np.nonzero(below.labels != above.labels)
    if rows.size:
        under, over = (each.logits[:, rows, columns] for each in (below, above))
        logits = under * (1 - part) + over * part
        labels[rows, columns] = decide(logits[None, :, None])[0, 0]
    return labels
