"""Sizes of organs and distances between them, over the usual: what tells a wrong spacing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.doubt.anatomy import SPANS
from segmate_cli.doubt.case import Case, Measured, sides_mm
from segmate_cli.doubt.status import body_axis, height_mm

# Of the usual length of an organ that must be in view before its distance from the cord counts.
_IN_VIEW_SHARE = 0.5
# Of an organ that is cut, less of its length says nothing of its shape.
_SHAPED_MM = 60.0
# In less of a body all is cut.
_SLAB_MM = 70.0
# What seems shorter than that has not been drawn out to twice its length.
_LONG_MM = 150.0
# Typical distances from the cord: medians of the scans of trunks that the gates were made on.
_ACROSS_MM = {
    **{"lung_left": 77.0, "lung_right": 70.0, "liver": 68.0, "spleen": 99.0},
    **{"kidney_left": 71.0, "kidney_right": 71.0},
}
# Lengths along the body over widths, as standard deviations of places, of whole organs.
_SHAPES = {
    **{"heart": 0.56, "kidney_left": 1.15, "kidney_right": 1.14, "liver": 0.55},
    **{"lung_left": 0.98, "lung_right": 0.90, "spleen": 0.68},
}
# Areas seen along the body over those seen from front and side, of whole and of cut organs.
_FACING = {
    key: {"complete": whole, "truncated": cut}
    for key, whole, cut in (
        *(("lung_left", 0.38, 0.38), ("lung_right", 0.40, 0.40), ("heart", 0.76, 0.59)),
        *(("liver", 0.56, 0.65), ("spleen", 0.44, 0.57)),
        *(("kidney_left", 0.42, 0.39), ("kidney_right", 0.37, 0.41)),
    )
}
# Ends of organs that two readers would put at the same height; and how far apart two must be.
_SHARP_ENDS = {
    **{"lung_left": "both", "lung_right": "both", "heart": "both", "liver": "high"},
    **{"kidney_left": "both", "kidney_right": "both", "spleen": "both", "trachea": "low"},
}
_APART_MM = 60.0
# Tissue is compared so far apart: nearer, noise counts; further, all differs from all. Between fat
# and blood: lung and bone would drown the rest.
_TISSUE_APART_MM, _TISSUE_HU = 8.0, (-200, 200)
_BODY_HU, _FEW_PAIRS = -400, 500
# By what factor a body of half the length differs from the usual in these, and the organs' usual.
_TISSUE_HALVED, _ORGANS_HALVED, _ORGANS_USUAL = 1.38, 1.73, 0.95
# Tissue's usual in a trunk and in a neck, where all directions are more alike. A trunk reaches as
# high as organs fill such shares of a slice's body; as little of it as that may be a mistake.
_TRUNK_USUAL, _NECK_USUAL, _LITTLE_TRUNK = 0.745, 0.92, 0.1
_TRUNK = (
    (("heart", "liver", "spleen", "kidney_left", "kidney_right"), 0.003),
    (("lung_left", "lung_right"), 0.12),
)


def size_across(case: Case) -> Measured:
    """Distances of organs from the cord, left and right, over what is typical."""
    sides = sides_mm(case)
    ratios = [
        abs(sides[key]) / usual
        for key, usual in _ACROSS_MM.items()
        if key in sides and _mostly_in_view(case, key)
    ]
    return {"across": float(np.median(ratios))} if ratios else {}


def _mostly_in_view(case: Case, key: str) -> bool:
    """Whether half an organ's usual length is: the tip of a lung is nearer to the cord."""
    span_mm = case.organs[key].span_mm
    usual_mm = SPANS[key].high_mm - SPANS[key].low_mm
    return span_mm is not None and span_mm[1] - span_mm[0] >= _IN_VIEW_SHARE * usual_mm


def size_along(case: Case) -> Measured:
    """Distances between ends of organs along the body over the reference adult's, and shapes."""
    ratios = [*_end_ratios(case)]
    for key, places in case.places.items():
        if case.organs[key].is_whole and key in _SHAPES:
            x, y, z = places.std(axis=0)
            ratios.append(float(z / np.hypot(x, y)) / _SHAPES[key])
    return {"along": float(np.median(ratios))} if len(ratios) >= 5 else {}


