"""Which slice of which case comes next: by what the organs need, not by what lies about."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]
from torch import Tensor

from training.augment import Augmentation, Crop, draw_crop
from training.cases import INVENTED, ORGANS, Case, Known, source_of
from training.lending import KIDNEYS
from training.surroundings import body_of

#: Gas in a body: so dark, in one piece of so many pixels, more than a bronchus has.
_GAS_HU = -900
_GAS_PIXELS = 200
_LUNGS = (0, 1)
#: How far below its kidneys a case is asked for.
_LOW_MM = 60.0

_TRUST = {Known.HAND: 1.0, Known.TEACHER: 0.35, Known.PSEUDO: 0.35}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How crops are chosen.

    Attributes:
        organ_weights: relative frequency with which each organ is asked for; 1 unless told.
        anywhere_chance: any usable slice of any case instead of an organ's.
        beside_chance: a slice near an organ's ends, or elsewhere in the case, instead of in it.
        invented_share: how much a phantom or a painted label map counts beside a real case.
        gas_chance: a slice with gas in stomach or bowel, which is no lung, instead.
        low_chance: a slice below the kidneys, where one may be lent, instead.
        source_shares: by organ, how much cases count whose names begin so, where it is not 1.
    """

    organ_weights: dict[str, float] = field(default_factory=dict)
    anywhere_chance: float = 0.15
    beside_chance: float = 0.25
    invented_share: float = 0.15
    gas_chance: float = 0.0
    low_chance: float = 0.0
    source_shares: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Place:
    """Slices of one case that show one organ, and the organ's centre in each."""

    case: int
    rows: NDArray[np.int64]
    centres: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shown:
    """Pixels of every organ in every slice of a case, and where their centre lies.

    Attributes:
        counts: (k, organs).
        centres: float32 (k, organs, 2), row and column; meaningless where there is no pixel.
    """

    counts: NDArray[np.int64]
    centres: NDArray[np.float32]


def what_slices_show(case: Case) -> Shown:
    """Count the labels of a case, an earlier model's where no others are known."""
    keys, pixels = _labelled(case.labels)
    if case.pseudo is not None:
        more, also = _labelled(case.pseudo)
        slices, organs = np.divmod(more, len(ORGANS))
        new = case.known[slices, organs] == Known.PSEUDO
        keys, pixels = np.concatenate([keys, more[new]]), np.concatenate([pixels, also[new]])
    rows, columns = np.divmod(pixels, case.labels.shape[2])
    size = case.labels.shape[0] * len(ORGANS)
    counts = np.bincount(keys, minlength=size)
    sums = [np.bincount(keys, axis, minlength=size) for axis in (rows, columns)]
    centres = np.stack(sums, axis=-1) / np.maximum(counts, 1)[:, None]
    shape = (case.labels.shape[0], len(ORGANS))
    return Shown(counts.reshape(shape), centres.reshape(*shape, 2).astype(np.float32))


