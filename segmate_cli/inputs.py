"""What the network sees of a scan: slices read, hashed, resampled, windowed, padded, stacked."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segmate_cli.bundle import Preprocessing
from segmate_cli.doubt.scan_evidence import ScanEvidence, ScanWatcher
from segmate_cli.flow import Stopwatch
from segmate_cli.hounsfield import HuCensus
from segmate_cli.plan import padded_shape
from segmate_cli.resample import ModelGrid
from segmate_cli.spool import planes_across
from segmate_cli.volume import Hounsfield, Scan

FloatArray = npt.NDArray[np.float32]


class ScanTap:
    """A scan's slices for the network, hashed and counted as they pass for the first time.

    ``folder`` is for a temporary file, where one is needed; None takes the system's.
    """

    def __init__(
        self, scan: Scan, grid: ModelGrid, watch: Stopwatch, folder: Path | None = None
    ) -> None:
        self._scan = scan
        self._folder = folder
        self._grid = grid
        self._watch = watch
        self._digest = hashlib.sha256()
        self._census = HuCensus(scan.geometry.shape[0])
        self._watcher = ScanWatcher(scan.geometry)
        self.sha256: str | None = None

    def planes(self) -> Iterator[Hounsfield]:
        """Slices in the model's axes, in the order that ``ModelGrid.slices`` wants."""
        stored = self._grid.upright_planes(self._stored())
        if self._grid.streams:
            return (self._grid.turn_plane(plane) for plane in stored)
        turn = self._grid.turn
        across = planes_across(
            stored, self._grid.stored_shape, turn.axes[0], self._folder, down=turn.flips[0]
        )
        return (self._grid.turn_plane(plane) for plane in across)

    def evidence(self) -> ScanEvidence:
        """What the gates need of the scan, once all slices have passed."""
        return self._watcher.evidence()

    def verdict(self) -> tuple[str, ...]:
        """What the HU look like, once all slices have passed; see ``HuCensus.verdict``."""
        source = self._scan.source
        return self._census.verdict(str(source.path) if source else "")

    def _stored(self) -> Iterator[Hounsfield]:
        planes = self._scan.planes()
        for _ in range(self._scan.geometry.shape[0]):
            with self._watch.stage("read"):
                plane = next(planes)
            if self.sha256 is None:
                with self._watch.stage("hash"):
                    self._digest.update(np.ascontiguousarray(plane, dtype="<i2").data)
                with self._watch.stage("check_hu"):
                    self._census.add(plane)
                with self._watch.stage("gates"):
                    self._watcher.add(plane)
            yield plane
        with self._watch.stage("read"):  # whatever is wrong at the end of the file shows here
            next(planes, None)
        self.sha256 = self._digest.hexdigest()


def network_slices(
    tap: ScanTap, grid: ModelGrid, preprocessing: Preprocessing, watch: Stopwatch
) -> Generator[FloatArray, None, None]:
    """Windowed, padded slices as the network wants them."""
    window, padding = preprocessing.window, preprocessing.padding
    slices = grid.slices(tap.planes())
    while True:
        with watch.stage("resample"):  # less what the tap counts as reading, hashing, checking
            hu = next(slices, None)
        if hu is None:
            return
        with watch.stage("window"):
            padded = np.full(padded_shape(grid, preprocessing), padding.value, dtype=np.float32)
            inside = padded[: grid.shape[1], : grid.shape[2]]
            np.clip(hu, window.low_hu, window.high_hu, out=inside)
            inside *= np.float32(window.scale)
            inside += np.float32(window.offset)
        yield padded


def neighbour_stacks(slices: Iterable[FloatArray], steps: Sequence[int]) -> Iterator[FloatArray]:
    """Yield each slice with its neighbours at ``steps``, the ends repeated, as (S, H, W)."""
    behind, ahead = max(0, -min(steps)), max(0, max(steps))
    ring: deque[FloatArray] = deque(maxlen=behind + ahead + 1)
    source = iter(slices)
    for first in source:
        ring.extend([first] * (behind + 1))
        break
    left = 0  # how often the last slice has been repeated
    for _ in range(ahead):
        following = next(source, None)
        left += following is None
        ring.append(ring[-1] if following is None else following)
    while left <= ahead and ring:
        yield np.stack([ring[behind + step] for step in steps])
        following = next(source, None)
        left += following is None
        ring.append(ring[-1] if following is None else following)
