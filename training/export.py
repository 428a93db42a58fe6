"""A checkpoint to the bundle that segmate runs: ``python -m training.export``.

The scores in the manifest are those of ``training.validate``'s JSON; nothing is typed by hand.
Large weights ship as float16. They are rounded before the export, so that the network whose file
is proved against PyTorch is the one that is stored and scored; what rounding costs shows in the
scores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segmate_cli.convert import convert_checkpoint
from segmate_cli.network import load_state

_RECIPE = Path(__file__).with_name("configs") / "segmate-11.recipe.json"


def filled_recipe(
    recipe: dict[str, Any], scores: dict[str, Any], clean_up: dict[str, Any], note: str
) -> dict[str, Any]:
    """A recipe with validation scores and clean-up put in.

    Args:
        recipe: contents of a recipe file.
        scores: contents of the JSON that ``training.validate`` writes.
        clean_up: rules by organ, see ``segmate_cli.bundle.CleanUp``.
        note: what the scores are, in a sentence.
    """
    dice = {organ: row["dice"] for organ, row in scores["summary"].items()}
    dice["mean"] = round(sum(dice.values()) / len(dice), 4)
    provenance = {**recipe["provenance"], "scores": dice, "scores_note": note}
    return {**recipe, "clean_up": {**recipe["clean_up"], **clean_up}, "provenance": provenance}


def rounded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors with every weight of a layer as near as float16 comes to it."""
    return {
        key: value.half().float() if value.is_floating_point() and value.ndim > 1 else value
        for key, value in state.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a run's average.pt")
    parser.add_argument("scores", type=Path, help="JSON of training.validate")
    parser.add_argument("output", type=Path, help="folder of the bundle")
    parser.add_argument("--version", required=True, help="by date, such as 2026.11.23")
    parser.add_argument("--recipe", type=Path, default=_RECIPE)
    parser.add_argument("--clean-up", type=Path, help="JSON: rules by organ")
    parser.add_argument("--note", default="volume Dice on segmate's validation patients")
    options = parser.parse_args(arguments)
    recipe = json.loads(options.recipe.read_text())
    clean_up = json.loads(options.clean_up.read_text()) if options.clean_up else {}
    scores = json.loads(options.scores.read_text())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.json"
        path.write_text(json.dumps(filled_recipe(recipe, scores, clean_up, options.note)))
        checkpoint = Path(folder) / "rounded.pt"
        torch.save({"model_state": rounded(load_state(options.checkpoint))}, checkpoint)
        convert_checkpoint(
            checkpoint,
            options.output,
            recipe=path,
            precision="fp16",
            version=options.version,
            overwrite=True,
        )


if __name__ == "__main__":
    main()
