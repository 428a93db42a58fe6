"""Evidence about a scan's voxels, gathered slice by slice: a small copy, steps, the circle."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segmate_cli.doubt.survey import outside_circle, small_steps
from segmate_cli.geometry import Geometry

Hounsfield = npt.NDArray[np.int16]

# Slices are compared between air and blood: bone and metal would drown the rest.
_COMPARED_HU = (-1000, 200)
# Where so much of a slice has the lowest of its values, that is no scanned air but a mask; and
# fewer pixels than that say nothing.
_MASKED_SHARE, _FEW = 0.2, 30
# Fat and soft tissue, and differences of neighbouring pixels in it by HU: more count as so many.
_SOFT_HU, _GRAIN_BINS = (-160, 240), 401
# What lies lower was not scanned; air as such is not padding, unless a scanner's -1024 or less.
_LOWEST_SCANNED, _AIR = -1500, -1000


@dataclass(frozen=True, slots=True)
class ScanEvidence:
    """What is known about a scan.

    Attributes:
        geometry: The scan's.
        small_hu: (k, j, i) every n-th voxel, as ``Survey.small`` has them.
        step_hu: Mean difference of each slice from the next.
        step2_hu: The same from the next but one.
        noise_hu: Standard deviation that pixels' noise has in soft tissue; None without any.
        circle: Whether it shows nothing outside the circle that its slices' shorter side goes
            round.
    """

    geometry: Geometry
    small_hu: Hounsfield
    step_hu: npt.NDArray[np.float64]
    step2_hu: npt.NDArray[np.float64]
    noise_hu: float | None
    circle: bool


class ScanWatcher:
    """Gathers ScanEvidence as the slices k = 0, 1, ... of a scan go by."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._steps = small_steps(geometry)
        self._small: list[Hounsfield] = []
        self._recent: deque[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]] = deque(maxlen=2)
        self._grain = np.zeros(_GRAIN_BINS, np.int64)
        self._differences: tuple[list[float], list[float]] = ([], [])
        self._outside = outside_circle(geometry)
        self._beyond = (32767, -32768)  # lowest and highest HU outside the circle
        self._slices = 0

    def add(self, plane: Hounsfield) -> None:
        """Look at the next slice (rows, columns)."""
        few = plane[:: self._steps[1], :: self._steps[2]]
        if self._slices % self._steps[0] == 0:
            self._small.append(few.copy())
            if self._outside.size:
                values = plane.reshape(-1)[self._outside]
                low, high = self._beyond
                self._beyond = (min(low, int(values.min())), max(high, int(values.max())))
        compared = np.clip(few, *_COMPARED_HU).astype(np.float32)
        shown = _shown(few)
        for (before, there), differences in zip(
            reversed(self._recent), self._differences, strict=False
        ):
            # A mask that changes from slice to slice says nothing of the slices' order.
            both = shown & there
            apart = np.abs(compared - before)[both]
            differences.append(float(apart.mean()) if apart.size >= _FEW else 0.0)
        self._recent.append((compared, shown))
        if self._slices % self._steps[0] == 0:
            self._look_at_grain(plane)
        self._slices += 1

    def _look_at_grain(self, plane: Hounsfield) -> None:
        """Differences of neighbouring pixels in soft tissue, of some rows."""
        rows = plane[:: self._steps[1]]
        one, other = rows[:, :-1], rows[:, 1:]
        low, high = _SOFT_HU
        soft = (one > low) & (one < high) & (other > low) & (other < high)
        apart = np.minimum(np.abs(other[soft] - one[soft]), _GRAIN_BINS - 1)
        self._grain += np.bincount(apart, minlength=_GRAIN_BINS)

    def evidence(self) -> ScanEvidence:
        """What has been seen."""
        low, high = self._beyond
        padded = (low == high and high < _AIR) or high <= _LOWEST_SCANNED
        return ScanEvidence(
            geometry=self._geometry,
            small_hu=np.stack(self._small),
            step_hu=np.array(self._differences[0]),
            step2_hu=np.array(self._differences[1]),
            noise_hu=_noise_hu(self._grain),
            circle=bool(self._outside.size) and padded,
        )


def _shown(plane: Hounsfield) -> npt.NDArray[np.bool_]:
    """What of a slice is not blank."""
    blank = plane <= min(int(plane.min()), _AIR)
    shown: npt.NDArray[np.bool_] = ~blank
    return shown if np.mean(blank) > _MASKED_SHARE else np.ones_like(shown)


def _noise_hu(grain: npt.NDArray[np.int64]) -> float | None:
    """By the median difference of neighbours, which edges of organs hardly change."""
    total = int(grain.sum())
    if total < _FEW:
        return None
    # Within a bin in proportion, since HU are whole numbers.
    below = np.cumsum(grain)
    middle = int(np.searchsorted(below, total / 2))
    rest = (total / 2 - (below[middle] - grain[middle])) / max(int(grain[middle]), 1)
    median = max(0.0, middle - 0.5 + rest)
    return float(median / (0.6745 * np.sqrt(2.0)))
