"""Small charts as SVG data: a histogram of HU, a volume within its reference range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segmate_cli.look.whereabouts import HU_LOW, HU_STEP, Counts

WIDTH, HEIGHT = 320, 120
_MARGIN = 12
_BASE = HEIGHT - 22
# The histogram shows all but these tails of the voxels, and at least so many HU.
_TAIL = 0.005
_LEAST_HU = 120


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on a horizontal axis."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram's area, in pixels of WIDTH x HEIGHT, and what it says.

    Attributes:
        path: Data of the area's SVG path.
        ticks: Along the HU axis.
        mean_x: Where the mean lies.
        band: x and width of the HU range in which the mean usually lies; None where unknown.
        words: What it shows, for those who do not see it.
    """

    path: str
    ticks: tuple[Tick, ...]
    mean_x: float
    band: tuple[float, float] | None
    words: str


def histogram(
    counts: Counts, mean_hu: float, usual_hu: tuple[float, float] | None = None
) -> Histogram:
    """Draw the voxels of an organ by HU; there must be some."""
    low, high = quantile_hu(counts, _TAIL), quantile_hu(counts, 1 - _TAIL)
    spare = max(0.06 * (high - low), (_LEAST_HU - (high - low)) / 2)
    low, high = low - spare, high + spare

    def x_of(hu: float) -> float:
        share = min(1.0, max(0.0, (hu - low) / (high - low)))
        return round(_MARGIN + share * (WIDTH - 2 * _MARGIN), 1)

    shown = [n for n in range(counts.size) if _hu(n + 1) > low and _hu(n) < high]
    most = max(1, int(counts[shown].max()))
    points = [f"M{x_of(low)} {_BASE}"]
    for step in shown:
        y = round(_BASE - float(counts[step]) / most * (_BASE - 8), 1)
        points.append(f"L{x_of(_hu(step))} {y}L{x_of(_hu(step + 1))} {y}")
    points.append(f"L{x_of(high)} {_BASE}Z")
    band = None
    if usual_hu is not None:
        left, right = x_of(usual_hu[0]), x_of(usual_hu[1])
        band = (left, round(right - left, 1))
    words = (
        f"Histogram of HU: mean {mean_hu:.0f}, 5 % of the voxels below "
        f"{quantile_hu(counts, 0.05):.0f}, 5 % above {quantile_hu(counts, 0.95):.0f}."
    )
    ticks = tuple(
        Tick(x_of(hu), f"{hu:.0f}".replace("-", "\u2212")) for hu in round_numbers(low, high)
    )
    return Histogram("".join(points), ticks, x_of(mean_hu), band, words)


def quantile_hu(counts: Counts, share: float) -> float:
    """HU below which a share of the voxels lies, to within a step."""
    total = np.cumsum(counts)
    return float(_hu(int(np.searchsorted(total, share * total[-1]))))


def _hu(step: int) -> int:
    return HU_LOW + step * HU_STEP


def round_numbers(low: float, high: float, least: int = 3) -> Sequence[float]:
    """At least so many round numbers between two, as few as there can be."""
    power = 10.0 ** math.floor(math.log10(high - low))
    for step in (5 * power, 2 * power, power, power / 2, power / 5, power / 10):
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first + 1 >= least:
            break
    return [n * step for n in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class RangeBar:
    """A value beside its usual range, in per cent of the bar's width."""

    low: float
    high: float
    value: float
    inside: bool


def range_bar(value: float, usual: tuple[float, float]) -> RangeBar:
    """Place a value on a bar that begins at 0 and ends where the upper limit is two thirds of it.

    A value far above lies at the bar's end.
    """
    end = usual[1] * 1.5
    share = 100.0 * min(1.0, value / end)
    inside = usual[0] <= value <= usual[1]
    return RangeBar(round(100 * usual[0] / end, 1), round(100 / 1.5, 1), round(share, 1), inside)
