"""Mean of the weights of runs that share a beginning: ``python -m training.average OUT A.pt B.pt``.

Networks that were trained on from the same state often lie in one basin, where the mean of their
weights is at least as good as either (Wortsman et al., arXiv 2203.05482); it costs no training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from segmate_cli.network import load_state
from training.train import save_whole


def mean_state(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each tensor; of counters, which are no weights, the first state's.

    Args:
        states: of networks of the same shape, at least one.

    Raises:
        ValueError: they do not have the same tensors.
    """
    first = states[0]
    if any(state.keys() != first.keys() for state in states):
        raise ValueError("the states are not of one network: their tensors differ in name")
    return {
        key: torch.stack([state[key].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for key, value in first.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Read checkpoints, average them and write a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="checkpoint to write")
    parser.add_argument("checkpoints", type=Path, nargs="+", help="average.pt of each run")
    options = parser.parse_args(arguments)
    states = [dict(load_state(path)) for path in options.checkpoints]
    save_whole({"model_state": mean_state(states)}, options.output)


if __name__ == "__main__":
    main()
