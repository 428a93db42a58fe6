"""What the rules see of one scan and its labels, and what they measure of it.

Each measure gives numbers by name, of what can be measured here; what cannot is left out, and is
neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.doubt.scan_evidence import ScanEvidence
from segmate_cli.doubt.score_evidence import OrganScores
from segmate_cli.doubt.status import OrganEvidence, height_mm, in_view, shares_of_length
from segmate_cli.doubt.survey import Survey
from segmate_cli.doubt.words import Certainty, OrganStatus
from segmate_cli.masks import bounding_box

Mask = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
Measured = dict[str, float]

# Of the small copy: less says little about a place or a mean.
_FEW = 12
# Where bodies are told from air, and fat and soft tissue from lung and bone.
_AIR_HU, _TISSUE_HU = (-1300, -700), (-250, 400)
# Less of an organ at the edge of a scan is not judged by its HU, nor by its place.
_SLIVER_MM = 25.0
# So much of an organ's usual place must be in view for its length to be judged.
_LONG_ENOUGH_MM = 60.0
# Metal is denser than any bone or tooth.
_METAL_HU = 3000
# Of an organ less may change by chance.
_FLICKER_ML = 15.0


@dataclass(frozen=True, slots=True)
class ScoreEvidence:
    """What the network's scores, and those of variants of its input, say of an organ.

    Attributes:
        seen: Of the scores.
        kept: Voxels after the clean-up over those before it.
        agreement: Least Dice with the mask of a variant; None without variants.
        interval_ml: Between what the volume lies; None without variants.
    """

    seen: OrganScores
    kept: float = 1.0
    agreement: float | None = None
    interval_ml: tuple[float, float] | None = None


@dataclass(frozen=True)
class Case:
    """One scan and its labels.

    Attributes:
        survey: Of the labels.
        organs: Evidence by organ key.
        status: By organ key, as the evidence alone tells.
        values: Label values by organ key.
        scan: Of the scan; None without one.
        scores: Of the network's scores by organ key; None without them.
        certainty: What the network told of each organ, now or earlier.
    """

    survey: Survey
    organs: Mapping[str, OrganEvidence]
    status: Mapping[str, OrganStatus]
    values: Mapping[str, tuple[int, ...]]
    scan: ScanEvidence | None = None
    scores: Mapping[str, ScoreEvidence] | None = None
    certainty: Mapping[str, Certainty] = field(default_factory=dict)

    @cached_property
    def places(self) -> dict[str, FloatArray]:
        """LPS mm (n, 3) of each organ's voxels in the small copy, where these are not too few."""
        small = self.survey.small
        sheets = [_by_value(sheet) for sheet in small.labels]
        found = {}
        for key, values in self.values.items():
            at = np.concatenate(
                [
                    order[slice(*np.searchsorted(ordered, [value, value + 1]))]
                    for order, ordered in sheets
                    for value in values
                ]
            )
            if at.size >= _FEW:
                index = np.stack(np.unravel_index(at, small.geometry.shape), axis=-1)
                found[key] = small.geometry.to_lps_mm(index)
        return found

    @cached_property
    def hu(self) -> dict[str, npt.NDArray[np.int16]]:
        """HU of the same voxels; {} without a scan."""
        if self.scan is None:
            return {}
        inverse = np.linalg.inv(self.survey.small.geometry.affine)
        found = {}
        for key, places in self.places.items():
            index = np.rint(places @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.intp)
            found[key] = self.scan.small_hu[index[:, 0], index[:, 1], index[:, 2]]
        return found

    @cached_property
    def in_view(self) -> dict[str, bool | None]:
        """Whether each organ's usual place is in view, as the other organs tell."""
        return in_view(self.organs, height_mm(self.survey))

    def is_sliver(self, key: str) -> bool:
        """Whether no more of an organ is in view than a few slices at the scan's edge."""
        each = self.organs[key]
        if each.span_mm is None or not {"superior", "inferior"} & {*each.faces}:
            return False
        return each.span_mm[1] - each.span_mm[0] < _SLIVER_MM

    def middle(self, key: str) -> FloatArray | None:
        """Mean place of an organ, LPS mm."""
        return self.places[key].mean(axis=0) if key in self.places else None


def _by_value(labels: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], npt.NDArray[Any]]:
    """Flat places of labelled voxels in the order of their values, and these values."""
    flat = labels.reshape(-1)
    order = np.flatnonzero(flat)
    order = order[np.argsort(flat[order], kind="stable")]
    return order, flat[order]


def air_hu(case: Case) -> Measured:
    """Median of what is near air."""
    if case.scan is None:
        return {}
    low, high = _AIR_HU
    hu = case.scan.small_hu
    air = hu[(hu > low) & (hu < high)]
    return {"air": float(np.median(air))} if air.size > 0.01 * hu.size else {}


def air_share(case: Case) -> Measured:
    """Share of voxels near air or below."""
    if case.scan is None:
        return {}
    return {"air": float(np.mean(case.scan.small_hu < _AIR_HU[1]))}


