"""Labels for what no hand labelled, from a trained network: ``python -m training.pseudo``.

Predictions averaged over magnifications and networks become labels where they are sure and look
like the organ: its largest part, on the right side, of a plausible cross-section. A band of doubt
around them is left out of training; beyond an organ's ends nothing is claimed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.cases import INVENTED, ORGANS, Case, Known, load_cases, save_round
from training.inference import averaged_logits, load_network, model_slices, to_case_grid
from training.masks import largest_part
from training.sampling import body_centre
from training.train import read_config

#: Least volume (ml) and range of cross-sections (mm2) that make a prediction believable.
LIMITS: dict[str, tuple[float, float, float]] = {
    "lung_left": (30.0, 200.0, 40000.0),
    "lung_right": (30.0, 200.0, 40000.0),
    "trachea": (8.0, 50.0, 1500.0),
    "esophagus": (4.0, 30.0, 1200.0),
    "spinal_cord": (4.0, 30.0, 300.0),
    "heart": (30.0, 300.0, 20000.0),
    "aorta": (15.0, 80.0, 3500.0),
    "liver": (200.0, 100.0, 45000.0),
    "kidney_left": (40.0, 50.0, 8000.0),
    "kidney_right": (40.0, 50.0, 8000.0),
    "spleen": (40.0, 50.0, 15000.0),
}
_DOUBT = (0.15, 0.85)
_LEAST_CONFIDENCE = 0.8
#: Their ends are where a source stopped contouring: the network may have learned that.
_NO_MARGIN = ("aorta", "trachea", "esophagus", "spinal_cord")
_MARGIN_MM = 9.0
_SKIPPED = ("kbp", *INVENTED)


def probabilities(
    networks: Sequence[nn.Module], case: Case, zooms: Sequence[float] = (1.0, 1.15)
) -> NDArray[np.uint8]:
    """Probability of each organ in 1/255, (organs, k, j, i), from the mean logits."""
    slices = model_slices(case)
    logits = averaged_logits(networks[0], slices, tuple(zooms))
    for network in networks[1:]:
        logits = logits + averaged_logits(network, slices, tuple(zooms))
    logits = logits / len(networks)
    levels = (logits.sigmoid() * 255).round().to(torch.uint8).numpy()
    return np.stack([to_case_grid(organ, case) for organ in levels])


def on_its_side(organ: str, mask: NDArray[np.bool_], case: Case) -> bool:
    """Whether a left organ lies left of the body's middle, and a right one right."""
    if not organ.endswith(("_left", "_right")):
        return True
    middle = float(np.nonzero(mask)[2].mean())
    return (middle > body_centre(case)[1]) == organ.endswith("_left")


def believable_rows(
    organ: str, found: NDArray[np.bool_], chance: NDArray[np.uint8], case: Case
) -> NDArray[np.bool_]:
    """Slices (k,) in which a prediction may serve as a label."""
    least_ml, smallest, largest = LIMITS[organ]
    pixel_mm2 = case.info.pixel_mm**2
    counts = found.sum(axis=(1, 2))
    rows = np.zeros(found.shape[0], dtype=bool)
    if counts.sum() * pixel_mm2 * case.info.slice_mm / 1000 < least_ml:
        return rows
    if not on_its_side(organ, found, case):
        return rows
    sums = np.where(found, chance, 0).sum(axis=(1, 2), dtype=np.float64)
    confidence = sums / np.maximum(counts, 1) / 255
    area = counts * pixel_mm2
    rows = (area >= smallest) & (area <= largest) & (confidence >= _LEAST_CONFIDENCE)
    if organ not in _NO_MARGIN and rows.any():
        margin = round(_MARGIN_MM / case.info.slice_mm)
        ends = np.flatnonzero(counts)
        rows[max(0, ends[0] - margin) : ends[0]] = True
        rows[ends[-1] + 1 : ends[-1] + 1 + margin] = True
    return np.asarray(rows, dtype=bool)


def pseudo_labels(
    case: Case, chances: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.uint8]]:
    """Labels, voxels of doubt (a bit an organ) and the completed table of what is known."""
    labels = np.zeros(case.hu.shape, dtype=np.uint8)
    unsure = np.zeros(case.hu.shape, dtype=np.uint16)
    known = np.array(case.known)
    best = chances.max(axis=0)
    for channel, organ in enumerate(ORGANS):
        unknown = (known[:, channel] == Known.NO) & case.usable
        if not unknown.any():
            continue
        chance = chances[channel]
        likely = (chance > 127) & (chance == best)
        found = largest_part(likely)
        rows = believable_rows(organ, found, chance, case) & unknown
        if not rows.any():
            continue
        known[rows, channel] = Known.PSEUDO
        doubt = (chance > 255 * _DOUBT[0]) & (chance < 255 * _DOUBT[1]) | (likely & ~found)
        taken = found & rows[:, None, None]
        labels[taken] = channel + 1
        unsure[doubt & rows[:, None, None]] |= np.uint16(1 << channel)
    return labels, unsure, known


def summary(case: Case, known: NDArray[np.uint8]) -> str:
    """Which organs gained labels in how many slices."""
    gained = (known == Known.PSEUDO).sum(axis=0)
    named = [f"{organ} {count}" for organ, count in zip(ORGANS, gained, strict=True) if count]
    return f"{case.info.case_id}: {', '.join(named) or 'nothing'}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and label every training case of the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="names the validation cases, which are left out")
    parser.add_argument("cache", type=Path, help="folder of prepared cases")
    parser.add_argument("checkpoint", type=Path, help="network that labels")
    parser.add_argument("round", help="name of this round of labels")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="more such networks")
    parser.add_argument("--first", nargs="*", default=[], help="prefixes of cases to do first")
    parser.add_argument("--zooms", type=float, nargs="+", default=[1.0, 1.15])
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    networks = [load_network(path) for path in (options.checkpoint, *options.also)]
    left_out = read_config(options.config).validation
    first = tuple(options.first)
    for case in sorted(
        load_cases(options.cache), key=lambda case: not case.info.case_id.startswith(first)
    ):
        if case.info.case_id in left_out or case.info.case_id.startswith(_SKIPPED):
            continue
        folder = options.cache / case.info.case_id
        if (folder / f"{options.round}_known.npy").exists():
            continue
        labels, unsure, known = pseudo_labels(case, probabilities(networks, case, options.zooms))
        save_round(folder, options.round, labels, known, unsure)
        print(summary(case, known), flush=True)


if __name__ == "__main__":
    main()
