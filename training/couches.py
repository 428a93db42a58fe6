"""What another couch costs: ``python -m training.couches CONFIG CACHE CHECKPOINT``.

Every validation case is scored as it is, and with all that lies outside the body taken from one
slice of each of some other patients. A network that has learned couches loses by it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from training.cases import ORGANS, Case, load_case
from training.inference import load_network, predict_case
from training.surroundings import swap_surroundings
from training.train import read_config
from training.validate import score_case

#: A couch of each kind: foam on a flat board, thin and bent, deep and bent; a masked scan has none.
COUCHES = ("segthor04", "btcv05", "ircad19", "kbp022")


def on_couch(case: Case, other: Case) -> Case:
    """A case with the surroundings of another's middle slice."""
    row = int(np.flatnonzero(other.usable)[np.count_nonzero(other.usable) // 2])
    rng = np.random.default_rng(0)
    hu = np.array(case.hu)
    for k in range(len(hu)):
        slices = torch.from_numpy(hu[k].astype(np.float32)).expand(3, -1, -1)
        hu[k] = swap_surroundings(slices, other, row, rng)[1].numpy().astype(np.int16)
    return dataclasses.replace(case, hu=hu)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, score, and print mean Dice by organ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="names the validation cases")
    parser.add_argument("cache", type=Path, help="folder of prepared cases")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--cases", nargs="+", help="these alone")
    parser.add_argument("--couches", nargs="+", default=list(COUCHES), help="whose couches")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    network = load_network(options.checkpoint)
    cases = [load_case(options.cache / name) for name in _names(options)]
    print("couch of  " + " ".join(f"{organ[:8]:>8}" for organ in ORGANS) + "     mean")
    for couch in ("", *options.couches):
        other = load_case(options.cache / couch) if couch else None
        found: dict[str, list[float]] = {organ: [] for organ in ORGANS}
        for case in cases:
            shown = on_couch(case, other) if other else case
            for score in score_case(case, predict_case(network, shown)):
                found[score.organ].append(score.dice)
        means = [float(np.mean(each)) if each else float("nan") for each in found.values()]
        numbers = " ".join(f"{mean:8.4f}" for mean in (*means, float(np.nanmean(means))))
        print(f"{couch or 'its own':<9} {numbers}", flush=True)


def _names(options: argparse.Namespace) -> Sequence[str]:
    chosen: Sequence[str] = options.cases or read_config(options.config).validation
    return chosen


if __name__ == "__main__":
    main()
