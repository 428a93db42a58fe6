"""The table of gates: what each measures, between which limits, on whose word, how grave it is.

To add one: a row in RULES, and in ``case`` a function that measures. A limit is named by what was
measured (an organ's key, mostly) or ``*`` for all; low or high end may be open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from segmate_cli.doubt import case as measures
from segmate_cli.doubt import handed, sizes, tissue
from segmate_cli.doubt.anatomy import VOLUMES
from segmate_cli.doubt.case import Case, Measured
from segmate_cli.doubt.words import Severity

Limits = tuple[float | None, float | None]
_OWN = "made on 64 scans of trunks of seven sources, and wider than these"
_HALF = "half of the patients, in sight of the others (docs/gates.md)"
_DEFINITION = "air is -1000 HU by definition"
# Notes about the network's own doubt: an organ's status is ``low_confidence`` where one counts.
UNSURE = ("confidence", "agreement")
# Patients are not healthy: a volume asks for a review when it is that far outside the usual.
_TOO_SMALL, _TOO_LARGE = 0.4, 2.5


@dataclass(frozen=True, slots=True)
class Rule:
    """One gate.

    Attributes:
        id: Stable name.
        what: What is measured, as a phrase that "is 12 mm" can follow.
        unit: Of the numbers, or "".
        measure: Numbers by name, of what can be measured in a case.
        limits: Low and high end by name, or for ``*``.
        source: Where the limits come from.
        severity: ``review`` or ``note``.
        why: What is likely wrong where it does not pass, one sentence.
        needs: What it is measured on: the labels alone, the scan as well, or the scores that the
            labels were made of.
    """

    id: str
    what: str
    unit: str
    measure: Callable[[Case], Measured]
    limits: Mapping[str, Limits]
    source: str
    severity: Severity
    why: str
    needs: Literal["labels", "scan", "scores"] = "labels"


def _volume_limits() -> dict[str, Limits]:
    return {
        key: (
            None if each.low_ml is None else round(_TOO_SMALL * each.low_ml),
            round(_TOO_LARGE * each.high_ml),
        )
        for key, each in VOLUMES.items()
    }


_VOLUME_SOURCE = (
    f"{_TOO_SMALL} times the lower to {_TOO_LARGE} times the upper end of the published ranges: "
    + "; ".join(dict.fromkeys(f"{key}: {each.source}" for key, each in VOLUMES.items()))
)
_SIDES: dict[str, Limits] = {
    **{"liver": (None, -5.0), "spleen": (30.0, None), "heart": (-25.0, None)},
    **{"lung_left": (25.0, None), "lung_right": (None, -20.0), "aorta": (-20.0, None)},
    **{"kidney_left": (15.0, None), "kidney_right": (None, -15.0)},
}
_FRONT: dict[str, Limits] = {
    **{"heart": (15.0, None), "liver": (15.0, None), "trachea": (10.0, None)},
    "aorta": (5.0, None),
}
_ORDER: dict[str, Limits] = {
    "*": (0.0, None),
    "lung_right over liver": (-30.0, None),
    "liver over kidney_left": (-40.0, None),
    "liver over kidney_right": (-30.0, None),
    "spleen over kidney_left": (-20.0, None),
    "spleen over kidney_right": (-20.0, None),
    "lung_right over kidney_right": (-30.0, None),
    "lung_left over kidney_left": (-30.0, None),
}
_HU: dict[str, Limits] = {
    **{"lung_left": (-950.0, -400.0), "lung_right": (-950.0, -400.0)},
    **{"trachea": (-1050.0, -600.0), "spinal_cord": (-40.0, 140.0), "heart": (-60.0, 400.0)},
    **{"aorta": (0.0, 700.0), "liver": (-20.0, 200.0), "spleen": (0.0, 280.0)},
    **{"kidney_left": (-30.0, 330.0), "kidney_right": (-30.0, 330.0)},
}
_HU_SOURCE = (
    "means of organs without and with contrast, wider than reported: unenhanced liver 58 +- 9 HU, "
    "32 +- 14 when severely fatty (Int J Legal Med 2019, 214 cases); lung from Cheng et al. 2019; "
    f"the rest {_OWN}"
)
_LENGTHS: dict[str, Limits] = {
    **{"*": (None, None), "trachea": (0.35, None), "esophagus": (0.45, None)},
    "spinal_cord": (0.6, None),
}
_COMPACT = (
    *("lung_left", "lung_right", "heart", "liver"),
    *("kidney_left", "kidney_right", "spleen"),
)
_WHOLE: dict[str, Limits] = dict.fromkeys(_COMPACT, (None, 0.35))
_SOLID = (*_WHOLE, "aorta", "spinal_cord")

_SCORES_SOURCE = (
    "set with earlier weights; against hands on 15 validation patients a mean Dice of 0.69 below "
    "it and 0.91 above (python -m benchmarks.doubt_scores)"
)

RULES: tuple[Rule, ...] = (
    Rule(
        id="hu-air",
        what="the median of what is near air",
        unit="HU",
        measure=measures.air_hu,
        limits={"*": (-1060.0, -930.0)},
        source=_DEFINITION,
        severity="review",
        why="The scale of the scan is shifted, or these are not HU.",
        needs="scan",
    ),
    Rule(
        id="hu-no-air",
        what="the share of air",
        unit="",
        measure=measures.air_share,
        limits={"*": (0.02, 0.99)},
        source=_DEFINITION,
        severity="review",
        why="A body has air around it; without any, these are not HU, or it is cropped.",
        needs="scan",
    ),
    Rule(
        id="hu-tissue",
        what="the histogram between lung and bone",
        unit="HU",
        measure=measures.tissue_hu,
        limits={"lower": (-170.0, 40.0), "upper": (-60.0, 180.0)},
        source=f"fat near -100, soft tissue 0 to 130 HU; {_OWN}",
        severity="review",
        why="Fat and soft tissue lie elsewhere than they should: shifted, or not HU.",
        needs="scan",
    ),
    Rule(
        id="scan-body",
        what="the share of fat and soft tissue",
        unit="",
        measure=measures.tissue_share,
        limits={"*": (0.03, None)},
        source=_OWN,
        severity="review",
        why="There is hardly a body in this scan.",
        needs="scan",
    ),
    Rule(
        id="scan-clipped",
        what="the highest value",
        unit="HU",
        measure=measures.highest_hu,
        limits={"*": (301.0, None)},
        source="bone reaches 1000 HU and more",
        severity="note",
        why="Bone is clipped: a windowed scan, whose HU are those of its window.",
        needs="scan",
    ),
    Rule(
        id="scan-width",
        what="the cross-section of the body",
        unit="cm2",
        measure=measures.body_cm2,
        limits={"*": (80.0, 2200.0)},
        source=f"trunks have 430 to 1270 cm2; {_OWN}",
        severity="review",
        why="The pixel spacing is wrong, or this is no trunk or neck of an adult.",
        needs="scan",
    ),
    Rule(
        id="scan-thickness",
        what="the distance of slices",
        unit="mm",
        measure=measures.slice_mm,
        limits={"*": (None, 5.0)},
        source="small organs lie between slices further apart",
        severity="note",
        why="Volumes of small organs are rough.",
    ),
    Rule(
        id="scan-height",
        what="the height of the scan",
        unit="mm",
        measure=measures.scanned_mm,
        limits={"*": (100.0, None)},
        source="ends and middles of two organs lie some 10 cm apart (ICRP Publication 110, 2009)",
        severity="note",
        why="Too little is seen to tell whether it is mirrored, upside down or squeezed.",
    ),
    Rule(
        id="scan-noise",
        what="the noise of soft tissue",
        unit="HU",
        measure=measures.scan_noise,
        limits={"*": (None, 45.0)},
        source=f"10 to 20 HU in abdominal CT of full dose; {_OWN}",
        severity="note",
        why="Outlines of organs are rough where noise is as large as what tells them apart.",
        needs="scan",
    ),
    Rule(
        id="scan-metal",
        what="the share of metal",
        unit="",
        measure=measures.metal_share,
        limits={"*": (None, 0.0002)},
        source="cortical bone and enamel stay below 3000 HU",
        severity="note",
        why="Implants throw streaks over the organs beside them.",
        needs="scan",
    ),
    Rule(
        id="scan-order",
        what="neighbouring slices' difference over the next but one's",
        unit="",
        measure=measures.order_ratio,
        limits={"*": (None, 0.8)},
        source=f"0.56 to 0.74; {_OWN}",
        severity="review",
        why="The slices are not in their order, or some are missing at random.",
        needs="scan",
    ),
    Rule(
        id="scan-jump",
        what="the largest step between slices over those around it",
        unit="",
        measure=measures.jump_ratio,
        limits={"*": (None, 4.0)},
        source=f"1.0 to 2.1; {_OWN}",
        severity="review",
        why="Slices are missing there, or another scan begins.",
        needs="scan",
    ),
    Rule(
        id="label-order",
        what="neighbouring label slices' difference over the next but one's",
        unit="",
        measure=measures.label_order_ratio,
        limits={"*": (None, 0.75)},
        source=f"0.52 to 0.60; {_OWN}",
        severity="review",
        why="The slices are not in their order, or the labels flicker.",
    ),
    Rule(
        id="found",
        what="missing",
        unit="",
        measure=measures.missing,
        limits={"*": (None, None), **dict.fromkeys(_SOLID, (None, 0.5))},
        source="organs' places in the reference adults of ICRP Publication 110 (2009)",
        severity="review",
        why="It was removed, or the network does not see it.",
    ),
    Rule(
        id="length",
        what="its length, over what of it should be in view,",
        unit="",
        measure=measures.lengths,
        limits=_LENGTHS,
        source=f"0.55 and more of tracheas, 0.68 of esophagi, 0.92 of cords; {_OWN}",
        severity="review",
        why="The network does not see most of it.",
    ),
    Rule(
        id="side",
        what="its middle's distance to the left of the cord",
        unit="mm",
        measure=measures.sides_mm,
        limits=_SIDES,
        source=f"anatomy; {_OWN}",
        severity="review",
        why="The scan is mirrored, labels are swapped, or the patient has situs inversus.",
    ),
    Rule(
        id="front",
        what="its middle's distance in front of the cord",
        unit="mm",
        measure=measures.front_mm,
        limits=_FRONT,
        source=f"anatomy; {_OWN}",
        severity="review",
        why="The scan is mirrored from front to back, or labels are swapped.",
    ),
    Rule(
        id="order",
        what="the height",
        unit="mm",
        measure=measures.heights_mm,
        limits=_ORDER,
        source=f"anatomy; {_OWN}",
        severity="review",
        why="The scan is stored upside down, slices are out of order, or labels are swapped.",
    ),
    Rule(
        id="handed",
        what="where organs and tissue lie beside the cord, 1 as usual and -1 mirrored,",
        unit="",
        measure=handed.handedness,
        limits={"*": (0.15, None), "in a short scan": (-0.3, None)},
        source=f"0.4 to 1.4, and 0.1 in an odd part; of mirrored ones -0.4 in the middle; {_HALF}",
        severity="review",
        why="The scan is mirrored, or the patient has situs inversus.",
        needs="scan",
    ),
    Rule(
        id="size-across",
        what="distances to the left and right over the usual",
        unit="",
        measure=sizes.size_across,
        limits={"*": (0.62, 1.63)},
        source=f"0.78 to 1.36 in parts of 15 cm and more, and a fifth beyond; {_HALF}",
        severity="review",
        why="The pixel spacing is wrong, or this is a child.",
    ),
    Rule(
        id="size-along",
        what="lengths along the body over the usual",
        unit="",
        measure=sizes.size_along,
        limits={"*": (0.41, 1.73)},
        source=f"0.51 to 1.44 in parts of 15 cm and more, and a fifth beyond; {_HALF}",
        severity="review",
        why="The slice spacing is wrong, or slices are missing.",
    ),
    Rule(
        id="size-facing",
        what="areas of organs seen along the body over those seen across it, over the usual,",
        unit="",
        measure=sizes.size_facing,
        limits={"*": (0.48, 1.5)},
        source=f"0.48 to 1.25 in parts of 15 cm and more, doubled spacings 0.4 to 0.6; {_HALF}",
        severity="review",
        why="The spacing of slices or pixels is wrong, or slices are missing.",
    ),
    Rule(
        id="squeezed",
        what="the length of the body by its tissue, 1 as usual and 2 where it is halved,",
        unit="",
        measure=tissue.squeezed,
        limits={"*": (0.67, 1.45), "in a short scan": (0.5, 1.55)},
        source=f"half way to what is wrong by 2, and somewhat beyond; {_HALF}",
        severity="review",
        why="The spacing of slices or pixels is wrong, or slices are missing.",
        needs="scan",
    ),
    Rule(
        id="volume",
        what="its volume",
        unit="ml",
        measure=measures.volumes_ml,
        limits=_volume_limits(),
        source=_VOLUME_SOURCE,
        severity="review",
        why="A part is missing, other tissue was taken for it, or the organ is very sick.",
    ),
    Rule(
        id="volume-cut",
        what="the volume of its visible part",
        unit="ml",
        measure=measures.cut_volumes_ml,
        limits={key: (None, high) for key, (_, high) in _volume_limits().items()},
        source=_VOLUME_SOURCE,
        severity="review",
        why="Other tissue was taken for it, or the organ is very sick.",
    ),
    Rule(
        id="stray",
        what="its volume, where its usual place is out of view",
        unit="ml",
        measure=measures.stray_ml,
        limits=_volume_limits(),
        source=_VOLUME_SOURCE,
        severity="note",
        why="Some other tissue at the edge of the scan was taken for it.",
    ),
    Rule(
        id="hu",
        what="its mean",
        unit="HU",
        measure=measures.mean_hu,
        limits=_HU,
        source=_HU_SOURCE,
        severity="review",
        why="Other tissue was taken for it, or the scan's scale is shifted.",
        needs="scan",
    ),
    Rule(
        id="pair",
        what="left over right volume",
        unit="",
        measure=measures.pairs,
        limits={"lung": (0.2, 4.0), "kidney": (0.3, 3.3)},
        source=f"lungs share 46.4 to 53.6 (Yamada et al. 2020); {_OWN}",
        severity="review",
        why="One side is incomplete, shrunken or removed, or labels are swapped.",
    ),
    Rule(
        id="fragments",
        what="the share apart from its largest part",
        unit="",
        measure=measures.fragments,
        limits=_WHOLE,
        source=f"up to 0.25; {_OWN}",
        severity="review",
        why="The organ is broken into parts.",
    ),
    Rule(
        id="holes",
        what="the share of background shut in by it",
        unit="",
        measure=measures.holes,
        limits={"*": (None, None), **dict.fromkeys(_COMPACT, (None, 0.12))},
        source=f"up to 0.08; {_OWN}",
        severity="review",
        why="Parts inside of the organ were taken for none.",
    ),
    Rule(
        id="flicker",
        what="its difference between neighbouring slices over the next but one's",
        unit="",
        measure=measures.flicker,
        limits={"*": (None, 0.8)},
        source=f"0.50 to 0.70; {_OWN}",
        severity="note",
        why="The organ comes and goes from slice to slice.",
    ),
    Rule(
        id="noise",
        what="the standard deviation inside it",
        unit="HU",
        measure=measures.spread_hu,
        limits={"liver": (None, 60.0), "spleen": (None, 60.0)},
        source=_OWN,
        severity="note",
        why="The scan is noisy, or other tissue was taken in.",
        needs="scan",
    ),
    Rule(
        id="confidence",
        what="the Dice that the network expects of its own mask",
        unit="",
        measure=measures.confidence,
        limits={"*": (0.96, None)},
        source=_SCORES_SOURCE,
        severity="note",
        why="The network was unsure where it ends.",
        needs="scores",
    ),
    Rule(
        id="agreement",
        what="the least Dice with masks of the same scan shown otherwise",
        unit="",
        measure=measures.agreement,
        limits={"*": (0.9, None)},
        source="set on validation patients; docs/gates.md says how sure that is",
        severity="note",
        why="The network says something else when the scan is moved, or a little brighter.",
        needs="scores",
    ),
    Rule(
        id="surface-entropy",
        what="the entropy at its surface",
        unit="bit",
        measure=measures.surface_entropy,
        limits={"*": (None, 0.9)},
        source="0.37 to 0.85 on validation patients",
        severity="note",
        why="The network was unsure where it ends.",
        needs="scores",
    ),
    Rule(
        id="overlap",
        what="the share of it that could as well be another organ",
        unit="",
        measure=measures.overlaps,
        limits={"*": (None, 0.05)},
        source="up to 0.01 on validation patients",
        severity="note",
        why="Two organs were seen in the same place; one of them is wrong.",
        needs="scores",
    ),
)
BY_ID = {rule.id: rule for rule in RULES}
