"""A network at work on one scan: slices in, labels out, in whatever batches and threads."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from segmate_cli.between import ScoredSlice, scan_slices
from segmate_cli.bundle import Manifest
from segmate_cli.console import Progress
from segmate_cli.doubt.score_evidence import ScoreWatcher
from segmate_cli.engines import LoadedModel
from segmate_cli.errors import ModelError
from segmate_cli.flow import Stopwatch, spread
from segmate_cli.guard import Batches
from segmate_cli.inputs import neighbour_stacks
from segmate_cli.planes import Planes, Uint8Array
from segmate_cli.resample import ModelGrid
from segmate_cli.runners import FloatArray
from segmate_cli.variants import Variant

# The model's slices by number, and what the network gets of them: (N, S, H, W).
Batch = tuple[list[int], FloatArray]

_AS_THEY_ARE = Variant("as it is")
_NO_NUMBERS = "the network gave values that are no numbers for this scan."


def decide(logits: FloatArray, manifest: Manifest, highest: FloatArray | None = None) -> Uint8Array:
    """Labels (N, H, W) of logits (N, channels, H, W): the one place where overlaps are settled.

    An organ passes where its logit is over its threshold; where several pass, the largest logit
    wins; where none does, the voxel is background. ``highest``, (N, channels), is what no logit is
    over: organs that cannot pass need not be looked at.
    """
    labels = np.zeros((logits.shape[0], *logits.shape[2:]), dtype=np.uint8)
    best: FloatArray | None = None
    thresholds = np.asarray(manifest.threshold_logits(), np.float32)
    for value, (entry, threshold) in enumerate(zip(manifest.organs, thresholds, strict=True), 1):
        if highest is not None and not (highest[:, entry.channel] > threshold).any():
            continue
        logit = logits[:, entry.channel]
        wins = logit > threshold
        if not wins.any():  # most slices hold few organs
            continue
        if best is None:
            best = np.full(labels.shape, -np.inf, dtype=np.float32)
        wins &= logit > best
        np.putmask(labels, wins, value)
        np.copyto(best, logit, where=wins)
    return labels


def _highest(padded: FloatArray, logits: FloatArray) -> FloatArray:
    """What no logit of a channel is over, (N, channels); one pass while they are in the cache.

    Args:
        padded: (N, channels, H, W) as the network gave them, which is quicker to look through.
        logits: Those of them that count.

    Raises:
        ModelError: Some of these are no numbers.
    """
    ends = np.array([[(each.max(), each.min()) for each in channels] for channels in padded])
    if not (np.isfinite(ends).all() or np.isfinite(logits).all()):
        raise ModelError(_NO_NUMBERS)
    highest: FloatArray = ends[..., 0]
    return highest


@dataclass(frozen=True, slots=True)
class Segmenter:
    """A loaded network at work on one scan.

    Attributes:
        loaded: The network.
        grid: How the model's grid lies on the scan.
        batches: Slices in the network at once, over all workers.
        watch: Counts ``network`` and ``labels``.
        progress: Called with (stage, done, total).
        stride: Every so-manieth of the model's slices goes through the network.
        scores: Looks at the scores that labels are decided from; None for nobody.
        variant: How the network is shown the slices.
    """

    loaded: LoadedModel
    grid: ModelGrid
    batches: Batches
    watch: Stopwatch
    progress: Progress
    stride: int = 1
    scores: ScoreWatcher | None = None
    variant: Variant = _AS_THEY_ARE

    @property
    def interpolates(self) -> bool:
        """Whether labels are made for the scan's own slices, from scores of the model's."""
        rule = self.loaded.manifest.preprocessing.resampling.labels
        return rule == "scores" or self.stride > 1

    @property
    def label_grid(self) -> ModelGrid:
        """Where the labels lie."""
        return self.grid.at_scan_slices() if self.interpolates else self.grid

    def labels(
        self, slices: Iterable[FloatArray], out: Planes, position: SlicePosition | None = None
    ) -> None:
        """Put labels on ``label_grid``, plane by plane in the grid's order.

        Args:
            slices: From ``network_slices``.
            out: Where they go.
            position: Where the organs begin and end; None if that is not known.
        """
        scored = self._watched(self._scored(slices, position))
        if not self.interpolates:
            for each in scored:
                out[each.number] = each.labels
            return
        planes = scan_slices(scored, self.grid, self.stride, self._decide)
        for k, plane in planes:
            with self.watch.stage("labels"):
                out[k] = plane

    def _watched(self, scored: Iterator[ScoredSlice]) -> Iterator[ScoredSlice]:
        for each in scored:
            if self.scores is not None:
                with self.watch.stage("gates"):
                    self.scores.add(
                        each.number // self.stride, each.labels, each.logits, each.highest
                    )
            yield each

    def position(self, slices: Iterable[FloatArray]) -> SlicePosition | None:
        """Where the organs begin and end, as far as a network sees it that does not know."""
        preprocessing = self.loaded.manifest.preprocessing
        least_voxels = preprocessing.slice_position_min_ml / self.grid.voxel_ml
        scored = self._scored(slices, None)
        found = [each.number for each in scored if np.count_nonzero(each.labels) >= least_voxels]
        return SlicePosition(min(found), max(found)) if len(found) >= 2 else None

    def _scored(
        self, slices: Iterable[FloatArray], position: SlicePosition | None
    ) -> Iterator[ScoredSlice]:
        workers = min(self.loaded.workers, self.batches.size)
        parts = self._stacks(slices, -(-self.batches.size // workers))
        total = -(-self.grid.shape[0] // self.stride)
        self.progress("segment", 0, total)
        done = 0
        for found in spread(lambda part: self._score(part, position), parts, workers):
            yield from found
            done += len(found)
            self.progress("segment", done, total)

    def _stacks(self, slices: Iterable[FloatArray], size: int) -> Iterator[Batch]:
        steps = self.loaded.manifest.preprocessing.neighbour_steps()
        if self.grid.descending:  # the neighbour above comes first
            steps = tuple(-step for step in steps)
        numbered = zip(self.grid.order(), neighbour_stacks(slices, steps), strict=True)
        stacks = ((n, stack) for n, stack in numbered if n % self.stride == 0)
        while batch := list(itertools.islice(stacks, size)):
            numbers, parts = zip(*batch, strict=True)
            yield list(numbers), parts[0][None] if len(parts) == 1 else np.stack(parts)

    def _score(self, batch: Batch, position: SlicePosition | None) -> list[ScoredSlice]:
        numbers, stacks = batch
        at: FloatArray | None = None
        if self.loaded.manifest.network.takes_slice_position:
            at = position.of(numbers) if position else np.full(len(numbers), -1.0, np.float32)
        _, rows, columns = self.grid.shape
        found: list[ScoredSlice] = []
        with self.watch.stage("network"):
            for padded in self.batches.run(self.loaded.runner, self.variant.given(stacks), at):
                with self.watch.stage("labels"):
                    logits = self.variant.taken(padded)[:, :, :rows, :columns]
                    highest = _highest(padded, logits)
                    some = numbers[len(found) : len(found) + len(logits)]
                    labels = decide(logits, self.loaded.manifest, highest)
                    found += map(ScoredSlice, some, labels, logits, highest)
        return found

    def _decide(self, logits: FloatArray) -> Uint8Array:
        return decide(logits, self.loaded.manifest)


@dataclass(frozen=True, slots=True)
class SlicePosition:
    """The first and the last of the model's slices with organs."""

    first: int
    last: int

    def of(self, numbers: list[int]) -> FloatArray:
        """0 to 1 for each slice."""
        part = (np.array(numbers) - self.first) / (self.last - self.first)
        return np.asarray(np.clip(part, 0.0, 1.0), dtype=np.float32)
