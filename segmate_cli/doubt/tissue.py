"""How much tissue changes along the body and across it: a wrong spacing, told without organs.

Bodies are alike in how fast tissue changes along them, over how fast it does from side to side. The
network has no part in that, but for saying which slices are trunk and which lie above it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.doubt.case import Case, Measured
from segmate_cli.doubt.status import LONG_MM, body_axis, height_mm

Mask = npt.NDArray[np.bool_]

# In less of a body chance has the say.
_LEAST_MM = 65.0
# Tissue is compared so far apart: nearer, noise counts; further, all differs from all. Between fat
# and blood: lung and bone would drown the rest.
_APART_MM, _TISSUE_HU = 8.0, (-200, 200)
_BODY_HU, _FEW_PAIRS = -400, 500
# The change along the body goes with a mean of that across it, from side to side and from front to
# back, with these exponents: least squares, of the half of the patients that limits are made on.
_SIDEWAYS, _FRONTWAYS = 4 / 3, -1 / 3
# By what factor it differs in a body of half the length.
_HALVED = 1.34
# Its usual in a trunk and in what lies above it, necks and shoulders; and in shoulders alone. A
# trunk reaches as high as organs fill such shares of a slice's body; as little of it as that may be
# a mistake.
_TRUNK_USUAL, _ABOVE_USUAL, _SHOULDERS_USUAL, _LITTLE_TRUNK = 0.79, 1.0, 1.2, 0.1
_TRUNK = (
    (("heart", "liver", "spleen", "kidney_left", "kidney_right"), 0.003),
    (("lung_left", "lung_right"), 0.12),
)


def squeezed(case: Case) -> Measured:
    """How squeezed a body looks: 1 as usual, 2 at half its length, 0.5 at twice."""
    found = _change_along(case)
    if found is None:
        return {}
    name = "squeezed" if height_mm(case.survey) >= LONG_MM else "in a short scan"
    return {name: float(2.0 ** (np.log(found) / np.log(_HALVED)))}


def _change_along(case: Case) -> float | None:
    """How much tissue changes along the body, over how much it does across it, over the usual."""
    if case.scan is None or height_mm(case.survey) < _LEAST_MM:
        return None
    small = case.survey.small.geometry
    along, upwards = body_axis(case.survey)
    side = next(n for n, letter in enumerate(small.directions) if letter in "LR")
    front = 3 - along - side
    inside = case.scan.small_hu > _BODY_HU
    body = _between_ends(inside, side) & _between_ends(inside, front)
    hu = np.clip(case.scan.small_hu, *_TISSUE_HU)
    apart_mm = max(_APART_MM, *small.spacing_mm)
    changes = [_change(hu, body, n, apart_mm / small.spacing_mm[n]) for n in (along, side, front)]
    if not all(changes):
        return None
    found = float(changes[0] / (changes[1] ** _SIDEWAYS * changes[2] ** _FRONTWAYS))
    trunk = body & np.expand_dims(_trunk(case, body, along, upwards), (side, front))
    return found / _usual_change(found, np.count_nonzero(trunk) / np.count_nonzero(body))


def _usual_change(found: float, trunk: float) -> float:
    """What is usual where such a share of the body is trunk; without one, what fits best."""
    if trunk < _LITTLE_TRUNK:
        return min(max(found, _TRUNK_USUAL), _SHOULDERS_USUAL)
    return float(_TRUNK_USUAL**trunk * _ABOVE_USUAL ** (1.0 - trunk))


def _trunk(case: Case, body: Mask, along: int, upwards: bool) -> Mask:
    """Slices up to the highest in which organs fill enough: necks and shoulders are not alike."""
    small = case.survey.small
    across = tuple(n for n in range(3) if n != along)
    filled = np.zeros(small.geometry.shape[along], np.bool_)
    for keys, share in _TRUNK:
        values = [value for key in keys for value in case.values.get(key, ())]
        filled |= small.mask(values).sum(axis=across) > share * body.sum(axis=across)
    ordered = filled[::-1] if upwards else filled
    below: Mask = np.logical_or.accumulate(ordered)
    return below[::-1] if upwards else below


def _between_ends(mask: Mask, axis: int) -> Mask:
    """What lies between the first and the last voxel along an axis: lungs are in a body, too."""
    after = np.logical_or.accumulate(mask, axis)
    before = np.flip(np.logical_or.accumulate(np.flip(mask, axis), axis), axis)
    both: Mask = after & before
    return both


def _change(hu: npt.NDArray[Any], body: Mask, axis: int, steps: float) -> float:
    """Mean difference of voxels in the body so many steps apart; 0 where there are too few."""
    hu, body = np.moveaxis(hu, axis, 0), np.moveaxis(body, axis, 0)
    whole = int(steps)
    mean = 0.0
    for lag, part in ((whole, whole + 1 - steps), (whole + 1, steps - whole)):
        if part == 0.0:
            continue
        pairs = body[lag:] & body[:-lag]
        if np.count_nonzero(pairs) < _FEW_PAIRS:
            return 0.0
        mean += part * float(np.abs(hu[lag:] - hu[:-lag])[pairs].mean())
    return mean
