"""Score a bundle through ``segmate.predict`` itself: ``python -m training.score_bundle``.

Each scan is read, segmented and labelled on its own grid by the tool as it ships; the figures
of the model card come from here. Rules for what is known of the labels are those of
``training.validate``, whose JSON this writes, too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmate_cli import load, predict
from segmate_cli.bundle import open_bundle
from segmate_cli.engines import LoadedModel, load_model
from segmate_cli.geometry import Geometry
from segmate_cli.pipeline import PredictOptions
from segmate_cli.volume import Volume
from training.cases import ORGANS, Case, CaseInfo
from training.phantoms import phantom_volume
from training.prepare import merged_labels, to_lps
from training.sources import drop_gas, known_rows, separate_branches, usable_slices
from training.train import read_config
from training.validate import Score, absent_volumes, score_case, write_scores


def labelled_case(folder: Path, volume: Volume) -> Case:
    """A case's labels on its scan's own grid, and what is known of them; its HU are all 0."""
    info = json.loads((folder / "info.json").read_text())
    hand, spacing = to_lps(folder / "labels.nii.gz")
    merged = np.array(merged_labels(folder, hand.astype(np.uint8)))
    separate_branches(merged, info["id"], spacing[1])
    drop_gas(merged, _in_lps(volume.geometry, volume.hu), info["id"], spacing[1])
    return Case(
        info=CaseInfo(info["id"], spacing[0], spacing[1], info.get("quality") or ""),
        hu=np.broadcast_to(np.int16(0), merged.shape),
        labels=merged,
        known=known_rows(info, merged, *spacing[:2]),
        usable=usable_slices(info, merged.shape[0]),
    )


def _in_lps(geometry: Geometry, values: NDArray[Any]) -> NDArray[Any]:
    """Values of a scan's voxels, (k, j, i) in LPS array order."""
    return geometry.reoriented(("S", "P", "L"))[1].view(values)


def predicted_labels(
    volume: Volume, model: LoadedModel, options: PredictOptions
) -> NDArray[np.uint8]:
    """What the tool finds, (k, j, i) in LPS array order, with the values of prepared cases."""
    found = predict(volume, model, options)
    values = _in_lps(found.geometry, np.asarray(found.values))
    result = np.zeros(values.shape, dtype=np.uint8)
    for value, organ in found.organs.items():
        result[values == value] = ORGANS.index(organ.key) + 1
    return result


def score_bundle(
    model: LoadedModel, cases: Sequence[tuple[Volume, Case]], options: PredictOptions
) -> tuple[list[Score], dict[str, dict[str, float]]]:
    """Scores of every case, and millilitres found where anatomy rules an organ out."""
    scores: list[Score] = []
    absent: dict[str, dict[str, float]] = {}
    for volume, case in cases:
        found = predicted_labels(volume, model, options)
        found[~case.usable] = 0
        scores += score_case(case, found)
        if volumes := absent_volumes(case, found):
            absent[case.info.case_id] = volumes
    return scores, absent


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, score, print the table and write it beside the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="configuration that names the validation cases")
    parser.add_argument("data", type=Path, help="folder of the cases, as delivered")
    parser.add_argument("bundle", help="a bundle's folder, or a model's name")
    parser.add_argument("output", type=Path, help="JSON file to write; .md goes beside it")
    parser.add_argument("--cases", nargs="+", help="score these instead of the validation cases")
    parser.add_argument("--phantoms", type=int, nargs="+", help="score phantoms of these seeds")
    parser.add_argument("--fast", action="store_true", help="as predict --fast")
    args = parser.parse_args(arguments)
    model = load_model(open_bundle(args.bundle))
    if args.phantoms:
        cases = [phantom_volume(seed) for seed in args.phantoms]
    else:
        folders = [args.data / name for name in args.cases or read_config(args.config).validation]
        volumes = [load(each / "ct.nii.gz") for each in folders]
        cases = [
            (one, labelled_case(each, one)) for one, each in zip(volumes, folders, strict=True)
        ]
    scores, absent = score_bundle(model, cases, PredictOptions(fast=args.fast))
    facts = {"bundle": f"{model.manifest.name} {model.manifest.version}", "fast": args.fast}
    write_scores(args.output, facts, scores, absent)


if __name__ == "__main__":
    main()
