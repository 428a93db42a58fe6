"""Evidence about the network's scores, gathered slice by slice: doubt, overlap, partial volume.

What it keeps is a few sums by organ and the last two slices. Doubt is looked for in every second
row, which is enough for a mean and takes half the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.masks import IndexArray, nonzero

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


class ScoreWatcher:
    """Gathers OrganScores as the model's slices go by, each next to the one before.

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
        self._slices_mm, self._rows_mm, self._columns_mm = extents_mm
        self._recent: tuple[_Slice | None, _Slice | None] = (None, None)
        count = len(channels)
        # Of each organ, in mm3: by count of voxels, and what its ends along the body add to that.
        self._counted, self._ends = np.zeros((2, count))
        # The same in the rows looked at: mask, doubt inside and outside, overlap.
        self._mask, self._inside, self._outside, self._overlap = np.zeros((4, count))
        self._bits, self._outline = np.zeros((2, count))

    def add(self, number: int, labels: Uint8Array, logits: Float32Array) -> None:
        """Look at the next of the model's slices.

        Args:
            number: Along the model's slice axis.
            labels: (rows, columns), as decided from the logits.
            logits: (channels, rows, columns).
        """
        slice_mm = float(self._slices_mm[number])
        rows, columns = nonzero(labels)
        area_mm2 = self._rows_mm[rows] * self._columns_mm[columns]
        self._counted += self._sums(labels[rows, columns] - 1, area_mm2) * slice_mm
        few = labels[::_ROW_STEP]
        self._doubt(few, logits[:, ::_ROW_STEP], slice_mm)
        self._move_on(_Slice(labels, logits, slice_mm))

    def _move_on(self, following: _Slice | None) -> None:
        below, here = self._recent
        if here is not None:
            self._ends_in(below, here, following)
        self._recent = (here, following)

    def _sums(self, organs: npt.NDArray[Any], weights: FloatArray) -> FloatArray:
        sums = np.bincount(organs.astype(np.intp), weights, self._channels.size)
        return np.asarray(sums, np.float64)

    def _doubt(self, labels: Uint8Array, logits: Float32Array, slice_mm: float) -> None:
        """Where probabilities are neither near 0 nor near 1, and where two organs pass."""
        flat = labels.reshape(-1)
        scores = logits[self._channels].reshape(self._channels.size, -1)
        some = np.flatnonzero(scores > -_DOUBT_LOGIT)
        if not some.size:
            return
        organ, pixel = np.divmod(some, flat.size)
        logit = scores.reshape(-1)[some]
        winner = flat[pixel].astype(np.intp) - 1
        own = winner == organ
        rows, columns = np.divmod(pixel, labels.shape[1])
        weights = self._rows_mm[::_ROW_STEP][rows] * self._columns_mm[columns] * slice_mm
        part = 1.0 / (1.0 + np.exp(-logit.astype(np.float64)))
        part[logit > _DOUBT_LOGIT] = 1.0
        self._mask += self._sums(organ[own], weights[own])
        self._inside += self._sums(organ[own], ((1.0 - part) * weights)[own])
        self._outside += self._sums(organ[~own], (part * weights)[~own])
        lost = ~own & (winner >= 0) & (logit > self._thresholds[organ])
        self._overlap += self._sums(winner[lost], weights[lost])
        self._outlines(flat, scores, labels.shape[1])

    def _outlines(self, flat: Uint8Array, scores: Float32Array, width: int) -> None:
        """Entropy of an organ on both sides of its outline, along rows."""
        at = np.flatnonzero(flat[1:] != flat[:-1])
        at = at[(at + 1) % width > 0]
        for here, there in ((at, at + 1), (at + 1, at)):
            organ = flat[here].astype(np.intp) - 1
            inside = np.flatnonzero(organ >= 0)
            organ = organ[inside]
            for pixel in (here[inside], there[inside]):
                size = np.abs(scores[organ, pixel]).astype(np.float64)
                likely = 1.0 / (1.0 + np.exp(-size))
                # Of a logit s: log2(1 + exp(-s)) and the same plus s, weighed by their chances.
                bits = -np.log2(likely) + (1.0 - likely) * size / np.log(2.0)
                self._bits += self._sums(organ, bits)
                self._outline += np.bincount(organ, minlength=self._channels.size)

    def _ends_in(self, below: _Slice | None, here: _Slice, above: _Slice | None) -> None:
        """Where organs end above or below a slice: how far its voxels are inside by the scores.

        Only there: elsewhere counting errs as often up as down, along outlines of many pixels.
        """
        organ, rival, pixel, inside = _end_pixels(below, here, above)
        part = self._part(organ, rival, pixel, (below or here, here, above or here))
        row, column = np.divmod(pixel, here.labels.shape[1])
        weights = self._rows_mm[row] * self._columns_mm[column] * here.extent_mm
        self._ends += self._sums(organ, (part - inside) * weights)

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
        over = self._over(here, organ, rival, pixel)
        rise = self._over(above, organ, rival, pixel) - self._over(below, organ, rival, pixel)
        steps = 2 - (below is here) - (above is here)
        slope = np.square(rise / max(steps, 1))
        row, column = np.divmod(pixel, width)
        for along, count, stride in ((row, height, width), (column, width, 1)):
            on, back = (along < count - 1).astype(np.intp), (along > 0).astype(np.intp)
            rise = self._over(here, organ, rival, pixel + on * stride)
            rise -= self._over(here, organ, rival, pixel - back * stride)
            slope += np.square(rise / np.maximum(on + back, 1))
        part: FloatArray = np.clip(0.5 + over / np.maximum(np.sqrt(slope), 1e-6), 0.0, 1.0)
        return part

    def _over(
        self, plane: _Slice, organ: IndexArray, rival: IndexArray, pixel: IndexArray
    ) -> FloatArray:
        """How far an organ's logit lies over its threshold and over its rival's logit."""
        row, column = np.divmod(pixel, plane.labels.shape[1])
        own = plane.logits[self._channels[organ], row, column].astype(np.float64)
        over: FloatArray = own - self._thresholds[organ]
        met = np.flatnonzero(rival >= 0)
        if met.size:
            rivals = plane.logits[self._channels[rival[met]], row[met], column[met]]
            over[met] = np.minimum(over[met], own[met] - rivals)
        return over

    def evidence(self) -> tuple[OrganScores, ...]:
        """What has been seen, by label value from 1 on; no slice can follow."""
        self._move_on(None)
        expected = self._mask - self._inside
        both = self._mask + expected + self._outside
        found = zip(
            np.maximum(0.0, self._counted + self._ends) / 1000.0,
            np.divide(2 * expected, both, out=np.zeros_like(both), where=both > 0),
            self._bits / np.maximum(self._outline, 1),
            self._overlap / np.maximum(self._mask, 1e-9),
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
