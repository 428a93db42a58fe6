"""A kidney where the training data have none: taken from other slices of the same patient.

Kidneys of the data lie at the height of the liver, real ones also beside the iliac crest, and a
network of three slices learns the neighbours along with the organ. This is the copy-and-paste
augmentation of instance segmentation (Ghiasi et al., arXiv 2012.07177), along one axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.cases import ORGANS, Case, Known

KIDNEYS = (ORGANS.index("kidney_left") + 1, ORGANS.index("kidney_right") + 1)
#: How far along the body a kidney may be moved.
REACH_MM = (15.0, 120.0)
#: How far across the body: towards the front, and to either side.
_ROWS, _COLUMNS = (-60, 0), (-20, 20)
_TRIES = 20
#: Share of a place that bone, air or organs may take.
_MOST_OCCUPIED = 0.1
#: How often a kidney of the other side is taken, seen in a mirror: twice as many shapes.
_MIRRORED_CHANCE = 0.5
_SMALLEST_PIXELS = 80
_UNSURE = (Known.NO, Known.PSEUDO)
#: How much around a kidney comes with it, and over how many pixels the seam is smoothed.
MARGIN_PIXELS, SEAM_PIXELS = 4, 5
#: Denser than any kidney: bone, or bowel with contrast.
_BONE_HU = 250
_LUNG_HU = -300


@dataclass(frozen=True, slots=True)
class Loan:
    """What is moved into a slice.

    Attributes:
        row: slice that it is taken from.
        label: value of the kidney where it goes.
        taken: value of the kidney that it was.
        mirrored: whether the slice is seen in a mirror, the columns' order turned.
        shift: rows and columns that it is moved by, after that.
        inside: bool (H, W), the kidney where it goes.
        around: bool (H, W), the kidney with its fat.
    """

    row: int
    label: int
    taken: int
    mirrored: bool
    shift: tuple[int, int]
    inside: Tensor
    around: Tensor


def find_loan(case: Case, row: int, rng: np.random.Generator) -> Loan | None:
    """A kidney that fits into a slice that shows none on that side, or None.

    Args:
        case: prepared case.
        row: the slice, of which it must be known that it shows none on that side.
        rng: where chance comes from.
    """
    labels = case.labels[row]
    missing = _missing(case, row)
    if not missing:
        return None
    label = int(rng.choice(missing))
    mirrored = bool(rng.random() < _MIRRORED_CHANCE)
    taken = sum(KIDNEYS) - label if mirrored else label
    near = _near(case, row, taken)
    if not near.size:
        return None
    source = int(rng.choice(near))
    inside = torch.from_numpy(case.labels[source] == taken)
    if int(inside.sum()) < _SMALLEST_PIXELS:
        return None
    middle = _turn(case.hu[source]) if mirrored else 0
    inside = inside.flip(1) if mirrored else inside
    hu = case.hu[row]
    occupied = (labels > 0) | (hu > _BONE_HU) | (hu < _LUNG_HU)
    for _ in range(_TRIES):
        shift = (int(rng.integers(*_ROWS)), int(rng.integers(*_COLUMNS)) + middle)
        moved = inside.roll(shift, (0, 1))
        around = widen(moved[None])[0] > 0
        if occupied[around.numpy()].mean() < _MOST_OCCUPIED:
            return Loan(source, label, taken, mirrored, shift, moved, around)
    return None


def _missing(case: Case, row: int) -> list[int]:
    """Kidneys of which it is known that a slice does not show them."""
    known = [value for value in KIDNEYS if case.known[row, value - 1] not in _UNSURE]
    return [value for value in known if not (case.labels[row] == value).any()]


def _near(case: Case, row: int, label: int) -> NDArray[np.int64]:
    """Slices that a kidney may be taken from."""
    away_mm = np.abs(np.arange(case.labels.shape[0]) - row) * case.info.slice_mm
    known = np.isin(case.known[:, label - 1], (Known.HAND, Known.TEACHER)) & case.usable
    return np.flatnonzero(known & (away_mm >= REACH_MM[0]) & (away_mm <= REACH_MM[1]))


def _turn(hu: NDArray[np.int16]) -> int:
    """Columns that a mirrored slice is moved by so that its body lies where it lay."""
    body = np.flatnonzero((hu > _LUNG_HU).any(axis=0))
    return int(body[0] + body[-1]) - (hu.shape[1] - 1) if body.size else 0


def widen(masks: Tensor) -> Tensor:
    """Masks (N, H, W) and a margin around them, as 0 and 1."""
    # One axis after the other: the same in a quarter of the time.
    width = 2 * MARGIN_PIXELS + 1
    wide = F.max_pool2d(masks.float(), (width, 1), 1, (MARGIN_PIXELS, 0))
    return F.max_pool2d(wide, (1, width), 1, (0, MARGIN_PIXELS))


def paste_slices(stack: Tensor, lent: Tensor, loan: Loan) -> Tensor:
    """Slices (3, H, W) with the kidney's surroundings from others, the seam smoothed."""
    soft = F.avg_pool2d(loan.around.float()[None, None], SEAM_PIXELS, 1, SEAM_PIXELS // 2)[0]
    lent = lent.flip(2) if loan.mirrored else lent
    return stack + soft * (lent.roll(loan.shift, (1, 2)) - stack)


def paste_labels(labels: NDArray[np.uint8], loan: Loan) -> NDArray[np.uint8]:
    """Labels (H, W) with the kidney; what lay under it is gone."""
    pasted = np.array(labels)
    pasted[loan.around.numpy()] = 0
    pasted[loan.inside.numpy()] = loan.label
    return pasted
