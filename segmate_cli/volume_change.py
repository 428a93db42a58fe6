"""Between what a change of volume lies, where both volumes have intervals of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segmate_cli import sidecar

Interval = tuple[float, float]


def intervals_of(labels_path: Path) -> dict[str, Interval]:
    """Intervals of organs' volumes in ml, by key, as the sidecar of a label map has them.

    They come of ``predict --uncertainty``; empty without a sidecar, or where the file has changed.
    """
    return intervals_in(sidecar.content_of(labels_path))


def intervals_in(told: Mapping[str, Any] | None) -> dict[str, Interval]:
    """As ``intervals_of``, of what a sidecar says."""
    doubt = (told or {}).get("doubt")
    rows = doubt.get("organs") if isinstance(doubt, Mapping) else None
    found = {}
    for row in rows if isinstance(rows, list) else ():
        interval = _interval_in(row)
        if interval is not None:
            found[str(row.get("organ"))] = interval
    return found


def _interval_in(row: Any) -> Interval | None:
    if not isinstance(row, Mapping):
        return None
    low, high = row.get("volume_low_ml"), row.get("volume_high_ml")
    if not isinstance(low, int | float) or not isinstance(high, int | float) or low > high:
        return None
    return float(low), float(high)


def change_interval(
    first_ml: float, first: Interval, second_ml: float, second: Interval
) -> Interval:
    """The interval of second minus first, at the coverage that both have.

    The distances to the ends are added in squares, as holds for independent errors (Zou and Donner,
    2008). A network errs alike on scans of one patient, so that the interval rather is too wide.
    """
    change = second_ml - first_ml
    down = math.hypot(max(second_ml - second[0], 0.0), max(first[1] - first_ml, 0.0))
    up = math.hypot(max(second[1] - second_ml, 0.0), max(first_ml - first[0], 0.0))
    return change - down, change + up
