"""Choose each organ's threshold: ``python -m training.thresholds CONFIG CACHE BUNDLE RECIPE``.

Losses that ask for overlap make organs a little too large or too small. For each organ the
threshold with the best mean Dice over the validation patients is taken, but only if it also helps
patients who had no say in it: each patient is scored with what the others would have chosen, and
the mean of that must gain ``_LEAST_GAIN``. Both sides of a pair share one threshold.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segmate_cli.export import open_onnx
from training.cases import AMBIGUOUS_AORTA, ORGANS, Case, Known, load_case
from training.inference import at_case_slices, model_slices, slice_logits
from training.train import read_config
from training.validate import overlap

#: Logits that are tried; 0 is a probability of one half.
LEVELS = tuple(float(level) for level in np.arange(-1.5, 1.6, 0.25))
_LEAST_GAIN = 0.001


@dataclass(frozen=True, slots=True)
class _Output:
    logits: Tensor


class OnnxNetwork(nn.Module):
    """A bundle's ONNX file where a network is wanted."""

    def __init__(self, path: Path):
        super().__init__()
        self._run: Callable[..., NDArray[np.float32]] = open_onnx(path)

    def forward(self, slices: Tensor) -> _Output:
        """Logits of a batch."""
        return _Output(torch.from_numpy(self._run(slices.contiguous().numpy(), None)))


def case_curves(network: nn.Module, case: Case) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Dice at every level, for each organ that hands labelled in a case."""
    logits = at_case_slices(slice_logits(network, model_slices(case)), case)
    rows = np.flatnonzero(case.usable)
    height, width = case.hu.shape[1:]
    labels = torch.from_numpy(np.array(case.labels[rows[0] : rows[-1] + 1]))
    logits = logits[:, :, :height, :width]
    passing = torch.where(logits > 0, logits, -torch.inf)
    for channel, organ in enumerate(ORGANS):
        known = torch.from_numpy(case.known[rows[0] : rows[-1] + 1, channel] == Known.HAND)
        reference = (labels[known] == channel + 1).numpy()
        if not reference.any():
            continue
        own = logits[channel][known]
        others = torch.cat([passing[:channel], passing[channel + 1 :]])[:, known].amax(0)
        free = own > others
        if organ == "aorta":
            free &= labels[known] != AMBIGUOUS_AORTA
        curve = [overlap(((own > level) & free).numpy(), reference) for level in LEVELS]
        yield organ, np.array(curve)


def unsided(organ: str) -> str:
    """An organ's name without its side."""
    return organ.removesuffix("_left").removesuffix("_right")


def patient_curves(network: nn.Module, case: Case) -> dict[str, NDArray[np.float64]]:
    """Curves of one patient, the mean of both sides for organs that come in pairs."""
    curves: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for organ, curve in case_curves(network, case):
        curves[unsided(organ)].append(curve)
    return {name: np.mean(both, axis=0) for name, both in curves.items()}


def choose(curves: NDArray[np.float64]) -> tuple[float, float]:
    """The level with the best mean, and what it brings patients who did not choose it.

    Args:
        curves: (patients, levels) Dice.

    Returns:
        (level, gain of the mean Dice with each patient left out of the choice).
    """
    plain = LEVELS.index(0.0)
    best = LEVELS[int(curves.mean(axis=0).argmax())]
    if len(curves) < 3:
        return best, 0.0
    gains = []
    for patient, curve in enumerate(curves):
        others = np.delete(curves, patient, axis=0).mean(axis=0)
        gains.append(curve[int(others.argmax())] - curve[plain])
    return best, float(np.mean(gains))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, choose, and write the thresholds into the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="configuration that names the validation cases")
    parser.add_argument("cache", type=Path, help="folder of prepared cases")
    parser.add_argument("bundle", type=Path, help="folder of an ONNX bundle")
    parser.add_argument("recipe", type=Path, help="recipe to write the thresholds into")
    options = parser.parse_args(arguments)
    network = OnnxNetwork(options.bundle / "model.onnx")
    curves: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for name in read_config(options.config).validation:
        for organ, curve in patient_curves(network, load_case(options.cache / name)).items():
            curves[organ].append(curve)
        print(name, flush=True)
    recipe = json.loads(options.recipe.read_text())
    for entry in recipe["organs"]:
        level, gain = choose(np.array(curves[unsided(entry["key"])]))
        taken = gain >= _LEAST_GAIN
        entry["threshold"] = round(float(1 / (1 + np.exp(-level))), 3) if taken else 0.5
        print(f"{entry['key']:<14} {level:+.2f}  {gain:+.4f}  {'taken' if taken else 'left'}")
    options.recipe.write_text(json.dumps(recipe, indent=1) + "\n")


if __name__ == "__main__":
    main()
