"""How good are predictions, against somebody's references: scores by case and organ, and overall.

Surface measures come from the surface-distance package (extra ``[evaluate]``), which weighs each
surface element with its area: S. Nikolov et al., arXiv 1809.04430.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from segmate_cli import files
from segmate_cli import organs as organ_table
from segmate_cli.errors import (
    EngineMissingError,
    ExitCode,
    GeometryError,
    InputError,
    UsageError,
    one_line,
)
from segmate_cli.masks import bounding_box
from segmate_cli.nifti import is_nifti_name
from segmate_cli.organs import Organ
from segmate_cli.scans import load_labels, table_if_unnamed
from segmate_cli.volume import Labels

Mask = npt.NDArray[np.bool_]
ResultT = TypeVar("ResultT")

TOLERANCE_MM = 2.0
_LABELS = "labels"
_RESAMPLES = 2000
# References that label the parts of an organ: TotalSegmentator has lobes, but no lungs.
_PARTS = {
    "lung_left": ("lung_upper_lobe_left", "lung_lower_lobe_left"),
    "lung_right": (
        "lung_upper_lobe_right",
        "lung_middle_lobe_right",
        "lung_lower_lobe_right",
    ),
}


@dataclass(frozen=True, slots=True)
class CasePair:
    """A prediction and the reference of the same case."""

    case: str
    prediction: Path
    reference: Path


@dataclass(frozen=True, slots=True)
class OrganScore:
    """One organ of one case.

    Attributes:
        case: Name of the case.
        organ: Key of the organ.
        dice: Volume Dice, 0 to 1.
        surface_dice: Share of both surfaces that lies within ``TOLERANCE_MM`` of the other.
        hd95_mm: 95th percentile of the surface distances; None where one mask is empty.
        volume_ml: Of the prediction.
        reference_ml: Of the reference.
        swapped: The prediction overlaps the other side of the pair more than its own.
    """

    case: str
    organ: str
    dice: float
    surface_dice: float
    hd95_mm: float | None
    volume_ml: float
    reference_ml: float
    swapped: bool

    @property
    def volume_error_ml(self) -> float:
        """Predicted minus reference volume."""
        return self.volume_ml - self.reference_ml

    @property
    def volume_error_percent(self) -> float | None:
        """Volume error relative to the reference; None where that is empty."""
        return 100.0 * self.volume_error_ml / self.reference_ml if self.reference_ml else None


@dataclass(frozen=True, slots=True)
class OrganSummary:
    """One organ over all cases: mean Dice with its bootstrap interval, and the worst case."""

    organ: str
    cases: int
    dice: float
    dice_low: float
    dice_high: float
    worst_dice: float
    worst_case: str
    surface_dice: float
    hd95_mm: float | None
    volume_error_percent: float | None
    swaps: int


def find_pairs(predictions: Path, references: Path) -> tuple[list[CasePair], list[str]]:
    """Match files by the name of their case.

    A case is a file's name without .nii.gz (``labels.nii.gz`` has its folder's name), or its
    folder's (``case7/seg.nii.gz``), or its path; of those that tell a folder's files apart, what
    matches the most. A file is matched with a file directly.

    Returns:
        Pairs sorted by case, and the cases that have no partner.

    Raises:
        InputError: A path is missing, nothing matches, or a case is there as .nii and .nii.gz.
    """
    for path in (predictions, references):
        if not files.exists(path):
            raise InputError(f"{path}: there is no such file or folder; check the path.")
    if predictions.is_file() and references.is_file():
        return [CasePair(_stem(predictions), predictions, references)], []
    if predictions.is_file() or references.is_file():
        raise UsageError("give two label maps, or two folders of them, not one of each.")
    choices = itertools.product(_namings(predictions), _namings(references))
    ours, theirs = max(choices, key=lambda names: len(names[0].keys() & names[1]))
    pairs = [CasePair(case, ours[case], theirs[case]) for case in sorted(ours.keys() & theirs)]
    if not pairs:
        raise InputError(
            f"no case of {predictions} has a reference of the same name in {references} "
            f"({len(ours)} and {len(theirs)} label maps found)."
        )
    return pairs, sorted(ours.keys() ^ theirs.keys())


def in_turn(
    pairs: Sequence[CasePair],
    work: Callable[[CasePair], ResultT],
    tell: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> tuple[list[ResultT], ExitCode]:
    """Work on each pair; of several, one that cannot be read ends no other, and is told.

    Raises:
        InputError: The only pair cannot be read.
    """
    done = []
    for n, pair in enumerate(pairs, 1):
        try:
            done.append(work(pair))
        except InputError as error:
            if len(pairs) == 1:
                raise
            tell(f"{pair.case} failed: {one_line(error, most=1000)}")
        progress(n, len(pairs))
    if len(done) == len(pairs):
        return done, ExitCode.DONE
    tell(f"{len(pairs) - len(done)} of {len(pairs)} cases failed")
    return done, ExitCode.BATCH_SOME_FAILED if done else ExitCode.BATCH_NONE_SUCCEEDED


def evaluate_case(
    pair: CasePair,
    table: str | None = None,
    wanted: Sequence[str] | None = None,
    *,
    count_absent: bool = False,
) -> tuple[list[OrganScore], list[str]]:
    """Score one case.

    Args:
        pair: Prediction and reference.
        table: What the reference's values mean, see ``scans.load_labels``; and the prediction's,
            where it does not say so itself.
        wanted: Organs by name; by default all that the prediction has.
        count_absent: Take an organ without a voxel in the reference as truly absent, so that a
            prediction of it scores 0; by default it is taken as unlabelled and left out.

    Returns:
        Scores, and the organs that were left out because the reference does not label them.

    Raises:
        GeometryError: The two do not lie on the same voxels.
        EngineMissingError: The surface-distance package is not installed.
    """
    prediction = load_labels(pair.prediction, table_if_unnamed(pair.prediction, table))
    reference = _on_same_axes(load_labels(pair.reference, table), prediction, pair)
    scores, left_out = [], []
    for organ in _select(prediction, wanted):
        truth = _reference_mask(reference, organ.key)
        found = _mask(prediction, organ.key)
        if truth is None or (not truth.any() and not (count_absent and found.any())):
            left_out.append(organ.key)
            continue
        swapped = _is_swapped(found, organ, reference)
        scores.append(_score(pair.case, organ.key, found, truth, prediction, swapped))
    return scores, left_out


def summarise(scores: Sequence[OrganScore], seed: int = 0) -> list[OrganSummary]:
    """One row an organ, in the order in which organs first appear."""
    rows = []
    for key in dict.fromkeys(score.organ for score in scores):
        mine = [score for score in scores if score.organ == key]
        dice = np.array([score.dice for score in mine])
        low, high = bootstrap_interval(dice, seed)
        worst = mine[int(dice.argmin())]
        rows.append(
            OrganSummary(
                organ=key,
                cases=len(mine),
                dice=float(dice.mean()),
                dice_low=low,
                dice_high=high,
                worst_dice=worst.dice,
                worst_case=worst.case,
                surface_dice=float(np.mean([score.surface_dice for score in mine])),
                hd95_mm=_mean([score.hd95_mm for score in mine]),
                volume_error_percent=_mean([score.volume_error_percent for score in mine]),
                swaps=sum(score.swapped for score in mine),
            )
        )
    return rows


def bootstrap_interval(values: npt.NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over cases."""
    rng = np.random.default_rng(seed)
    means = rng.choice(values, (_RESAMPLES, values.size)).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _namings(folder: Path) -> list[dict[str, Path]]:
    """The label maps below a folder by case, in each way of naming that tells them apart."""
    maps = sorted(path for path in folder.rglob("*") if is_nifti_name(path) and path.is_file())
    # What batch writes is the case's label map, whatever else somebody puts beside it.
    own = {path.parent for path in maps if _stem(path) == _LABELS} - {folder}
    maps = [path for path in maps if path.parent not in own or _stem(path) == _LABELS]
    named: list[dict[str, Path]] = [{}, {}, {}, {}]
    for path in maps:
        below = path.parent.relative_to(folder)
        stem = _stem(path)
        names = (
            below.name if path.parent in own else stem,
            below.name or stem,
            str(below) if below.name else stem,
            str(below / stem),
        )
        for way, name in zip(named, names, strict=True):
            way[name] = path
    told_apart = [way for way in named if len(way) == len(maps)]
    if not told_apart:  # not even by path and file
        twice = next(path for path in maps if path not in named[-1].values())
        raise InputError(f"{twice} is there as .nii and as .nii.gz; leave one of them.")
    return told_apart


