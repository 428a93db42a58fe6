"""What lies outside a body from another patient, as `training.surroundings`, for a whole batch.

Which slice of which patient is chosen on the processor, each source as often; the rest is the
device's. It is pasted before a crop is sampled, at each of the four pixels between which one of
the crop's lies: a sample is their weighted sum, so it is as if whole slices had been pasted. The
body is that of the nearest slice as scanned; `draw_crop` takes the one that it shows, between
slices, thick, or with a lent kidney.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.cases import AIR_HU
from training.sampling import Sampler
from training.surroundings import draw_aside
from training.volumes import Bodies, Corner, Volumes, pixels


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Slices whose surroundings some of a batch's crops get.

    Attributes:
        to: (M,) which crops.
        case: (M,) whose.
        row: (M,) slice of that case.
        aside: (M, 2) rows and columns by which its back comes to lie off the crop's own.
    """

    to: Tensor
    case: Tensor
    row: Tensor
    aside: Tensor


def choose_surroundings(
    sampler: Sampler, count: int, rng: np.random.Generator
) -> Surroundings | None:
    """Others' slices for as many of the crops as the chance says; draws nothing where it is 0."""
    chance = sampler.augmentation.surroundings_chance
    to = [n for n in range(count) if chance and rng.random() < chance]
    if not to:
        return None
    sources = list(sampler.sources.values())
    chosen = []
    for _ in to:
        source = sources[int(rng.integers(len(sources)))]
        case = source[int(rng.integers(len(source)))]
        row = int(rng.choice(np.flatnonzero(sampler.cases[case].usable)))
        chosen.append((case, row, draw_aside(rng)))
    case, row, aside = (torch.tensor(part) for part in zip(*chosen, strict=True))
    return Surroundings(torch.tensor(to), case, row, aside)


def swap_surroundings(
    volumes: Volumes, chosen: Surroundings, case: Tensor, row: Tensor, corners: Sequence[Corner]
) -> Tensor:
    """Take all outside the bodies off corners, in place, and return what lies there instead.

    A slice stays as it is where it or the other shows no body, or where they lie too far apart.

    Args:
        volumes: the cases, with their bodies.
        chosen: what is pasted into which crops, on the volumes' device.
        case: (N,) of all crops.
        row: (N,) nearest slice of each crop.
        corners: of all crops.

    Returns:
        HU above air (M, H, W), to be added to each of the crop's three slices.
    """
    if volumes.bodies is None:
        raise ValueError("surroundings are swapped around bodies: gather the volumes with them")
    bodies, to = volumes.bodies, chosen.to
    case, row = case[to], row[to]
    shape, others = volumes.shapes[case], volumes.shapes[chosen.case]
    shift, swapped = _shift(volumes, bodies, chosen, (case, row))
    plane, other_plane = (
        (volumes.starts[of] + at * size[:, 1] * size[:, 2])[:, None, None]
        for of, at, size in ((case, row, shape), (chosen.case, chosen.row, others))
    )
    down, right = shift[:, :, None, None].unbind(1)
    total = torch.zeros_like(corners[0].weight[to])
    for corner in corners:
        outside = swapped[:, None, None] & ~bodies.inside[plane + corner.place[to]]
        place, within = pixels(corner.row[to] - down, corner.column[to] - right, others)
        at = other_plane + place
        shown = outside & within & ~bodies.inside[at]
        weight = corner.weight[to]
        total += (volumes.hu[at] - AIR_HU) * (weight * shown)
        corner.weight[to] = weight * ~outside
    return total


def _shift(
    volumes: Volumes, bodies: Bodies, chosen: Surroundings, own: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Rows and columns (M, 2) by which the others' slices are moved, and which of them can be."""
    case, row = own
    back = bodies.backs[volumes.rows[case] + row]
    other_back = bodies.backs[volumes.rows[chosen.case] + chosen.row]
    shift = back - other_back + chosen.aside
    size, others = volumes.shapes[case][:, 1:], volumes.shapes[chosen.case][:, 1:]
    meet = (shift.clamp_min(0) < torch.minimum(size, shift + others)).all(dim=1)
    return shift, meet & (back[:, 0] >= 0) & (other_back[:, 0] >= 0)
