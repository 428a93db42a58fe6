"""Phantoms for the cache: ``python -m training.phantoms CACHE --seeds 1000 1011``.

The example phantom of ``examples/`` with other patients than the tests and the README use (seeds
from 1000): a few per cent of training, so that what a new user tries first is known to the model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segmate_cli.geometry import Geometry
from segmate_cli.volume import Volume
from training.cases import ORGANS, PIXEL_MM, Case, CaseInfo, Known, save_case

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from phantom import LABELS, make_phantom  # type: ignore[import-not-found]

_LEAST_SEED = 1000


def phantom_case(
    seed: int, spacing_mm: tuple[float, float, float] = (3.0, PIXEL_MM, PIXEL_MM)
) -> Case:
    """One invented patient; contrast, arms, table and noise vary with the seed."""
    phantom = make_phantom(
        seed,
        spacing_mm,
        contrast=seed % 3 > 0,
        noise_hu=6.0 + 4.0 * (seed % 5),
        arms=seed % 4 == 1,
        table=seed % 2 == 0,
    )
    labels = np.zeros_like(phantom.labels)
    for organ, value in LABELS.items():
        # Values over 11 are other organs, and say that a voxel is none of the eleven.
        labels[phantom.labels == value] = ORGANS.index(organ) + 1 if organ in ORGANS else 100
    rows = phantom.hu.shape[0]
    known = np.full((rows, len(ORGANS)), Known.HAND, dtype=np.uint8)
    # The phantom's label is the whole dural sac, the sources' is the cord.
    known[:, ORGANS.index("spinal_cord")] = Known.NO
    return Case(
        CaseInfo(f"phantom{seed}", spacing_mm[0], spacing_mm[1]),
        phantom.hu,
        labels,
        known,
        np.ones(rows, dtype=bool),
    )


def phantom_volume(
    seed: int, spacing_mm: tuple[float, float, float] = (3.0, PIXEL_MM, PIXEL_MM)
) -> tuple[Volume, Case]:
    """The same as a scan that the tool takes, and as a case with its labels."""
    case = phantom_case(seed, spacing_mm)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing_mm)[::-1]
    return Volume(case.hu, Geometry(affine, case.hu.shape)), case


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the phantoms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="folder to write to")
    parser.add_argument("--seeds", type=int, nargs=2, default=(1000, 1011), help="first and last")
    options = parser.parse_args(arguments)
    if options.seeds[0] < _LEAST_SEED:
        parser.error(f"seeds below {_LEAST_SEED} are for tests and examples")
    for seed in range(options.seeds[0], options.seeds[1] + 1):
        save_case(options.cache, phantom_case(seed))
        print(f"phantom{seed}", flush=True)


if __name__ == "__main__":
    main()