def _stem(path: Path) -> str:
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".gz") else path.stem


def _on_same_axes(reference: Labels, prediction: Labels, pair: CasePair) -> Labels:
    """The reference turned to the prediction's storage order; its voxels must be the same."""
    geometry, turn = reference.geometry.reoriented(prediction.geometry.directions)
    if not geometry.same_as(prediction.geometry):
        ours, theirs = (" x ".join(map(str, g.shape)) for g in (prediction.geometry, geometry))
        apart = f"{ours} against {theirs} (k, j, i)"
        if ours == theirs:
            apart = f"up to {geometry.difference_mm(prediction.geometry):.1f} mm apart"
        raise GeometryError(
            f"{pair.prediction} and {pair.reference} do not lie on the same voxels ({apart}); "
            "resample one of them with nearest neighbours first."
        )
    return Labels(turn.view(reference.values), geometry, reference.organs, reference.source)


def _select(prediction: Labels, wanted: Sequence[str] | None) -> tuple[Organ, ...]:
    # Two values may mean one organ, as in a foreign table with "liver" and "Liver".
    known = {organ.key: organ for _, organ in sorted(prediction.organs.items())}
    organs = tuple(known.values())
    return organs if wanted is None else organ_table.select(wanted, organs)


def _mask(labels: Labels, key: str) -> Mask:
    """The organ's voxels, of all values that mean it."""
    values = [value for value, organ in labels.organs.items() if organ.key == key]
    return np.asarray(np.isin(labels.values, values))


