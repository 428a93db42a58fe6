"""Each organ's status: whole, cut by the edge, out of view, or missing where it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from segmate_cli.doubt.anatomy import REGIONS, SPANS
from segmate_cli.doubt.survey import Survey
from segmate_cli.doubt.words import CIRCLE, FACES, OrganStatus
from segmate_cli.organs import Organ

# Bodies differ from the reference adult by about that much.
_MARGIN_MM = 25.0
# Uncut organs that are shorter than such a share of the usual do not tell where they lie.
_WHOLE_SHARE = 0.5
# Organs of either side lie at about one height: where one is seen whole, so is much of the other.
_OTHER_SIDE = {
    **{"kidney_left": "kidney_right", "kidney_right": "kidney_left"},
    **{"lung_left": "lung_right", "lung_right": "lung_left"},
}
# What is measured of a shorter scan is less sure, so that some gates have wider limits for it.
LONG_MM = 150.0
# A region is in view if as much of it is.
_REGION_MM = 60.0
_ENDS_UNKNOWN = "where the scan ends is not known without --ct"


@dataclass(frozen=True, slots=True)
class OrganEvidence:
    """What a survey says of one organ.

    Attributes:
        organ: Which.
        voxels: How many carry its label.
        volume_ml: Their volume.
        faces: Where its mask meets the edge, as ``OrganStatus`` names it.
        edge_share: Part of its surface on the edge.
        span_mm: Lower and upper end along the body, over the scan's lowest voxel; None if empty.
        open_faces: Faces beyond which the scan may go on; an organ that meets one may be cut.
    """

    organ: Organ
    voxels: int
    volume_ml: float
    faces: tuple[str, ...]
    edge_share: float
    span_mm: tuple[float, float] | None
    open_faces: frozenset[str] = frozenset()

    @property
    def is_whole(self) -> bool:
        """Whether it has a voxel, and none where it could go on."""
        return bool(self.voxels) and not self.faces


def gather(
    survey: Survey, organs: Mapping[int, Organ], circle: bool | None = None
) -> dict[str, OrganEvidence]:
    """Evidence by organ key; values that mean the same organ are added up.

    Args:
        survey: Of the label map.
        organs: Label value to organ.
        circle: Whether the scan shows nothing outside its circle; None where nobody knows.
    """
    found: dict[str, OrganEvidence] = {}
    for organ in organs.values():
        if organ.key in found:
            continue
        values = [v for v, each in organs.items() if each.key == organ.key]
        counted = [v for v in values if v < survey.voxels.size]
        voxels = int(survey.voxels[counted].sum())
        edge_mm2 = survey.edge_mm2[counted].sum(axis=0)
        cut_mm2 = sum(
            area
            for face, area in zip(FACES, edge_mm2, strict=True)
            if face not in survey.open_faces
        )
        circle_mm2 = float(survey.circle_mm2[counted].sum()) if circle else 0.0
        surface_mm2 = float(survey.surface_mm2[counted].sum())
        faces = [face for face, area in zip(FACES, edge_mm2, strict=True) if area > 0]
        found[organ.key] = OrganEvidence(
            organ=organ,
            voxels=voxels,
            volume_ml=float(survey.volume_ml[counted].sum()),
            faces=(*faces, *((CIRCLE,) if circle_mm2 > 0 else ())),
            edge_share=min(1.0, float(cut_mm2 + circle_mm2) / max(surface_mm2, 1e-9)),
            span_mm=_span_mm(survey, counted) if voxels else None,
            open_faces=survey.open_faces,
        )
    return found


def statuses(evidence: Mapping[str, OrganEvidence], height_mm: float) -> dict[str, OrganStatus]:
    """What the evidence alone says of each organ, before any gate.

    Args:
        evidence: From ``gather``.
        height_mm: How far the scan reaches along the body.
    """
    return {
        key: _of_found(each) if each.voxels else _of_missing(each, evidence, height_mm)
        for key, each in evidence.items()
    }


def in_view(evidence: Mapping[str, OrganEvidence], height_mm: float) -> dict[str, bool | None]:
    """Whether an organ's usual place is in view, as the other organs tell; None if none does.

    Of a scan that may reach further than its labels: in view of these.
    """
    found: dict[str, bool | None] = {}
    for key in evidence:
        top_mm = _top_by_others_mm(key, evidence)
        known = key in SPANS and top_mm is not None
        found[key] = _seen_mm(key, top_mm or 0.0, height_mm) >= 0 if known else None
        if _other_side_is_whole(key, evidence):
            found[key] = True
    return found


def shares_of_length(
    evidence: Mapping[str, OrganEvidence], height_mm: float, least_mm: float
) -> dict[str, float]:
    """Of each organ's usual length that is surely in view, the share that it reaches along.

    Only where so much of it is in view, by the ends of the other organs.
    """
    found = {}
    for key, each in evidence.items():
        top_mm = _top_by_others_mm(key, evidence)
        if key not in SPANS or top_mm is None:
            continue
        low, high = _surely_in_view(key, top_mm, height_mm)
        if high - low >= least_mm:
            own_low, own_high = each.span_mm or (0.0, 0.0)
            reached_mm = min(high, own_high) - max(low, own_low)
            found[key] = max(0.0, reached_mm) / (high - low)
    return found


def regions(evidence: Mapping[str, OrganEvidence], height_mm: float) -> tuple[str, ...]:
    """Parts of the body in view: neck, chest, abdomen, pelvis; none where no organ tells."""
    top_mm = _liver_top_mm(evidence)
    if top_mm is None:
        return ()
    low, high = -top_mm, height_mm - top_mm
    return tuple(
        name
        for name, (lower, upper) in REGIONS.items()
        if min(high, upper) - max(low, lower) >= _REGION_MM
    )


def height_mm(survey: Survey) -> float:
    """How far a scan reaches along the body."""
    axis, _ = body_axis(survey)
    return survey.geometry.spacing_mm[axis] * survey.geometry.shape[axis]


def body_axis(survey: Survey) -> tuple[int, bool]:
    """The array axis that runs along the body, and whether it runs upwards."""
    for axis, letter in enumerate(survey.geometry.directions):
        if letter in "SI":
            return axis, letter == "S"
    raise AssertionError("one of three orthogonal axes always runs along the body")


def _span_mm(survey: Survey, values: list[int]) -> tuple[float, float] | None:
    axis, upwards = body_axis(survey)
    others = tuple(n for n in range(3) if n != axis)
    hit = np.flatnonzero(survey.small.mask(values).any(axis=others))
    if not hit.size:  # too small for the copy
        return None
    step_mm = survey.small.geometry.spacing_mm[axis]
    low, high = float(hit[0]) * step_mm, (float(hit[-1]) + 1) * step_mm
    whole_mm = height_mm(survey)
    return (low, min(high, whole_mm)) if upwards else (max(0.0, whole_mm - high), whole_mm - low)


def _liver_top_mm(evidence: Mapping[str, OrganEvidence]) -> float | None:
    """Where the top of the liver should be, by the ends of all organs that are not cut there."""
    ends: list[float] = []
    middles: list[float] = []
    for key, each in evidence.items():
        if each.span_mm is None or key not in SPANS:
            continue
        if key == "spinal_cord" and "superior" in each.faces:
            continue  # labels follow the sac below it, down to anywhere
        usual = SPANS[key]
        low, high = each.span_mm
        if not each.faces and not _is_long(key, each):
            continue  # ends of a part, as where a scan is masked: not the organ's own
        middles.append((low + high - usual.low_mm - usual.high_mm) / 2)
        if "inferior" not in each.faces:
            ends.append(low - usual.low_mm)
        if "superior" not in each.faces:
            ends.append(high - usual.high_mm)
    chosen = ends or middles
    return float(np.median(chosen)) if chosen else None


def _top_by_others_mm(key: str, evidence: Mapping[str, OrganEvidence]) -> float | None:
    """The same, by all organs but one: what it says of itself is no proof."""
    return _liver_top_mm({other: each for other, each in evidence.items() if other != key})


def _is_long(key: str, each: OrganEvidence) -> bool:
    """Whether an organ is long enough to be one, and not a part of it."""
    low, high = each.span_mm or (0.0, 0.0)
    return high - low >= _WHOLE_SHARE * (SPANS[key].high_mm - SPANS[key].low_mm)


def _other_side_is_whole(key: str, evidence: Mapping[str, OrganEvidence]) -> bool:
    """Whether the same organ of the other side is seen whole."""
    other = _OTHER_SIDE.get(key, "")
    each = evidence.get(other)
    return each is not None and not (each.faces or each.open_faces) and _is_long(other, each)


def _seen_mm(key: str, liver_top_mm: float, height_mm: float) -> float:
    """How much of an organ's usual place is surely in view, less what would have to be."""
    low, high = _surely_in_view(key, liver_top_mm, height_mm)
    return high - low - SPANS[key].needed_mm


