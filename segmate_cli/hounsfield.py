"""Is this CT in Hounsfield units? What surely is not gets refused; what is odd gets a warning.

Water is 0 HU and air -1000 HU by definition; every body in a scanner has voxels on both sides of
0 (fat lies near -100). Scanners store at most 12 bits, -1024 to 3071, or 16 bits with metal.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from segmate_cli.errors import NotHounsfieldError
from segmate_cli.volume import Volume

_OVERRIDE = "If you are sure that it is CT, use --no-hu-check"
# A histogram of every n-th slice is enough to see where its peaks are.
_SLICES_LOOKED_AT = 64


def check_hu(volume: Volume) -> tuple[str, ...]:
    """Look at a scan's values.

    Returns:
        Warnings, one sentence each.

    Raises:
        NotHounsfieldError: Says what was seen and how to override.
    """
    step = max(1, volume.hu.shape[0] // _SLICES_LOOKED_AT)
    sample = volume.hu[::step]
    low, high = int(sample.min()), int(sample.max())
    reason = _refusal(sample, low, high)
    if reason:
        raise NotHounsfieldError(f"{_name(volume)}{reason}. {_OVERRIDE}.")
    return _warnings(sample, high)


def _refusal(sample: npt.NDArray[np.int16], low: int, high: int) -> str | None:
    if low == high:
        return f"every voxel is {low}: an empty volume"
    if high - low < 100:
        return f"values from {low} to {high} span too little for CT: scaled to 0..1 or a mask?"
    if low >= 0 and high <= 255:
        return f"values from {low} to {high} are those of an 8-bit picture, not HU"
    if low >= 0:
        return (
            f"values from {low} to {high}: none is below 0, so these are raw scanner values "
            "(rescale intercept missing, HU clipped at 0) or MR"
        )
    if high < -200:
        return f"values from {low} to {high}: there is nothing as dense as a body"
    if _share(sample, 850, 1100) > 0.1 > 10 * _share(sample, -1100, -850) and low > -1100:
        return f"values from {low} to {high} with a peak near +1000: the sign is inverted"
    return None


def _warnings(sample: npt.NDArray[np.int16], high: int) -> tuple[str, ...]:
    found = []
    body = _share(sample, -200, 300)
    if body < 0.02:
        found.append(f"Only {body:.1%} of the voxels are in the range of soft tissue and fat.")
    if high <= 300:
        found.append(f"No voxel is over {high} HU: bone seems clipped, so this is a windowed scan.")
    return tuple(found)


def _share(sample: npt.NDArray[np.int16], low: int, high: int) -> float:
    return float(np.count_nonzero((sample >= low) & (sample <= high)) / sample.size)


def _name(volume: Volume) -> str:
    return f"{volume.source.path}: " if volume.source else ""
