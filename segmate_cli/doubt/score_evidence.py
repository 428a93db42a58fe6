"""Evidence about the network's scores, gathered slice by slice: doubt, overlap, partial volume.

What it keeps is a few sums by organ and the last two slices. Doubt is looked for in every second
row, which is enough for a mean and takes half the time. It is looked at while the network runs, on
the same processors, so what is picked out is what counts: of a slice, outlines and ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.masks import IndexArray

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]

# Probabilities of 0.1 to 0.9 count as doubt: further out their number, not their size, would count.
_DOUBT_LOGIT = 2.2
_ROW_STEP = 2


@dataclass(frozen=True, slots=True)
class OrganScores:
    """What the scores say of one organ.

    Attributes:
        volume_pv_ml: Its volume on the model's grid, voxels at its ends along the body counted in
            part, before any clean-up.
        confidence: Dice that the network expects of its own mask: that of the mask and a truth
            drawn by its probabilities, 0 to 1.
        surface_entropy: Mean entropy of the pixels on both sides of its outline, in bits, 0 to 1.
        overlap: Share of the mask in which another organ passes its threshold, too.
    """

    volume_pv_ml: float
    confidence: float
    surface_entropy: float
    overlap: float


@dataclass(frozen=True, slots=True)
class _Slice:
    """One of the model's slices, and how much of the scan it stands for."""

    labels: Uint8Array
    logits: Float32Array
    extent_mm: float


# Of each organ in mm3: its voxels; then, in the rows looked at, its mask, doubt inside and outside
# of that, overlap. The last two: entropy in bits along its outline, and of how many pixels.
_ROWS = ("counted", "mask", "inside", "outside", "overlap", "bits", "outline")
_COUNTED, _MASK, _INSIDE, _OUTSIDE, _OVERLAP, _BITS, _OUTLINE = range(len(_ROWS))