def size_facing(case: Case) -> Measured:
    """Areas of organs seen along the body over those seen across it, over the usual.

    Twice, or half, where slices lie twice, or half, as far apart as they should; and this of any
    part of an organ, wherever the scan ends.
    """
    if height_mm(case.survey) < _SLAB_MM:
        return {}
    small = case.survey.small
    axis, _ = body_axis(case.survey)
    sizes = small.geometry.spacing_mm
    ratios = []
    for key, usual in _FACING.items():
        if key not in case.places:
            continue
        kind = "complete" if case.organs[key].is_whole else "truncated"
        low_mm, high_mm = case.organs[key].span_mm or (0.0, 0.0)
        if kind == "truncated" and high_mm - low_mm < _SHAPED_MM:
            continue
        mask = small.mask(case.values[key])
        areas = [
            np.count_nonzero(mask[1:] != mask[:-1]) * float(np.prod(sizes)) / size
            for size, mask in ((sizes[n], np.moveaxis(mask, n, 0)) for n in range(3))
        ]
        along = areas.pop(axis)
        if along > 0 and sum(areas) > 0:
            ratios.append(along / sum(areas) / usual[kind])
    return {"facing": float(np.median(ratios))} if len(ratios) >= 2 else {}


def squeezed(case: Case) -> Measured:
    """How squeezed a body looks: 1 as usual, 2 at half its length, 0.5 at twice.

    Organs and tissue tell the same and err by themselves, so that their mean is surer than either.
    """
    tissue = _tissue_change(case)
    if tissue is None:
        return {}
    told = [np.log(tissue) / np.log(_TISSUE_HALVED)]
    organs = size_facing(case).get("facing")
    if organs:
        told.append(np.log(organs / _ORGANS_USUAL) / np.log(_ORGANS_HALVED))
    name = "squeezed" if height_mm(case.survey) >= _LONG_MM else "in a short scan"
    return {name: float(2.0 ** np.mean(told))}


def _tissue_change(case: Case) -> float | None:
    """How much tissue changes along the body, over how much it does across it, over the usual."""
    if case.scan is None or height_mm(case.survey) < _SLAB_MM:
        return None
    axis, upwards = body_axis(case.survey)
    sizes = case.survey.small.geometry.spacing_mm
    across = (0 if axis else 1, 2 if axis < 2 else 1)
    inside = case.scan.small_hu > _BODY_HU
    body = _between_ends(inside, across[0]) & _between_ends(inside, across[1])
    hu = np.clip(case.scan.small_hu, *_TISSUE_HU)
    apart_mm = max(_TISSUE_APART_MM, *sizes)
    changes = [_change(hu, body, n, apart_mm / sizes[n]) for n in (axis, *across)]
    if not all(changes):
        return None
    found = changes[0] * 2 / (changes[1] + changes[2])
    trunk = body & np.expand_dims(_trunk(case, body, across, upwards), across)
    return found / _usual_change(found, np.count_nonzero(trunk) / np.count_nonzero(body))


def _usual_change(found: float, trunk: float) -> float:
    """What is usual where such a share of the body is trunk; unknown, what fits best."""
    if trunk < _LITTLE_TRUNK:
        return min(max(found, _TRUNK_USUAL), _NECK_USUAL)
    return float(_TRUNK_USUAL**trunk * _NECK_USUAL ** (1.0 - trunk))


def _trunk(
    case: Case, body: npt.NDArray[np.bool_], across: tuple[int, int], upwards: bool
) -> npt.NDArray[np.bool_]:
    """Slices up to the highest in which organs fill enough: in necks all directions are alike."""
    small = case.survey.small
    filled = np.zeros(small.geometry.shape[3 - sum(across)], np.bool_)
    for keys, share in _TRUNK:
        values = [value for key in keys for value in case.values.get(key, ())]
        filled |= small.mask(values).sum(axis=across) > share * body.sum(axis=across)
    ordered = filled[::-1] if upwards else filled
    below: npt.NDArray[np.bool_] = np.logical_or.accumulate(ordered)
    return below[::-1] if upwards else below


def _between_ends(mask: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.bool_]:
    """What lies between the first and the last voxel along an axis: lungs are in a body, too."""
    after = np.logical_or.accumulate(mask, axis)
    before = np.flip(np.logical_or.accumulate(np.flip(mask, axis), axis), axis)
    both: npt.NDArray[np.bool_] = after & before
    return both


def _change(hu: npt.NDArray[Any], body: npt.NDArray[np.bool_], axis: int, steps: float) -> float:
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


def _end_ratios(case: Case) -> list[float]:
    ends: list[tuple[float, float]] = []
    for key, which in _SHARP_ENDS.items():
        each = case.organs.get(key)
        if each is None or each.span_mm is None or key not in case.places:
            continue
        if which != "high" and "inferior" not in each.faces:
            ends.append((SPANS[key].low_mm, each.span_mm[0]))
        if which != "low" and "superior" not in each.faces:
            ends.append((SPANS[key].high_mm, each.span_mm[1]))
    return [
        (own - other) / (usual - reference)
        for usual, own in ends
        for reference, other in ends
        if usual - reference >= _APART_MM
    ]
