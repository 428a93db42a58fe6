"""One pass over a label map and its scan: where each organ lies, and how its HU are spread.

Slices come and go one by one, so that a long scan takes no more memory than a short one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt

from segmate_cli.doubt.rules import RULES, Rule
from segmate_cli.doubt.verdict import Earlier
from segmate_cli.measurement import Measured, OrganStats, Tally
from segmate_cli.organs import Organ, foreign_organ
from segmate_cli.placement import check_grid
from segmate_cli.sheets import stacked_planes
from segmate_cli.volume import Hounsfield, LabelMap, LabelValues, Scan

Counts = npt.NDArray[np.int64]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

# Histograms count HU in steps of 10; what lies beyond counts in the outermost steps.
HU_LOW, HU_HIGH, HU_STEP = -1100, 1500, 10
_HU_BINS = (HU_HIGH - HU_LOW) // HU_STEP
_VALUES = 1 << 16
# Skin is denser, the air around and in a patient is not; blankets hardly are.
_BODY_HU = -300
# A line of voxels belongs to the patient if so many of them are dense: a table's edge is thin.
_BODY_SHARE = 0.03


@dataclass(frozen=True, slots=True)
class Place:
    """Where an organ lies, in voxels along (k, j, i).

    Attributes:
        centre: Median of its voxels along each axis, so that each plane through it holds some.
        box: First and last index.
    """

    centre: tuple[int, int, int]
    box: Box


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What one pass tells.

    Attributes:
        organs: Label value to organ, with those that nobody named.
        measured: The organs wanted and the verdict, as ``measurement.examine`` has them.
        places: By organ's key; those without a voxel are missing.
        histograms: Voxels by HU, (n,) in steps of ``HU_STEP`` from ``HU_LOW``, by organ's key;
            empty without a CT.
        body: First and last index of what is denser than air, or of all organs without a CT.
    """

    organs: dict[int, Organ]
    measured: Measured
    places: dict[str, Place]
    histograms: dict[str, Counts]
    body: Box

    @property
    def stats(self) -> tuple[OrganStats, ...]:
        """Of the organs wanted."""
        return self.measured.stats


def locate(
    labels: LabelMap,
    scan: Scan | None,
    wanted: Sequence[Organ] | None = None,
    rules: Sequence[Rule] = RULES,
    earlier: Earlier | None = None,
) -> Whereabouts:
    """Look at every voxel once.

    Args:
        labels: The label map.
        scan: The scan that was segmented, for HU.
        wanted: Which organs to measure; by default all.
        rules: The gates.
        earlier: What an earlier look at the scan said.

    Raises:
        GeometryError: The scan lies on another grid.
        InputError: A file is cut or damaged.
    """
    if scan is not None:
        check_grid(labels.geometry, scan.geometry)
    shape = labels.geometry.shape
    highest = max(np.iinfo(labels.dtype).max, *labels.organs)
    tally, lines, hu_counts = Tally(labels.geometry, highest, labels), Lines(shape), HuCounts()
    body = [np.zeros(n, np.int64) for n in shape]
    for k, (planes, hu) in enumerate(zip(stacked_planes(labels), _planes(scan), strict=False)):
        tally.add(planes[0], hu, *planes[1:])
        for plane in planes:
            lines.add(k, plane)
            if hu is not None:
                hu_counts.add(plane, hu)
        labelled = np.any([plane > 0 for plane in planes], axis=0)
        _add_body(body, k, labelled if hu is None else hu > _BODY_HU)
    organs = dict(labels.organs)
    for value in lines.values - organs.keys():
        organs[value] = foreign_organ(f"label_{value}", value)
    listed = [organ for _, organ in sorted(organs.items())]
    return Whereabouts(
        organs=organs,
        measured=tally.measured(organs, listed if wanted is None else wanted, rules, earlier),
        places=_places(organs, lines),
        histograms={} if scan is None else _histograms(organs, hu_counts),
        body=_body_box(body, shape, 0.0 if scan is None else _BODY_SHARE),
    )


def _planes(scan: Scan | None) -> Iterator[Hounsfield] | Iterator[None]:
    return repeat(None) if scan is None else scan.planes()