def _labelled(labels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of every organ's voxel: slice and organ as one number, and its place in the slice."""
    flat = np.ravel(labels)
    places = np.flatnonzero((flat > 0) & (flat <= len(ORGANS)))
    slices, pixels = np.divmod(places, labels.shape[1] * labels.shape[2])
    return slices * len(ORGANS) + flat[places] - 1, pixels


def find_gas(case: Case) -> NDArray[np.int64]:
    """Slices of a real case that show gas inside the body, and where lungs are known."""
    if case.info.case_id.startswith(INVENTED):
        return np.array([], dtype=np.int64)
    known = case.usable & (case.known[:, _LUNGS] != Known.NO).all(axis=1)
    rows = []
    for row in np.flatnonzero(known):
        dark = (case.hu[row] < _GAS_HU) & (case.labels[row] == 0)
        if case.pseudo is not None:
            dark &= case.pseudo[row] == 0
        body = body_of(case.hu[row]) if np.count_nonzero(dark) >= _GAS_PIXELS else None
        if body is not None:
            parts, _ = ndimage.label(dark & body)
            if np.bincount(parts.ravel())[1:].max(initial=0) >= _GAS_PIXELS:
                rows.append(row)
    return np.array(rows, dtype=np.int64)


def find_low(case: Case) -> NDArray[np.int64]:
    """Slices not far below the kidneys of a real case, where it is known that there are none."""
    if case.info.case_id.startswith(INVENTED):
        return np.array([], dtype=np.int64)
    channels = [value - 1 for value in KIDNEYS]
    known = np.isin(case.known[:, channels], (Known.HAND, Known.TEACHER, Known.ABSENT))
    shown = np.isin(case.labels, KIDNEYS).any(axis=(1, 2))
    if not shown.any():
        return np.array([], dtype=np.int64)
    lowest = int(np.flatnonzero(shown)[0])
    below = np.zeros(len(shown), dtype=bool)
    below[max(0, lowest - round(_LOW_MM / case.info.slice_mm)) : lowest] = True
    return np.flatnonzero(below & known.any(axis=1) & case.usable)


class Sampler:
    """Draws crops from prepared cases."""

    def __init__(self, cases: Sequence[Case], sampling: Sampling, augmentation: Augmentation):
        self.cases = list(cases)
        self.sampling = sampling
        self.augmentation = augmentation
        with ThreadPoolExecutor() as pool:
            self.bodies = list(pool.map(body_centre, self.cases))
            shown = list(pool.map(what_slices_show, self.cases))
            gas = list(pool.map(find_gas, self.cases)) if sampling.gas_chance else []
            low = list(pool.map(find_low, self.cases)) if sampling.low_chance else []
        self.gas = [(number, rows) for number, rows in enumerate(gas) if rows.size]
        self.low = [(number, rows) for number, rows in enumerate(low) if rows.size]
        self.places: list[list[_Place]] = [[] for _ in ORGANS]
        self.trust: list[list[float]] = [[] for _ in ORGANS]
        for number, case in enumerate(self.cases):
            self._add(number, case, shown[number])
        self.sources: dict[str, list[int]] = {}
        for number, case in enumerate(self.cases):
            self.sources.setdefault(source_of(case.info.case_id), []).append(number)
        weights = [sampling.organ_weights.get(organ, 1.0) for organ in ORGANS]
        present = np.array([bool(places) for places in self.places])
        self.organ_weights = np.array(weights) * present
        self.organ_weights /= self.organ_weights.sum()

    def _add(self, number: int, case: Case, shown: Shown) -> None:
        trusted = np.isin(case.known, [int(level) for level in _TRUST]) & case.usable[:, None]
        for channel in range(len(ORGANS)):
            rows = np.flatnonzero((shown.counts[:, channel] > 0) & trusted[:, channel])
            if not rows.size:
                continue
            self.places[channel].append(_Place(number, rows, shown.centres[rows, channel]))
            level = Known(int(np.bincount(case.known[rows, channel]).argmax()))
            # A case of twenty slices counts less than one of two hundred, not ten times less.
            trust = _TRUST[level] * float(np.sqrt(rows.size * case.info.slice_mm))
            if case.info.case_id.startswith(INVENTED):
                trust *= self.sampling.invented_share
            for start, share in self.sampling.source_shares.get(ORGANS[channel], {}).items():
                trust *= share if case.info.case_id.startswith(start) else 1.0
            self.trust[channel].append(trust)

    def draw(self, rng: np.random.Generator) -> Crop:
        """One augmented crop."""
        case, position, centre = self.choose(rng)
        others = self._one_of_each_source(rng) if self.augmentation.surroundings_chance else ()
        return draw_crop(self.cases[case], position, centre, self.augmentation, rng, others)

    def _one_of_each_source(self, rng: np.random.Generator) -> list[Case]:
        numbers = [of[int(rng.integers(len(of)))] for of in self.sources.values()]
        return [self.cases[number] for number in numbers]

    def choose(self, rng: np.random.Generator) -> tuple[int, float, tuple[float, float]]:
        """Which case comes next, where along it (may lie between slices), and around what."""
        case, position, centre = self._choose(rng)
        last = self.cases[case].hu.shape[0] - 1
        if rng.random() < 0.5:
            position += rng.uniform(-0.3, 0.3)
        return case, min(max(position, 0.0), float(last)), centre

    def _choose(self, rng: np.random.Generator) -> tuple[int, float, tuple[float, float]]:
        if rng.random() < self.sampling.anywhere_chance:
            number = int(rng.integers(len(self.cases)))
            return number, self._any_slice(number, rng), self.bodies[number]
        asked = (self.gas, self.sampling.gas_chance), (self.low, self.sampling.low_chance)
        for some, chance in asked:
            if some and rng.random() < chance:
                number, rows = some[int(rng.integers(len(some)))]
                return number, float(rng.choice(rows)), self.bodies[number]
        channel = int(rng.choice(len(ORGANS), p=self.organ_weights))
        trust = np.array(self.trust[channel])
        place = self.places[channel][int(rng.choice(len(trust), p=trust / trust.sum()))]
        case = self.cases[place.case]
        body = self.bodies[place.case]
        if rng.random() >= self.sampling.beside_chance:
            chosen = int(rng.integers(place.rows.size))
            mix = rng.uniform(0, 0.6)
            centre = place.centres[chosen] * mix + np.array(body) * (1 - mix)
            return place.case, float(place.rows[chosen]), (float(centre[0]), float(centre[1]))
        if rng.random() < 0.5:
            return place.case, self._any_slice(place.case, rng), body
        end = place.rows[0 if rng.random() < 0.5 else -1]
        row = float(end) + rng.uniform(-20, 20) / case.info.slice_mm
        usable = np.flatnonzero(case.usable)
        return place.case, min(max(row, float(usable[0])), float(usable[-1])), body

    def _any_slice(self, number: int, rng: np.random.Generator) -> float:
        return float(rng.choice(np.flatnonzero(self.cases[number].usable)))


def body_centre(case: Case) -> tuple[float, float]:
    """Mean row and column of what is denser than fat, over some usable slices."""
    rows = np.flatnonzero(case.usable)[::8]
    dense = np.nonzero(case.hu[rows] > -200)
    if not dense[1].size:
        return case.hu.shape[1] / 2, case.hu.shape[2] / 2
    return float(dense[1].mean()), float(dense[2].mean())


@dataclass(frozen=True, slots=True)
class Batch:
    """N crops as the loss takes them.

    Attributes:
        slices: (N, 3, H, W) float32.
        labels: (N, H, W) int32.
        pseudo: (N, H, W) int32.
        unsure: (N, H, W) int32.
        known: (N, organs) uint8.
    """

    slices: Tensor
    labels: Tensor
    pseudo: Tensor
    unsure: Tensor
    known: Tensor


def draw_batch(sampler: Sampler, size: int, seed: Sequence[int]) -> Batch:
    """A batch that the seed alone decides."""
    rng = np.random.default_rng(seed)
    crops = [sampler.draw(rng) for _ in range(size)]
    return Batch(
        torch.stack([crop.slices for crop in crops]),
        torch.stack([crop.labels for crop in crops]),
        torch.stack([crop.pseudo for crop in crops]),
        torch.stack([crop.unsure for crop in crops]),
        torch.from_numpy(np.stack([crop.known for crop in crops])),
    )


class Prefetcher:
    """Draws the batches of steps ``first``, ``first + 1``, ... in a thread of its own."""

    def __init__(self, sampler: Sampler, size: int, seed: int, first: int):
        self._queue: queue.Queue[Batch] = queue.Queue(maxsize=3)
        arguments = (sampler, size, seed, first)
        threading.Thread(target=self._fill, args=arguments, daemon=True).start()

    def _fill(self, sampler: Sampler, size: int, seed: int, first: int) -> None:
        step = first
        while True:
            self._queue.put(draw_batch(sampler, size, (seed, step)))
            step += 1

    def next(self) -> Batch:
        """The next batch, when it is ready."""
        return self._queue.get()
