"""Score a checkpoint on the validation patients: ``python -m training.validate``.

Whole volumes, volume Dice a patient and organ against labels that came with the data (never the
teacher's), mean over the patients of an organ, then over organs. An organ is scored in the slices
where its labels are known (see ``training.sources``); ``as_labelled`` counts every slice instead,
also those beyond an end that the source cut short.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from segmate_cli.bundle import Manifest
from segmate_cli.clean_up import clean_up
from segmate_cli.convert import read_recipe
from training.cases import AMBIGUOUS_AORTA, ORGANS, Case, Known, load_case
from training.inference import Clean, load_network, predict_case
from training.train import read_config

_PAIRS = (("lung_left", "lung_right"), ("kidney_left", "kidney_right"))


@dataclass(frozen=True, slots=True)
class Score:
    """One organ in one patient.

    Attributes:
        case_id: patient.
        organ: key.
        dice: volume Dice where the labels are known.
        as_labelled: volume Dice over every slice.
        reference_ml: labelled volume.
        predicted_ml: predicted volume where the labels are known.
        swapped_ml: predicted volume of this organ inside its labelled counterpart.
    """

    case_id: str
    organ: str
    dice: float
    as_labelled: float
    reference_ml: float
    predicted_ml: float
    swapped_ml: float


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Dice of two masks; 1 if both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def score_case(case: Case, predicted: NDArray[np.uint8]) -> list[Score]:
    """Score every organ that hands labelled in a case."""
    scores = []
    voxel_ml = case.info.slice_mm * case.info.pixel_mm**2 / 1000
    counterpart = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
    for channel, organ in enumerate(ORGANS):
        rows = case.known[:, channel] == Known.HAND
        reference = (case.labels == channel + 1) & case.usable[:, None, None]
        if not reference[rows].any():
            continue
        found = predicted == channel + 1
        if organ == "aorta":
            found &= case.labels != AMBIGUOUS_AORTA
        other = case.labels == ORGANS.index(counterpart.get(organ, organ)) + 1
        swapped = (found & other).sum() if organ in counterpart else 0
        scores.append(
            Score(
                case.info.case_id,
                organ,
                round(overlap(found[rows], reference[rows]), 4),
                round(overlap(found, reference), 4),
                round(float(reference[rows].sum()) * voxel_ml, 1),
                round(float(found[rows].sum()) * voxel_ml, 1),
                round(float(swapped) * voxel_ml, 1),
            )
        )
    return scores


def absent_volumes(case: Case, predicted: NDArray[np.uint8]) -> dict[str, float]:
    """Millilitres predicted in slices where anatomy rules an organ out, if any."""
    voxel_ml = case.info.slice_mm * case.info.pixel_mm**2 / 1000
    volumes = {
        organ: float((predicted[case.known[:, channel] == Known.ABSENT] == channel + 1).sum())
        for channel, organ in enumerate(ORGANS)
    }
    return {organ: round(count * voxel_ml, 2) for organ, count in volumes.items() if count}


def cleaner(recipe_path: Path) -> Clean:
    """The clean-up of a recipe's manifest, as ``segmate predict`` does it on the scan's slices."""
    recipe = cast(Manifest, read_recipe(recipe_path))
    _, y_mm, x_mm = recipe.preprocessing.grid.spacing_mm

    def clean(labels: NDArray[np.uint8], slice_mm: float) -> NDArray[np.uint8]:
        clean_up(labels, recipe, slice_mm * y_mm * x_mm / 1000)
        return labels

    return clean


def summarise(scores: Sequence[Score]) -> dict[str, dict[str, float | int | str]]:
    """Per organ: mean Dice, worst patient, number of patients."""
    summary: dict[str, dict[str, float | int | str]] = {}
    for organ in ORGANS:
        own = [score for score in scores if score.organ == organ]
        if own:
            worst = min(own, key=lambda score: score.dice)
            summary[organ] = {
                "dice": round(float(np.mean([score.dice for score in own])), 4),
                "as_labelled": round(float(np.mean([score.as_labelled for score in own])), 4),
                "worst": worst.dice,
                "worst_case": worst.case_id,
                "patients": len(own),
            }
    return summary


def table(summary: dict[str, dict[str, float | int | str]]) -> str:
    """The summary as a Markdown table, with the mean over organs."""
    lines = ["| organ | patients | Dice | every slice | worst |", "| --- | --- | --- | --- | --- |"]
    for organ, row in summary.items():
        worst = f"{row['worst']:.3f} ({row['worst_case']})"
        numbers = f"{row['dice']:.3f} | {row['as_labelled']:.3f}"
        lines.append(f"| {organ} | {row['patients']} | {numbers} | {worst} |")
    means = [float(np.mean([float(row[key]) for row in summary.values()])) for key in _MEANS]
    lines.append(f"| mean | | {means[0]:.4f} | {means[1]:.4f} | |")
    return "\n".join(lines)


_MEANS = ("dice", "as_labelled")


def validate(
    checkpoint: Path, cases: Iterable[Case], clean: Clean | None
) -> tuple[list[Score], dict[str, dict[str, float]]]:
    """Predict and score the given cases."""
    network = load_network(checkpoint)
    scores: list[Score] = []
    absent: dict[str, dict[str, float]] = {}
    for case in cases:
        predicted = predict_case(network, case, clean)
        scores += score_case(case, predicted)
        volumes = absent_volumes(case, predicted)
        if volumes:
            absent[case.info.case_id] = volumes
    return scores, absent


def write_scores(
    path: Path,
    facts: dict[str, Any],
    scores: Sequence[Score],
    absent: dict[str, dict[str, float]],
) -> None:
    """Write scores as JSON, their table beside it, and print the table."""
    summary = summarise(scores)
    result = {
        **facts,
        "summary": summary,
        "absent_ml": absent,
        "scores": [asdict(score) for score in scores],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(summary) + "\n")
    print(table(summary))
    print("absent organs, ml:", json.dumps(absent))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, score, print the table and write it beside the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="configuration that names the validation cases")
    parser.add_argument("cache", type=Path, help="folder of prepared cases")
    parser.add_argument("checkpoint", type=Path, help="checkpoint (.pth, or a run's average.pt)")
    parser.add_argument("output", type=Path, help="JSON file to write; .md goes beside it")
    parser.add_argument("--recipe", type=Path, help="clean up as this recipe says")
    parser.add_argument("--cases", nargs="+", help="score these instead of the validation cases")
    parser.add_argument(
        "--phantoms", type=int, nargs="+", help="score phantoms of these seeds instead"
    )
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.phantoms:
        from training.phantoms import phantom_case

        cases = (phantom_case(seed) for seed in options.phantoms)
    else:
        names = options.cases or read_config(options.config).validation
        cases = (load_case(options.cache / name) for name in names)
    clean = cleaner(options.recipe) if options.recipe else None
    scores, absent = validate(options.checkpoint, cases, clean)
    facts = {"checkpoint": options.checkpoint.name, "cleaned": clean is not None}
    write_scores(options.output, facts, scores, absent)


if __name__ == "__main__":
    main()
