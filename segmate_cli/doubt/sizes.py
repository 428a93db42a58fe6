"""Sizes of organs and distances between them, over the usual: what tells a wrong spacing."""

from __future__ import annotations

import numpy as np

from segmate_cli.doubt.anatomy import SPANS
from segmate_cli.doubt.case import Case, Measured, sides_mm
from segmate_cli.doubt.status import body_axis, height_mm

# Of the usual length of an organ that must be in view before its distance from the cord counts.
_IN_VIEW_SHARE = 0.5
# Of an organ that is cut, less of its length says nothing of its shape.
_SHAPED_MM = 60.0
# In less of a body all is cut.
_SLAB_MM = 70.0
# The usual numbers below are medians of the half of the patients that limits are made on
# (python -m benchmarks.doubt limits). Distances from the cord:
_ACROSS_MM = {
    **{"lung_left": 77.0, "lung_right": 69.0, "liver": 71.0, "spleen": 101.0},
    **{"kidney_left": 76.0, "kidney_right": 75.0},
}
# Lengths along the body over widths, as standard deviations of places, of whole organs.
_SHAPES = {
    **{"heart": 0.55, "kidney_left": 1.20, "kidney_right": 1.06, "liver": 0.50},
    **{"lung_left": 0.99, "lung_right": 0.93, "spleen": 0.69},
}
# Areas seen along the body over those seen from front and side, of whole and of cut organs.
_FACING = {
    **{"lung_left": 0.38, "lung_right": 0.37, "heart": 0.68, "liver": 0.61, "spleen": 0.53},
    **{"kidney_left": 0.40, "kidney_right": 0.40},
    **{"lung_left, cut": 0.37, "lung_right, cut": 0.36, "heart, cut": 0.57, "liver, cut": 0.60},
    **{"spleen, cut": 0.39, "kidney_left, cut": 0.36, "kidney_right, cut": 0.41},
}
# Ends of organs that two readers would put at the same height; and how far apart two must be.
_SHARP_ENDS = {
    **{"lung_left": "both", "lung_right": "both", "heart": "both", "liver": "high"},
    **{"kidney_left": "both", "kidney_right": "both", "spleen": "both", "trachea": "low"},
}
_APART_MM = 60.0


def size_across(case: Case) -> Measured:
    """Distances of organs from the cord, left and right, over what is typical."""
    ratios = [each / _ACROSS_MM[key] for key, each in across_mm(case).items()]
    return {"across": float(np.median(ratios))} if ratios else {}


def across_mm(case: Case) -> Measured:
    """How far from the cord organs lie, of those that are mostly in view."""
    sides = sides_mm(case)
    return {
        key: abs(sides[key]) for key in _ACROSS_MM if key in sides and _mostly_in_view(case, key)
    }


def _mostly_in_view(case: Case, key: str) -> bool:
    """Whether half an organ's usual length is: the tip of a lung is nearer to the cord."""
    span_mm = case.organs[key].span_mm
    usual_mm = SPANS[key].high_mm - SPANS[key].low_mm
    return span_mm is not None and span_mm[1] - span_mm[0] >= _IN_VIEW_SHARE * usual_mm


def size_along(case: Case) -> Measured:
    """Distances between ends of organs along the body over the reference adult's, and shapes."""
    ratios = [*_end_ratios(case)]
    ratios += [each / _SHAPES[key] for key, each in shapes(case).items()]
    return {"along": float(np.median(ratios))} if len(ratios) >= 5 else {}


def shapes(case: Case) -> Measured:
    """Lengths of whole organs along the body over their widths."""
    found = {}
    for key, places in case.places.items():
        if case.organs[key].is_whole and key in _SHAPES:
            x, y, z = places.std(axis=0)
            found[key] = float(z / np.hypot(x, y))
    return found


def size_facing(case: Case) -> Measured:
    """Areas of organs seen along the body over those seen across it, over the usual.

    Twice, or half, where slices lie twice, or half, as far apart as they should; and this of any
    part of an organ, wherever the scan ends.
    """
    ratios = [each / _FACING[name] for name, each in facings(case).items()]
    return {"facing": float(np.median(ratios))} if len(ratios) >= 2 else {}


def facings(case: Case) -> Measured:
    """Areas of organs seen along the body over those seen from front and side; cut ones apart."""
    if height_mm(case.survey) < _SLAB_MM:
        return {}
    small = case.survey.small
    axis, _ = body_axis(case.survey)
    sizes = small.geometry.spacing_mm
    found = {}
    for key in case.places:
        name = key if case.organs[key].is_whole else f"{key}, cut"
        low_mm, high_mm = case.organs[key].span_mm or (0.0, 0.0)
        if name not in _FACING or (name != key and high_mm - low_mm < _SHAPED_MM):
            continue
        mask = small.mask(case.values[key])
        areas = [
            np.count_nonzero(mask[1:] != mask[:-1]) * float(np.prod(sizes)) / size
            for size, mask in ((sizes[n], np.moveaxis(mask, n, 0)) for n in range(3))
        ]
        along = areas.pop(axis)
        if along > 0 and sum(areas) > 0:
            found[name] = along / sum(areas)
    return found


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