def _reference_mask(reference: Labels, key: str) -> Mask | None:
    """The organ, or the union of its parts; None where the reference names neither."""
    names = {organ.key for organ in reference.organs.values()}
    wanted = (key,) if key in names else _PARTS.get(key, ())
    if not wanted or not names.issuperset(wanted):
        return None
    masks = [_mask(reference, name) for name in wanted]
    return np.asarray(np.logical_or.reduce(masks))


def _is_swapped(found: Mask, organ: Organ, reference: Labels) -> bool:
    if organ.side is None:
        return False
    other = "right" if organ.side == "left" else "left"
    mirror = _reference_mask(reference, organ.key.removesuffix(organ.side) + other)
    own = _reference_mask(reference, organ.key)
    if mirror is None or own is None:
        return False
    return bool(np.count_nonzero(found & mirror) > np.count_nonzero(found & own))


def _score(
    case: str, key: str, found: Mask, truth: Mask, grid: Labels, swapped: bool
) -> OrganScore:
    n_found, n_truth = np.count_nonzero(found), np.count_nonzero(truth)
    share, far_mm = 0.0, None
    if n_found and n_truth:  # surface-distance 0.1 fails on an empty mask under NumPy 2
        share, far_mm = _compare_surfaces(found, truth, grid.geometry.spacing_mm)
    return OrganScore(
        case=case,
        organ=key,
        dice=float(2.0 * np.count_nonzero(found & truth) / (n_found + n_truth)),
        surface_dice=share,
        hd95_mm=far_mm,
        volume_ml=float(found.sum(axis=(1, 2)) @ grid.geometry.slice_voxel_ml),
        reference_ml=float(truth.sum(axis=(1, 2)) @ grid.geometry.slice_voxel_ml),
        swapped=swapped,
    )


def _compare_surfaces(
    found: Mask, truth: Mask, spacing_mm: tuple[float, float, float]
) -> tuple[float, float]:
    """Surface Dice at the tolerance and HD95 in mm of two masks that have voxels."""
    surface_distance = _surface_distance()
    box = bounding_box(found | truth, margin=1)  # so that the surfaces close
    distances = surface_distance.compute_surface_distances(truth[box], found[box], spacing_mm)
    share = surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM)
    return float(share), float(surface_distance.compute_robust_hausdorff(distances, 95.0))


def _surface_distance() -> Any:
    try:
        import surface_distance
    except ModuleNotFoundError as error:
        raise EngineMissingError(
            f"evaluate needs {error.name}; pip install 'segmate-cli[evaluate]'."
        ) from error
    return surface_distance


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