class ScoreWatcher:
    """Gathers OrganScores as the model's slices go by, each next to the one before.

    It looks at them in the thread that takes them from the network: to look in those that made them
    kept the next slices waiting (4.83 s, and 4.73 s so, for 400 slices).

    Args:
        channels: Channel of each organ, by label value from 1 on.
        thresholds: Its threshold as a logit.
        extents_mm: (slices, rows, columns) how much of the scan each of the model's stands for.
    """

    def __init__(
        self,
        channels: Sequence[int],
        thresholds: Sequence[float],
        extents_mm: tuple[FloatArray, FloatArray, FloatArray],
    ) -> None:
        self._channels = np.asarray(channels, np.intp)
        self._thresholds = np.asarray(thresholds, np.float32)
        self._slices_mm, rows_mm, columns_mm = extents_mm
        area_mm2 = rows_mm[:, None] * columns_mm
        self._area_mm2 = area_mm2.reshape(-1)
        self._few_mm2 = area_mm2[::_ROW_STEP].reshape(-1)
        self._recent: tuple[_Slice | None, _Slice | None] = (None, None)
        self._seen = np.zeros((len(_ROWS), len(channels)))
        # In mm3, what each organ's ends along the body add to the count of its voxels.
        self._ends = np.zeros(len(channels))

    def add(
        self,
        number: int,
        labels: Uint8Array,
        logits: Float32Array,
        highest: Float32Array | None = None,
    ) -> None:
        """Look at the next of the model's slices.

        Args:
            number: Along the model's slice axis.
            labels: (rows, columns), as decided from the logits.
            logits: (channels, rows, columns).
            highest: (channels,) what no logit is over, where that is known.
        """
        sums = np.zeros_like(self._seen)
        sums[_COUNTED] = self._areas(labels, self._area_mm2)
        few = labels[::_ROW_STEP]
        sums[_MASK] = self._areas(few, self._few_mm2)
        self._doubt(few, logits[:, ::_ROW_STEP], highest, sums)
        slice_mm = float(self._slices_mm[number])
        sums[: _OVERLAP + 1] *= slice_mm
        self._seen += sums
        self._move_on(_Slice(labels, logits, slice_mm))

    def _move_on(self, following: _Slice | None) -> None:
        below, here = self._recent
        if here is not None:
            self._ends_in(below, here, following)
        self._recent = (here, following)

    def _areas(self, labels: Uint8Array, area_mm2: FloatArray) -> FloatArray:
        flat = labels.reshape(-1)
        # Of a comparison, for NumPy finds what is true nine times as fast as what is not 0.
        pixel = np.flatnonzero(flat != 0)
        return self._sums(flat[pixel] - 1, area_mm2[pixel])

    def _sums(self, organs: npt.NDArray[Any], weights: FloatArray) -> FloatArray:
        sums = np.bincount(organs.astype(np.intp), weights, self._channels.size)
        return np.asarray(sums, np.float64)

    def _doubt(
        self,
        labels: Uint8Array,
        logits: Float32Array,
        highest: Float32Array | None,
        sums: FloatArray,
    ) -> None:
        """Where probabilities are neither near 0 nor near 1, and where two organs pass."""
        organ, pixel, logit = self._unsure(labels, logits, highest)
        if not organ.size:
            return
        winner = labels.reshape(-1)[pixel].astype(np.intp) - 1
        own = winner == organ
        weights = self._few_mm2[pixel]
        part = 1.0 / (1.0 + np.exp(-logit.astype(np.float64)))
        part[logit > _DOUBT_LOGIT] = 1.0
        sums[_INSIDE] = self._sums(organ[own], ((1.0 - part) * weights)[own])
        sums[_OUTSIDE] = self._sums(organ[~own], (part * weights)[~own])
        lost = ~own & (winner >= 0) & (logit > self._thresholds[organ])
        sums[_OVERLAP] = self._sums(winner[lost], weights[lost])
        self._outlines(labels, logits, sums)

    def _unsure(
        self, labels: Uint8Array, logits: Float32Array, highest: Float32Array | None
    ) -> tuple[IndexArray, IndexArray, Float32Array]:
        """(organ, pixel, logit) where an organ is likely, but for where it is sure and has won."""
        organs, pixels, found = [], [], []
        for organ, channel in enumerate(self._channels):
            if highest is not None and highest[channel] <= -_DOUBT_LOGIT:
                continue
            scores = logits[channel]
            likely = scores > -_DOUBT_LOGIT
            if not likely.any():  # most slices hold few organs
                continue
            likely &= (scores <= _DOUBT_LOGIT) | (labels != organ + 1)
            pixel = np.flatnonzero(likely)
            organs.append(np.full(pixel.size, organ, np.intp))
            pixels.append(pixel)
            found.append(scores[likely])
        if not organs:
            return np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0, np.float32)
        return np.concatenate(organs), np.concatenate(pixels), np.concatenate(found)

    def _outlines(self, labels: Uint8Array, logits: Float32Array, sums: FloatArray) -> None:
        """Entropy of an organ on both sides of its outline, along rows."""
        row, left = np.divmod(np.flatnonzero(labels[:, 1:] != labels[:, :-1]), labels.shape[1] - 1)
        for here in (left, left + 1):
            organ = labels[row, here].astype(np.intp) - 1
            inside = np.flatnonzero(organ >= 0)
            organ = organ[inside]
            # Both pixels of the pair, the organ's own and the one beyond its outline.
            columns = np.stack([left[inside], left[inside] + 1])
            size = np.abs(logits[self._channels[organ], row[inside], columns]).astype(np.float64)
            likely = 1.0 / (1.0 + np.exp(-size))
            # Of a logit s: log2(1 + exp(-s)) and the same plus s, weighed by their chances.
            bits = -np.log2(likely) + (1.0 - likely) * size / np.log(2.0)
            sums[_BITS] += self._sums(organ, bits.sum(axis=0))
            sums[_OUTLINE] += 2 * np.bincount(organ, minlength=self._channels.size)

    def _ends_in(self, below: _Slice | None, here: _Slice, above: _Slice | None) -> None:
        """Where organs end above or below a slice: how far its voxels are inside by the scores.

        Only there: elsewhere counting errs as often up as down, along outlines of many pixels.
        """
        organ, rival, pixel, inside = _end_pixels(below, here, above)
        part = self._part(organ, rival, pixel, (below or here, here, above or here))
        self._ends += self._sums(organ, (part - inside) * self._area_mm2[pixel] * here.extent_mm)

    def _part(
        self,
        organ: IndexArray,
        rival: IndexArray,
        pixel: IndexArray,
        slices: tuple[_Slice, _Slice, _Slice],
    ) -> FloatArray:
        """Part of voxels on an organ's side of the level where its score equals its rival's."""
        below, here, above = slices
        height, width = here.labels.shape
        row, column = np.divmod(pixel, width)
        over = self._over_all(organ, rival)
        rise = over(above.logits, row, column) - over(below.logits, row, column)
        steps = 2 - (below is here) - (above is here)
        slope = np.square(rise / max(steps, 1))
        up, down = np.minimum(row + 1, height - 1), np.maximum(row - 1, 0)
        rise = over(here.logits, up, column) - over(here.logits, down, column)
        slope += np.square(rise / np.maximum(up - down, 1))
        right, left = np.minimum(column + 1, width - 1), np.maximum(column - 1, 0)
        rise = over(here.logits, row, right) - over(here.logits, row, left)
        slope += np.square(rise / np.maximum(right - left, 1))
        margin = over(here.logits, row, column)
        part: FloatArray = np.clip(0.5 + margin / np.maximum(np.sqrt(slope), 1e-6), 0.0, 1.0)
        return part

    def _over_all(
        self, organ: IndexArray, rival: IndexArray
    ) -> Callable[[Float32Array, IndexArray, IndexArray], FloatArray]:
        """How far organs' logits lie over their thresholds and rivals' logits, at given pixels."""
        channel, threshold = self._channels[organ], self._thresholds[organ]
        met = np.flatnonzero(rival >= 0)
        rivals = self._channels[rival[met]]

        def over(logits: Float32Array, row: IndexArray, column: IndexArray) -> FloatArray:
            own = logits[channel, row, column].astype(np.float64)
            found: FloatArray = own - threshold
            if met.size:
                theirs = logits[rivals, row[met], column[met]]
                found[met] = np.minimum(found[met], own[met] - theirs)
            return found

        return over

    def evidence(self) -> tuple[OrganScores, ...]:
        """What has been seen, by label value from 1 on; no slice can follow."""
        self._move_on(None)
        counted, mask, inside, outside, overlap, bits, outline = self._seen
        expected = mask - inside
        both = mask + expected + outside
        found = zip(
            np.maximum(0.0, counted + self._ends) / 1000.0,
            np.divide(2 * expected, both, out=np.zeros_like(both), where=both > 0),
            bits / np.maximum(outline, 1),
            overlap / np.maximum(mask, 1e-9),
            strict=True,
        )
        return tuple(OrganScores(*map(float, each)) for each in found)


def _end_pixels(
    below: _Slice | None, here: _Slice, above: _Slice | None
) -> tuple[IndexArray, IndexArray, IndexArray, npt.NDArray[np.bool_]]:
    """(organ, rival, pixel, whether labelled so) where a slice differs from one beside it.

    A pixel comes once for its own organ, and once for each other that it has above or below.
    """
    own = here.labels.reshape(-1)
    found: list[tuple[IndexArray, IndexArray, IndexArray]] = []
    sides = [side.labels.reshape(-1) for side in (below, above) if side is not None]
    differ = [own != other for other in sides]
    for n, other in enumerate(sides):
        first = differ[n] & (own > 0)
        theirs = differ[n] & (other > 0)
        if n == 1:
            first &= ~differ[0]
            theirs &= other != sides[0]
        for chosen, organs, rivals in ((first, own, other), (theirs, other, own)):
            pixel = np.flatnonzero(chosen)
            found.append((organs[pixel].astype(np.intp), rivals[pixel].astype(np.intp), pixel))
    if not found:
        nothing = np.zeros(0, np.intp)
        return nothing, nothing, nothing, nothing.astype(np.bool_)
    organ, rival, pixel = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return organ - 1, rival - 1, pixel, own[pixel] == organ