class Lines:
    """Voxels of each label value by index along each axis."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self._row_of = np.full(_VALUES, -1, np.int32)
        self._counts: dict[int, tuple[Counts, Counts, Counts]] = {}

    @property
    def values(self) -> set[int]:
        """Label values that were met."""
        return set(self._counts)

    def add(self, k: int, plane: LabelValues) -> None:
        """Count slice k."""
        row, column = np.nonzero(plane)
        found = plane[row, column]
        present = np.flatnonzero(np.bincount(found, minlength=1))
        self._row_of[present] = np.arange(present.size)
        which = self._row_of[found].astype(np.int64)
        _, rows, columns = self._shape
        by_row = np.bincount(which * rows + row, minlength=present.size * rows)
        by_column = np.bincount(which * columns + column, minlength=present.size * columns)
        for n, value in enumerate(present.tolist()):
            along_k, along_j, along_i = self.of(value)
            along_j += by_row[n * rows : (n + 1) * rows]
            along_i += by_column[n * columns : (n + 1) * columns]
            along_k[k] += by_row[n * rows : (n + 1) * rows].sum()

    def of(self, value: int) -> tuple[Counts, Counts, Counts]:
        """Counts along k, j and i of a value."""
        if value not in self._counts:
            k, j, i = (np.zeros(n, np.int64) for n in self._shape)
            self._counts[value] = (k, j, i)
        return self._counts[value]


class HuCounts:
    """Voxels of each label value by HU."""

    def __init__(self) -> None:
        self._counts: dict[int, Counts] = {}

    def add(self, plane: LabelValues, hu: Hounsfield) -> None:
        """Count the next slice."""
        inside = plane > 0
        found = plane[inside]
        steps = (np.clip(hu[inside].astype(np.int32), HU_LOW, HU_HIGH - 1) - HU_LOW) // HU_STEP
        present = np.flatnonzero(np.bincount(found, minlength=1))
        order = np.searchsorted(present, found)
        both = np.bincount(order * _HU_BINS + steps, minlength=present.size * _HU_BINS)
        for value, row in zip(present.tolist(), both.reshape(-1, _HU_BINS), strict=True):
            self._counts[value] = self.of(value) + row

    def of(self, value: int) -> Counts:
        """Counts of a value."""
        return self._counts.get(value, np.zeros(_HU_BINS, np.int64))


def _values_of(organs: dict[int, Organ]) -> dict[str, list[int]]:
    """Label values by organ's key: two values may mean one organ."""
    values: dict[str, list[int]] = {}
    for value, organ in organs.items():
        values.setdefault(organ.key, []).append(value)
    return values


def _places(organs: dict[int, Organ], lines: Lines) -> dict[str, Place]:
    places = {}
    for key, values in _values_of(organs).items():
        known = [lines.of(value) for value in values if value in lines.values]
        if not known:
            continue
        sums = [np.sum(along, axis=0) for along in zip(*known, strict=True)]
        k, j, i = (_median(along) for along in sums)
        first, second, third = (_span(along > 0) for along in sums)
        places[key] = Place((k, j, i), (first, second, third))
    return places


def _histograms(organs: dict[int, Organ], counts: HuCounts) -> dict[str, Counts]:
    return {
        key: np.sum([counts.of(value) for value in values], axis=0)
        for key, values in _values_of(organs).items()
    }


def _median(along: Counts) -> int:
    total = np.cumsum(along)
    return int(np.searchsorted(total, (total[-1] + 1) // 2))


def _span(there: npt.NDArray[np.bool_]) -> tuple[int, int]:
    found = np.flatnonzero(there)
    return (int(found[0]), int(found[-1])) if found.size else (0, there.size - 1)


def _add_body(body: list[Counts], k: int, dense: npt.NDArray[np.bool_]) -> None:
    body[0][k] += np.count_nonzero(dense)
    body[1] += np.count_nonzero(dense, axis=1)
    body[2] += np.count_nonzero(dense, axis=0)


def _body_box(body: list[Counts], shape: tuple[int, int, int], share: float) -> Box:
    voxels = float(np.prod([float(n) for n in shape]))
    k, j, i = (_span(counts > share * voxels / n) for counts, n in zip(body, shape, strict=True))
    return k, j, i
