"""What circumstances cost: ``python -m training.circumstances CONFIG CACHE CHECKPOINT``.

Every validation case is scored as it is, and in other circumstances that leave its anatomy alone:
another patient's couch, another dose of contrast, another kernel. What a network has learned of
its sources beside the organs shows here, and nowhere else: validation patients lie on the couches
of their own sources.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from training.augment import enhance
from training.cases import AIR_HU, ORGANS, Case, load_case
from training.inference import load_network, predict_case
from training.surroundings import body_of, swap_surroundings
from training.train import read_config
from training.validate import score_case

#: A couch of each kind: foam on a flat board, thin and bent, deep and bent; a masked scan has none.
COUCHES = ("segthor04", "btcv05", "ircad19", "kbp022")
#: Air and lung are less dense.
_AIRY_HU = -400
_Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def on_couch(case: Case, other: Case) -> Case:
    """A case with the surroundings of another's middle slice."""
    row = int(np.flatnonzero(other.usable)[np.count_nonzero(other.usable) // 2])
    rng = np.random.default_rng(0)
    hu = np.array(case.hu)
    for k in range(len(hu)):
        slices = torch.from_numpy(hu[k].astype(np.float32)).expand(3, -1, -1)
        hu[k] = swap_surroundings(slices, other, row, rng)[1].numpy().astype(np.int16)
    return dataclasses.replace(case, hu=hu)


def enhanced(hu: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """HU with iodine and bone so many times as dense above plain soft tissue."""
    return np.asarray(enhance(torch.from_numpy(hu), factor).numpy())


def denser(hu: NDArray[np.float32], by_hu: float) -> NDArray[np.float32]:
    """HU with all but air and lung so much denser."""
    return np.where(hu > _AIRY_HU, hu + np.float32(by_hu), hu)


def stepped(hu: NDArray[np.float32], step_hu: float) -> NDArray[np.float32]:
    """HU in steps, as 8-bit sources have them."""
    return np.asarray(np.round(hu / step_hu) * step_hu, dtype=np.float32)


def airier(hu: NDArray[np.float32], by_hu: float) -> NDArray[np.float32]:
    """HU with air and lung brighter, as breathing out and scatter make them."""
    return np.where(hu < _AIRY_HU, hu + np.float32(by_hu), hu)


def blurred(hu: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """HU with a share of their 3 x 3 mean; below 0 they get sharper."""
    smooth = ndimage.uniform_filter(hu, (0, 3, 3))
    return np.asarray(hu + share * (smooth - hu), dtype=np.float32)


def in_circle(hu: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """HU, and air outside a circle of so much of the body's largest width."""
    body = body_of(hu[len(hu) // 2])
    if body is None:
        return hu
    rows, columns = np.nonzero(body)
    radius = share * (columns.max() - columns.min() + 1) / 2
    middle = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    away = np.hypot(*(axis - at for axis, at in zip(np.indices(body.shape), middle, strict=True)))
    return np.where(away > radius, np.float32(AIR_HU), hu)


#: Changes of HU alone, by what stands in the table.
CHANGES: dict[str, _Change] = {
    "contrast x 0.5": partial(enhanced, factor=0.5),
    "contrast x 1.6": partial(enhanced, factor=1.6),
    "tissue -25 HU": partial(denser, by_hu=-25),
    "tissue +25 HU": partial(denser, by_hu=25),
    "air +80 HU": partial(airier, by_hu=80),
    "8-bit steps": partial(stepped, step_hu=32),
    "blurred": partial(blurred, share=1.0),
    "sharpened": partial(blurred, share=-1.0),
    "circle of 0.9": partial(in_circle, share=0.9),
}


def changed(case: Case, change: _Change) -> Case:
    """A case with other HU."""
    hu = change(case.hu.astype(np.float32))
    return dataclasses.replace(case, hu=hu.round().clip(-1024, 3071).astype(np.int16))


def magnified(case: Case, factor: float, angle_deg: float = 0.0) -> Case:
    """A case with a body of so many times its width, turned in its slices, labels and all."""
    angle = math.radians(angle_deg)
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
    )
    height, width = case.hu.shape[1:]
    sizes = (1, 1, max(height, width), max(height, width))
    grid = F.affine_grid(turn[None] / factor, list(sizes), align_corners=False)
    pad = ((0, 0), (0, sizes[2] - height), (0, sizes[3] - width))

    def sample(values: NDArray[np.generic], empty: float, mode: str) -> NDArray[np.float32]:
        planes = torch.from_numpy(np.pad(values.astype(np.float32) - empty, pad))[:, None]
        moved = F.grid_sample(planes, grid.expand(len(planes), -1, -1, -1), mode, "zeros", False)
        return np.asarray(moved[:, 0].numpy() + empty)

    hu = sample(case.hu, AIR_HU, "bilinear").round().astype(np.int16)
    labels = sample(case.labels, 0, "nearest").astype(np.uint8)
    return dataclasses.replace(case, hu=hu, labels=labels, pseudo=None, unsure=None)


def circumstances(cache: Path, couches: Sequence[str]) -> dict[str, Callable[[Case], Case]]:
    """What may be asked for, by name."""
    found: dict[str, Callable[[Case], Case]] = {"as it is": lambda case: case}
    for couch in couches:
        found[f"on {couch}'s"] = partial(on_couch, other=load_case(cache / couch))
    for name, change in CHANGES.items():
        found[name] = partial(changed, change=change)
    for factor in (0.8, 1.25):
        found[f"size x {factor}"] = partial(magnified, factor=factor)
    found["turned 12 deg"] = partial(magnified, factor=1.0, angle_deg=12.0)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, score, and print mean Dice by organ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="names the validation cases")
    parser.add_argument("cache", type=Path, help="folder of prepared cases")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--cases", nargs="+", help="these alone")
    parser.add_argument("--couches", nargs="*", default=list(COUCHES), help="whose couches")
    parser.add_argument("--only", nargs="+", help="circumstances whose names begin so")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    network = load_network(options.checkpoint)
    names: Sequence[str] = options.cases or read_config(options.config).validation
    cases = [load_case(options.cache / name) for name in names]
    print(f"{'':<16} " + " ".join(f"{organ[:8]:>8}" for organ in ORGANS) + "     mean")
    only = tuple(options.only or [""])
    for name, change in circumstances(options.cache, options.couches).items():
        if not name.startswith(only):
            continue
        found: dict[str, list[float]] = {organ: [] for organ in ORGANS}
        for case in cases:
            shown = change(case)
            for score in score_case(shown, predict_case(network, shown)):
                found[score.organ].append(score.dice)
        means = [float(np.mean(each)) if each else float("nan") for each in found.values()]
        numbers = " ".join(f"{mean:8.4f}" for mean in (*means, float(np.nanmean(means))))
        print(f"{name:<16} {numbers}", flush=True)


if __name__ == "__main__":
    main()
