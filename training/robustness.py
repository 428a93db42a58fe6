"""What storage order, slice distance and noise cost the shipped model, in mean Dice.

    python -m training.robustness ../shared/ct/train segthor12 btcv26 ircad01 imlab2
    python -m training.robustness ../shared/ct/train ircad01 --every-order

Each variant of a scan goes through the whole of ``segmate.predict`` and is scored against the
case's own labels, which are turned or sampled the same way.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segmate_cli import load, predict
from segmate_cli.bundle import open_bundle
from segmate_cli.engines import LoadedModel, load_model
from segmate_cli.geometry import Geometry
from segmate_cli.nifti import open_nifti
from segmate_cli.nifti_labels import read_labels
from segmate_cli.volume import Volume

Array = npt.NDArray[np.generic]

ORIENTATIONS = ("IAR", "LPS", "PRI", "RSA")
# The 48 orders in which the same voxels may be stored.
EVERY_ORDER = tuple(
    "".join(letters)
    for axes in itertools.permutations(("LR", "AP", "IS"))
    for letters in itertools.product(*axes)
)
SLICE_DISTANCES_MM = (0.7, 5.0)
NOISE_HU = 20.0
# A variant of more voxels than this is left out: it would take more memory than it tells.
_MOST_VOXELS = 90_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--model", default="default")
    parser.add_argument(
        "--every-order", action="store_true", help="all 48 storage orders and nothing else"
    )
    args = parser.parse_args()
    model = load_model(open_bundle(args.model))
    scores: dict[str, list[float]] = {}
    for case in args.cases:
        for name, dice in score_case(args.folder / case, model, args.every_order):
            scores.setdefault(name, []).append(dice)
    plain = float(np.mean(scores["as it is"]))
    for name, values in scores.items():
        mean = float(np.mean(values))
        print(f"{name:<16} {mean:.4f}  {mean - plain:+.4f}  {len(values)} scans")


def score_case(
    folder: Path, model: LoadedModel, every_order: bool = False
) -> Iterator[tuple[str, float]]:
    """Mean Dice over a case's labelled organs, for each variant of its scan."""
    volume = load(folder / "ct.nii.gz")
    # The training labels use the values of the model's own organs.
    names = dict(enumerate(model.manifest.organ_table(), 1))
    truth = read_labels(open_nifti(folder / "labels.nii.gz"), names)
    make = stored_otherwise if every_order else variants
    for name, scan, labels in make(volume, np.asarray(truth.values)):
        yield name, mean_dice(np.asarray(predict(scan, model).values), labels, model)


def variants(volume: Volume, labels: Array) -> Iterator[tuple[str, Volume, Array]]:
    """The scan and its labels as they are, turned, noisy, and with slices at other distances."""
    yield from stored_otherwise(volume, labels, ORIENTATIONS)
    noise = np.random.default_rng(0).normal(0.0, NOISE_HU, volume.hu.shape)
    noisy = np.rint(volume.hu + noise).astype(np.int16)
    yield f"noise {NOISE_HU:.0f} HU", Volume(noisy, volume.geometry), labels
    for distance_mm in SLICE_DISTANCES_MM:
        step = distance_mm / volume.geometry.spacing_mm[0]
        at = np.arange(int((volume.hu.shape[0] - 1) / step) + 1) * step
        if at.size * volume.hu[0].size <= _MOST_VOXELS:
            yield f"{distance_mm} mm slices", *_resliced(volume, labels, at, step)


def stored_otherwise(
    volume: Volume, labels: Array, orders: Sequence[str] = EVERY_ORDER
) -> Iterator[tuple[str, Volume, Array]]:
    """The scan and its labels as they are, and stored in other orders."""
    yield "as it is", volume, labels
    for letters in orders:
        geometry, turn = volume.geometry.reoriented(letters)
        hu = np.ascontiguousarray(turn.view(volume.hu))
        yield f"stored {letters}", Volume(hu, geometry), turn.view(labels)


def _resliced(
    volume: Volume, labels: Array, at: npt.NDArray[np.float64], step: float
) -> tuple[Volume, Array]:
    low = at.astype(int)
    high = np.minimum(low + 1, volume.hu.shape[0] - 1)
    part = (at - low)[:, None, None].astype(np.float32)
    hu = np.rint(volume.hu[low] * (1 - part) + volume.hu[high] * part).astype(np.int16)
    affine = np.array(volume.geometry.affine)
    affine[:3, 0] *= step
    nearest = np.minimum(np.rint(at).astype(int), labels.shape[0] - 1)
    return Volume(hu, Geometry(affine, hu.shape)), labels[nearest]


def mean_dice(found: Array, truth: Array, model: LoadedModel) -> float:
    """Volume Dice, mean over the model's organs that the labels hold."""
    scores = []
    for value in range(1, len(model.manifest.organs) + 1):
        a, b = found == value, truth == value
        if b.any():
            both = np.count_nonzero(a & b)
            scores.append(2.0 * both / (np.count_nonzero(a) + np.count_nonzero(b)))
    return float(np.mean(scores))


if __name__ == "__main__":
    main()
