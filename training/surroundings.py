"""What lies outside the body, taken from another patient: couch, arms, clothes, the scan's edge.

Sources have tables of their own, and a network learns them: on the couch of an abdominal source no
trachea was ever shown to it, so it saw none in a chest that lay there (logits of -8, of +25 once
the couch was painted over). Where bodies change couches, a couch says nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]
from torch import Tensor

from training.cases import AIR_HU, Case
from training.masks import largest_part

_BODY_HU = -350
#: What is thinner than twice this comes off: a sheet, a tube, the rim of a couch.
_THIN_PIXELS = 2
_SKIN_PIXELS = 2
_SHIFT_PIXELS = 6


def body_of(hu: NDArray[np.generic]) -> NDArray[np.bool_] | None:
    """The body in a slice (H, W) with all that it shuts in, and a rim; None where there is none."""
    opened = ndimage.binary_erosion(hu > _BODY_HU, iterations=_THIN_PIXELS)
    if not opened.any():
        return None
    body = ndimage.binary_dilation(largest_part(opened), iterations=_THIN_PIXELS + _SKIN_PIXELS)
    # Holes by what joins the outside: binary_fill_holes takes four times as long.
    outside, _ = ndimage.label(np.pad(~body, 1, constant_values=True))
    return np.asarray(outside[1:-1, 1:-1] != outside[0, 0], dtype=bool)


def swap_surroundings(stack: Tensor, other: Case, row: int, rng: np.random.Generator) -> Tensor:
    """Slices (3, H, W) in HU with what surrounds another patient's body in one of its slices.

    The backs of both bodies lie at about one height, so that a couch is where a couch is.
    """
    own = body_of(stack[1].numpy())
    others = other.hu[row]
    body = body_of(others)
    if own is None or body is None:
        return stack
    aside = draw_aside(rng)
    shift = [a - b + c for a, b, c in zip(back_of(own), back_of(body), aside, strict=True)]
    around = np.where(body, AIR_HU, others).astype(np.float32)
    moved = np.full(own.shape, AIR_HU, dtype=np.float32)
    sizes = zip(shift, own.shape, body.shape, strict=True)
    into = tuple(slice(max(0, by), min(to, by + of)) for by, to, of in sizes)
    if any(part.start >= part.stop for part in into):
        return stack
    out_of = (slice(part.start - by, part.stop - by) for part, by in zip(into, shift, strict=True))
    moved[into] = around[tuple(out_of)]
    return torch.where(torch.from_numpy(own), stack, torch.from_numpy(moved))


def draw_aside(rng: np.random.Generator) -> tuple[int, int]:
    """Rows and columns by which one back comes to lie off the other's place."""
    rows, columns = rng.integers(-_SHIFT_PIXELS, _SHIFT_PIXELS + 1, 2)
    return int(rows), int(columns)


def back_of(body: NDArray[np.bool_]) -> tuple[int, int]:
    """The lowest row of a body, and its middle column."""
    rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
    return int(rows[-1]), int(columns[0] + columns[-1]) // 2