def tissue_hu(case: Case) -> Measured:
    """Peaks of fat and of soft tissue, as far as the histogram shows them: its middle half."""
    if case.scan is None:
        return {}
    low, high = _TISSUE_HU
    hu = case.scan.small_hu
    tissue = hu[(hu > low) & (hu < high)]
    if tissue.size < 500:
        return {}
    lower, upper = np.percentile(tissue, (15, 75))
    return {"lower": float(lower), "upper": float(upper)}


def tissue_share(case: Case) -> Measured:
    """Share of voxels in the range of fat and soft tissue."""
    if case.scan is None:
        return {}
    low, high = _TISSUE_HU
    hu = case.scan.small_hu
    return {"tissue": float(np.mean((hu > low) & (hu < high)))}


def highest_hu(case: Case) -> Measured:
    """The highest HU of all."""
    return {} if case.scan is None else {"highest": float(case.scan.small_hu.max())}


def body_cm2(case: Case) -> Measured:
    """Cross-section of what is denser than -300 HU, in slices across the body: a large one."""
    if case.scan is None or case.scan.geometry.directions[0] not in "SI":
        return {}
    _, j_mm, i_mm = case.survey.small.geometry.spacing_mm
    areas = (case.scan.small_hu > -300).sum(axis=(1, 2)) * j_mm * i_mm / 100.0
    return {"body": float(np.percentile(areas, 90))}


def slice_mm(case: Case) -> Measured:
    """Distance of slices."""
    return {"slices": max(case.survey.geometry.spacing_mm)}


def order_ratio(case: Case) -> Measured:
    """How much neighbouring slices differ, over the next but one; near 1 where order is lost."""
    found: Measured = {}
    if case.scan is not None and case.scan.step2_hu.size >= 4:
        far = float(case.scan.step2_hu.mean())
        found["scan"] = float(case.scan.step_hu.mean()) / far if far > 1 else 0.0
    return found


def label_order_ratio(case: Case) -> Measured:
    """The same of labels."""
    near, far = case.survey.changed
    enough = far * case.survey.geometry.voxel_ml > 100 and case.survey.geometry.shape[0] >= 6
    return {"labels": near / far} if enough else {}


def jump_ratio(case: Case) -> Measured:
    """The largest step between slices, over the median of the steps around it."""
    if case.scan is None or case.scan.step_hu.size < 7:
        return {}
    steps = case.scan.step_hu
    around = np.array(
        [np.median(np.delete(steps[max(0, n - 5) : n + 6], min(n, 5))) for n in range(steps.size)]
    )
    return {"jump": float((steps / np.maximum(around, 1.0)).max())}


def sides_mm(case: Case) -> Measured:
    """How far left of the cord each organ's middle lies."""
    midline = midline_mm(case)
    if midline is None:
        return {}
    own = {"spinal_cord"}
    return {
        key: float(places[:, 0].mean()) - midline
        for key, places in case.places.items()
        if key not in own
    }


def midline_mm(case: Case) -> float | None:
    """How far left the body's middle lies: the cord, or the middle between the lungs."""
    cord = case.middle("spinal_cord")
    if cord is not None:
        return float(cord[0])
    lungs = [case.middle(key) for key in ("lung_left", "lung_right")]
    if lungs[0] is None or lungs[1] is None:
        return None
    return float(lungs[0][0] + lungs[1][0]) / 2


def front_mm(case: Case) -> Measured:
    """How far in front of the cord each organ's middle lies; slivers are left out."""
    cord = case.middle("spinal_cord")
    if cord is None:
        return {}
    return {
        key: float(cord[1] - places[:, 1].mean())
        for key, places in case.places.items()
        if key != "spinal_cord" and not case.is_sliver(key)
    }


# Which organ's middle lies over which other's.
_ABOVE = (
    *(("trachea", "heart"), ("trachea", "liver"), ("heart", "liver"), ("lung_left", "spleen")),
    *(("lung_right", "liver"), ("lung_left", "kidney_left"), ("lung_right", "kidney_right")),
    *(("heart", "kidney_left"), ("heart", "kidney_right"), ("heart", "spleen")),
    *(("liver", "kidney_right"), ("spleen", "kidney_left"), ("liver", "kidney_left")),
    *(("spleen", "kidney_right"), ("esophagus", "kidney_left"), ("esophagus", "liver")),
)


def heights_mm(case: Case) -> Measured:
    """How far the middle of an organ lies over that of one that should be below it."""
    found = {}
    for high, low in _ABOVE:
        upper, lower = case.middle(high), case.middle(low)
        if upper is not None and lower is not None:
            found[f"{high} over {low}"] = float(upper[2] - lower[2])
    return found


def volumes_ml(case: Case) -> Measured:
    """Volumes of whole organs whose usual place is in view."""
    return {key: each for key, each in _whole_ml(case).items() if case.in_view[key] is not False}


def stray_ml(case: Case) -> Measured:
    """Volumes of whole organs whose usual place is out of view."""
    return {key: each for key, each in _whole_ml(case).items() if case.in_view[key] is False}


