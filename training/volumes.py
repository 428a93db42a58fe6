"""Cases end to end in a device's memory, and where in them a crop's pixels lie."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.cases import Case
from training.surroundings import back_of, body_of


@dataclass(frozen=True, slots=True)
class Bodies:
    """What of `Volumes` is body.

    Attributes:
        inside: bool (voxels,).
        backs: (slices, 2) a body's lowest row and middle column; -1 where a slice shows none.
    """

    inside: Tensor
    backs: Tensor


@dataclass(frozen=True, slots=True)
class Volumes:
    """Cases end to end in a device's memory.

    Attributes:
        hu: int16 (voxels,).
        labels: uint8 (voxels,).
        pseudo: uint8 (voxels,); zeros where a case has none.
        unsure: int16 (voxels,), likewise.
        known: uint8 (slices, organs).
        starts: (cases,) first voxel of each case.
        rows: (cases,) first slice of each case.
        shapes: (cases, 3) k, j, i.
        usable: (cases, 2) first and last slice that may be used.
        slice_mm: (cases,).
        bodies: what changes its surroundings, if any is to.
    """

    hu: Tensor
    labels: Tensor
    pseudo: Tensor
    unsure: Tensor
    known: Tensor
    starts: Tensor
    rows: Tensor
    shapes: Tensor
    usable: Tensor
    slice_mm: Tensor
    bodies: Bodies | None = None


def gather_volumes(cases: Sequence[Case], device: torch.device, bodies: bool = False) -> Volumes:
    """Copy cases to a device.

    Args:
        cases: prepared cases.
        device: where to.
        bodies: whether to find the body in every slice, which takes 3 ms of a processor each.
    """
    shapes = torch.tensor([case.hu.shape for case in cases])
    ends = shapes.prod(dim=1).cumsum(0)
    usable = [np.flatnonzero(case.usable)[[0, -1]] for case in cases]
    pseudo = [case.labels * 0 if case.pseudo is None else case.pseudo for case in cases]
    unsure = [case.labels * 0 if case.unsure is None else case.unsure for case in cases]
    return Volumes(
        hu=_joined([case.hu for case in cases], np.int16, device),
        labels=_joined([case.labels for case in cases], np.uint8, device),
        pseudo=_joined(pseudo, np.uint8, device),
        unsure=_joined(unsure, np.int16, device),
        known=torch.cat([torch.from_numpy(np.array(case.known)) for case in cases]).to(device),
        starts=(ends - shapes.prod(dim=1)).to(device),
        rows=(shapes[:, 0].cumsum(0) - shapes[:, 0]).to(device),
        shapes=shapes.to(device),
        usable=torch.from_numpy(np.stack(usable)).to(device),
        slice_mm=torch.tensor([case.info.slice_mm for case in cases], device=device),
        bodies=_find_bodies(cases, device) if bodies else None,
    )


def _joined(parts: Sequence[NDArray[np.generic]], dtype: type, device: torch.device) -> Tensor:
    flat = [torch.from_numpy(part.reshape(-1).astype(dtype)) for part in parts]
    return torch.cat([part.to(device) for part in flat])


def _find_bodies(cases: Sequence[Case], device: torch.device) -> Bodies:
    """The body in every usable slice: connected components, which no GPU finds."""
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(_bodies_of, cases))
    return Bodies(
        _joined([inside for inside, _ in found], np.bool_, device),
        torch.from_numpy(np.concatenate([backs for _, backs in found])).to(device),
    )


def _bodies_of(case: Case) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    inside = np.zeros(case.hu.shape, dtype=bool)
    backs = np.full((len(inside), 2), -1, dtype=np.int64)
    for row in np.flatnonzero(case.usable):
        body = body_of(case.hu[row])
        if body is not None:
            inside[row], backs[row] = body, back_of(body)
    return inside, backs


def pixels(rows: Tensor, columns: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
    """Place of each pixel in its slice, clamped into it, and whether it was inside.

    Args:
        rows: (N, H, W), whole numbers.
        columns: likewise.
        shape: (N, 3) of the cases.
    """
    height, width = shape[:, 1, None, None], shape[:, 2, None, None]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows = torch.minimum(rows.clamp_min(0), height - 1)
    columns = torch.minimum(columns.clamp_min(0), width - 1)
    return rows * width + columns, inside


@dataclass(frozen=True, slots=True)
class Corner:
    """One of the four pixels between which each pixel of a crop lies.

    Attributes:
        row: (N, H, W), whole numbers.
        column: likewise.
        place: (N, H, W) in the slice.
        weight: (N, H, W), how much it counts; 0 outside the slice.
    """

    row: Tensor
    column: Tensor
    place: Tensor
    weight: Tensor

    def first(self, count: int) -> Corner:
        """That of the first crops."""
        parts = (self.row, self.column, self.place, self.weight)
        return Corner(*(part[:count] for part in parts))


def corners_of(rows: Tensor, columns: Tensor, shape: Tensor) -> list[Corner]:
    """The four pixels around places (N, H, W) in slices."""
    top, left = rows.floor(), columns.floor()
    down, right = rows - top, columns - left
    corners = []
    for j, by_row in ((0, 1 - down), (1, down)):
        for i, by_column in ((0, 1 - right), (1, right)):
            row, column = top.long() + j, left.long() + i
            place, inside = pixels(row, column, shape)
            corners.append(Corner(row, column, place, by_row * by_column * inside))
    return corners
