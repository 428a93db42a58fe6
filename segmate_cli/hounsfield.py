"""Is this CT in Hounsfield units? What surely is not gets refused; what is odd gets a warning.

Water is 0 HU and air -1000 HU by definition; every body in a scanner has voxels on both sides of
0 (fat lies near -100). Scanners store at most 12 bits, -1024 to 3071, or 16 bits with metal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.errors import NotHounsfieldError
from segmate_cli.volume import Volume

_OVERRIDE = "If you are sure that it is CT, use --no-hu-check"
# A look at every n-th slice is enough to see where the peaks of the histogram are.
_SLICES_LOOKED_AT = 64
# Ranges whose shares are told apart: a body, true air, and air with the sign turned round.
_BODY, _AIR, _NEGATED_AIR = (-200, 300), (-1100, -850), (850, 1100)
# What lies lower was not scanned: scanners fill the corners with -2000, -3024 and the like.
_LOWEST_SCANNED = -1500


class HuCensus:
    """Counts of HU in the ranges that matter, filled slice by slice.

    Args:
        slices: How many slices the scan has.
    """

    def __init__(self, slices: int) -> None:
        self._step = max(1, slices // _SLICES_LOOKED_AT)
        self._seen = 0
        self._total = 0
        self._low, self._high = 32767, -32768  # of what was scanned; of all
        self._counts = dict.fromkeys((_BODY, _AIR, _NEGATED_AIR), 0)

    def add(self, plane: npt.NDArray[np.int16]) -> None:
        """Count the next slice (or pass over it: only a sample of a long scan is looked at)."""
        looked_at = self._seen % self._step == 0
        self._seen += 1
        if not looked_at:
            return
        self._total += plane.size
        scanned = plane >= _LOWEST_SCANNED
        self._low = min(self._low, int(plane.min(where=scanned, initial=32767)))
        self._high = max(self._high, int(plane.max()))
        for low, high in self._counts:
            inside = (plane >= low) & (plane <= high)
            self._counts[low, high] += int(np.count_nonzero(inside))

    def verdict(self, name: str = "") -> tuple[str, ...]:
        """What the counts say.

        Args:
            name: Of the scan, for the message.

        Returns:
            Warnings, one sentence each.

        Raises:
            NotHounsfieldError: Says what was seen and how to override.
        """
        reason = self._refusal()
        if reason:
            where = f"{name}: " if name else ""
            raise NotHounsfieldError(f"{where}{reason}. {_OVERRIDE}.")
        return self._warnings()

    def _refusal(self) -> str | None:
        low, high = self._low, self._high
        span = f"values from {low} to {high}"
        if low >= high:
            return f"every voxel is {high} (or padding): an empty volume"
        if high - low < 100:
            return f"{span} span too little for CT (scaled to 0..1, or a mask)"
        if low >= 0 and high <= 255:
            return f"{span} are those of an 8-bit picture, not HU"
        if low >= 0:
            return (
                f"{span}: none is below 0, so these are raw scanner values (rescale intercept "
                "missing, HU clipped at 0) or MR"
            )
        if high < -200:
            return f"{span}: there is nothing as dense as a body"
        if self._share(_NEGATED_AIR) > 0.1 > 10 * self._share(_AIR):
            return (
                f"{span} with a peak near +1000 and none near -1000: the sign is inverted, or the "
                "rescale intercept is missing"
            )
        return None

    def _warnings(self) -> tuple[str, ...]:
        found = []
        body = self._share(_BODY)
        if body < 0.02:
            found.append(f"Only {body:.1%} of the voxels are in the range of soft tissue and fat.")
        if self._high <= 300:
            found.append(
                f"No voxel is over {self._high} HU: bone seems clipped, so this is a windowed scan."
            )
        return tuple(found)

    def _share(self, between: tuple[int, int]) -> float:
        return self._counts[between] / max(1, self._total)


def check_hu(volume: Volume) -> tuple[str, ...]:
    """Look at the values of a scan in memory; see ``HuCensus.verdict``."""
    census = HuCensus(volume.hu.shape[0])
    for plane in volume.hu:
        census.add(plane)
    return census.verdict(_name(volume.source))


def _name(source: Any) -> str:
    return str(source.path) if source else ""