def _surely_in_view(key: str, liver_top_mm: float, height_mm: float) -> tuple[float, float]:
    """Lower and upper end of what of an organ's usual place is surely in view."""
    low, high = SPANS[key].low_mm + liver_top_mm, SPANS[key].high_mm + liver_top_mm
    return max(low, _MARGIN_MM), min(high, height_mm - _MARGIN_MM)


def _of_found(each: OrganEvidence) -> OrganStatus:
    # Of contours nobody knows how far the scan reaches to any side.
    unknown = each.open_faces >= {*FACES} or each.open_faces & {*each.faces}
    reasons = (_ENDS_UNKNOWN,) if unknown else ()
    faces = tuple(face for face in each.faces if face not in each.open_faces)
    if not faces:
        return OrganStatus("complete", edge_share=None if unknown else 0.0, reasons=reasons)
    where = ", ".join(
        "the reconstruction circle" if face == CIRCLE else f"the {face} face" for face in faces
    )
    return OrganStatus(
        "truncated",
        faces,
        each.edge_share,
        is_lower_bound=True,
        reasons=(f"cut at {where} ({each.edge_share:.1%} of its surface)", *reasons),
    )


def _of_missing(
    each: OrganEvidence, evidence: Mapping[str, OrganEvidence], height_mm: float
) -> OrganStatus:
    key = each.organ.key
    if key not in SPANS:
        return OrganStatus("not_found", reasons=("not a voxel was found",))
    if _other_side_is_whole(key, evidence):
        reason = "not a voxel was found, though that of the other side is seen whole"
        return OrganStatus("not_found", reasons=(reason,))
    liver_top_mm = _liver_top_mm(evidence)
    if liver_top_mm is None:
        reason = "no organ was found that would tell what is in view"
        return OrganStatus("not_found", reasons=(reason,))
    usual = SPANS[key]
    low, high = usual.low_mm + liver_top_mm, usual.high_mm + liver_top_mm
    if _seen_mm(key, liver_top_mm, height_mm) >= 0:
        reason = "not a voxel was found, though its usual place is in view"
        return OrganStatus("not_found", reasons=(reason,))
    if each.open_faces & {"superior", "inferior"}:
        return OrganStatus("not_found", reasons=(_ENDS_UNKNOWN,))
    beyond = "below" if low < _MARGIN_MM else "above"
    reason = f"out of view: by the organs found its usual place lies {beyond} the scan's edge"
    if low < _MARGIN_MM and high > height_mm - _MARGIN_MM:
        reason = "out of view: by the organs found too little of its usual place is scanned"
    return OrganStatus("absent", reasons=(reason,))
