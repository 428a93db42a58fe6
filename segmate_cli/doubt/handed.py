"""Left- and right-handed bodies: what tells a mirrored scan, whatever its organs are called."""

from __future__ import annotations

import numpy as np

from segmate_cli.doubt.case import Case, FloatArray, Measured, midline_mm
from segmate_cli.doubt.status import LONG_MM, body_axis, height_mm

# What makes a trunk left- or right-handed: usual mm to the left of the cord or of the middle, and
# how much each tells; medians of the half of the patients that limits are made on.
_HANDED_MM = {
    **{"liver and spleen": (-48.0, 1.0), "aorta": (12.0, 1.0), "tissue": (-13.0, 1.0)},
    **{"heart": (23.0, 0.7), "esophagus": (7.0, 0.7)},
}
# A liver has seven times a spleen's volume; where one is taken for the other, the same.
_LIVER_OVER_SPLEEN = (1.0, 1.0)
_MOST_HANDED = 1.5
_LIVER_LEVEL_MM = 120.0


def handedness(case: Case) -> Measured:
    """Organs and tissue beside the cord: 1 for where they usually lie, -1 mirrored.

    A network that has seen many bodies names organs by their place, so that their names alone do
    not tell a mirrored scan.
    """
    found = beside_mm(case)
    parts = [
        (found[name] / usual, weight)
        for name, (usual, weight) in _HANDED_MM.items()
        if name in found
    ]
    both = _liver_and_spleen(case)
    if found and len(both) == 2:
        usual, step = _LIVER_OVER_SPLEEN
        parts.append(((float(np.log(both[0].size / both[1].size)) - usual) / step, 1.0))
    if len(parts) < 2:
        return {}
    values, weights = (np.array(each) for each in zip(*parts, strict=True))
    told = np.average(np.clip(values, -_MOST_HANDED, _MOST_HANDED), weights=weights)
    name = "handedness" if height_mm(case.survey) >= LONG_MM else "in a short scan"
    return {name: float(told)}


def beside_mm(case: Case) -> Measured:
    """How far left of the middle those lie that tell a side."""
    midline = midline_mm(case)
    if midline is None:
        return {}
    found: Measured = {
        key: float(case.places[key][:, 0].mean()) - midline
        for key in ("aorta", "heart", "esophagus")
        if key in case.places
    }
    both = _liver_and_spleen(case)
    if both:
        found["liver and spleen"] = float(np.concatenate(both).mean()) - midline
    tissue = _tissue_mm(case)
    if tissue is not None:
        found["tissue"] = tissue
    return found


def _liver_and_spleen(case: Case) -> list[FloatArray]:
    """How far left voxels of each lie, where they tell a side."""
    keys = [key for key in ("liver", "spleen") if key in case.places and _tells(case, key)]
    return [case.places[key][:, 0] for key in keys]


def _tells(case: Case, key: str) -> bool:
    """Whether a liver or spleen tells a side: the tip of a spleen alone lies left in any body."""
    return key == "liver" or "liver" in case.places or not case.is_sliver(key)


def _tissue_mm(case: Case) -> float | None:
    """How far left of the body's middle soft tissue lies at the level of the liver."""
    if case.scan is None or "liver" not in case.places:
        return None
    geometry = case.survey.small.geometry
    axis, _ = body_axis(case.survey)
    inverse = np.linalg.inv(geometry.affine)
    top = case.places["liver"][np.argmax(case.places["liver"][:, 2])]
    bottom = top - (0.0, 0.0, _LIVER_LEVEL_MM)
    ends = sorted(float((inverse[:3, :3] @ at + inverse[:3, 3])[axis]) for at in (top, bottom))
    level = slice(max(0, round(ends[0])), round(ends[1]) + 1)
    hu = np.moveaxis(case.scan.small_hu, axis, 0)[level]
    means = []
    for low, high in ((0, 250), (-300, 4000)):
        mask = (hu > low) & (hu < high)
        count = np.count_nonzero(mask)
        if count < 50:
            return None
        middle = [
            float((np.arange(n) * mask.sum(axis=others)).sum()) / count
            for n, others in zip(mask.shape, ((1, 2), (0, 2), (0, 1)), strict=True)
        ]
        along = middle.pop(0) + level.start
        middle.insert(axis, along)
        means.append(float(geometry.to_lps_mm(middle)[0]))
    return means[0] - means[1]
