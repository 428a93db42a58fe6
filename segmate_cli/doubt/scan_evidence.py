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
        circle: Whether it shows nothing outside the circle that its slices' shorter side goes
            round.
    """

    geometry: Geometry
    small_hu: Hounsfield
    step_hu: npt.NDArray[np.float64]
    step2_hu: npt.NDArray[np.float64]
    circle: bool


class ScanWatcher:
    """Gathers ScanEvidence as the slices k = 0, 1, ... of a scan go by."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._steps = small_steps(geometry)
        self._small: list[Hounsfield] = []
        self._recent: deque[npt.NDArray[np.float32]] = deque(maxlen=2)
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
        for before, differences in zip(reversed(self._recent), self._differences, strict=False):
            differences.append(float(np.abs(compared - before).mean()))
        self._recent.append(compared)
        self._slices += 1

    def evidence(self) -> ScanEvidence:
        """What has been seen."""
        low, high = self._beyond
        padded = (low == high and high < _AIR) or high <= _LOWEST_SCANNED
        return ScanEvidence(
            geometry=self._geometry,
            small_hu=np.stack(self._small),
            step_hu=np.array(self._differences[0]),
            step2_hu=np.array(self._differences[1]),
            circle=bool(self._outside.size) and padded,
        )