def _whole_ml(case: Case) -> Measured:
    return {key: each.volume_ml for key, each in case.organs.items() if each.is_whole}


def cut_volumes_ml(case: Case) -> Measured:
    """Volumes of organs that are cut."""
    return {
        key: each.volume_ml
        for key, each in case.organs.items()
        if each.voxels and not each.is_whole
    }


def mean_hu(case: Case) -> Measured:
    """Mean HU by organ, slivers left out: their voxels are half something else."""
    return {key: float(hu.mean()) for key, hu in case.hu.items() if not case.is_sliver(key)}


def spread_hu(case: Case) -> Measured:
    """Standard deviation of HU by organ."""
    return {key: float(hu.std()) for key, hu in case.hu.items()}


def pairs(case: Case) -> Measured:
    """Left over right volume, where both are whole."""
    found = {}
    for base in ("lung", "kidney"):
        left, right = (case.organs.get(f"{base}_{side}") for side in ("left", "right"))
        if left and right and left.is_whole and right.is_whole:
            found[base] = left.volume_ml / right.volume_ml
    return found


def fragments(case: Case) -> Measured:
    """Share of an organ that does not hang together with its largest part."""
    import cc3d

    found = {}
    for sheet in case.survey.small.labels:
        labels: npt.NDArray[Any] = np.zeros(sheet.shape, np.uint8)
        keys = [key for key in case.places if len(case.values[key]) == 1 and key not in found][:255]
        for n, key in enumerate(keys, 1):
            labels[sheet == case.values[key][0]] = n
        parts = cc3d.connected_components(labels, connectivity=26)
        for n, key in enumerate(keys, 1):
            sizes = np.bincount(parts[labels == n])
            if sizes.size:  # else it lies on another sheet
                found[key] = 1.0 - float(sizes.max()) / float(sizes.sum())
    return found


def holes(case: Case) -> Measured:
    """Background that an organ shuts in, over the organ."""
    import cc3d

    small = case.survey.small
    background = small.background()
    found: Measured = {}
    for key in case.places:
        mask = small.mask(case.values[key])
        box = bounding_box(mask)
        if box is None:
            continue
        around = np.pad(background[box].astype(np.uint8), 1, constant_values=1)
        parts = cc3d.connected_components(around, connectivity=6)
        inside = np.count_nonzero((parts > 0) & (parts != parts[0, 0, 0]))
        found[key] = inside / float(np.count_nonzero(mask))
    return found


def flicker(case: Case) -> Measured:
    """How much an organ differs between neighbouring slices, over the next but one."""
    voxel_ml = case.survey.geometry.voxel_ml
    found: Measured = {}
    for key, values in case.values.items():
        counted = [value for value in values if value < case.survey.voxels.size]
        near, far = (float(each[counted].sum()) for each in case.survey.changed_of)
        if far * voxel_ml > _FLICKER_ML:
            found[key] = near / far
    return found


def scan_noise(case: Case) -> Measured:
    """Standard deviation of the noise in soft tissue."""
    if case.scan is None or case.scan.noise_hu is None:
        return {}
    return {"noise": case.scan.noise_hu}


def metal_share(case: Case) -> Measured:
    """Share of voxels that only metal has."""
    if case.scan is None:
        return {}
    return {"metal": float(np.mean(case.scan.small_hu >= _METAL_HU))}


def scanned_mm(case: Case) -> Measured:
    """How far the scan reaches along the body, where that is known."""
    return {"height": height_mm(case.survey)} if case.survey.ends_known else {}


def missing(case: Case) -> Measured:
    """1 for each organ that is not found, although its place is in view, or no organ is."""
    nothing = not any(each.voxels for each in case.organs.values())
    return {
        key: 1.0
        for key, each in case.status.items()
        if each.kind == "not_found" and (nothing or case.in_view[key])
    }


def lengths(case: Case) -> Measured:
    """What was found of long organs, over what of their length should be in view.

    An organ that is cut has no whole volume to be judged by: a few slices of a trachea pass else.
    """
    shares = shares_of_length(case.organs, height_mm(case.survey), _LONG_ENOUGH_MM)
    return {key: share for key, share in shares.items() if case.organs[key].voxels}


def _told(case: Case, value: Callable[[Certainty], float | None]) -> Measured:
    """A number that was told of organs, of those that have enough voxels."""
    found = {key: value(each) for key, each in case.certainty.items() if key in case.places}
    return {key: number for key, number in found.items() if number is not None}


def confidence(case: Case) -> Measured:
    """Dice that the network expects of its own masks."""
    return _told(case, lambda each: each.confidence)


def agreement(case: Case) -> Measured:
    """Least Dice with the masks of variants."""
    return _told(case, lambda each: each.agreement)


def surface_entropy(case: Case) -> Measured:
    """Mean entropy at organs' surfaces."""
    scores = (case.scores or {}).items()
    return {key: each.seen.surface_entropy for key, each in scores if key in case.places}


def overlaps(case: Case) -> Measured:
    """Shares of organs in which another one passes, too."""
    scores = (case.scores or {}).items()
    return {key: each.seen.overlap for key, each in scores if key in case.places}
