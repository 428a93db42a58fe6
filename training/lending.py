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
#: How far across the body: towards the front (negative) and back, to either side.
_ROWS, _COLUMNS = (-40, 15), (-20, 20)
_TRIES = 12
_SMALLEST_PIXELS = 80
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
        label: value of the kidney.
        shift: rows and columns that it is moved by.
        inside: bool (H, W), the kidney where it goes.
        around: bool (H, W), the kidney with its fat.
    """

    row: int
    label: int
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
    label = int(rng.choice(KIDNEYS))
    labels = case.labels[row]
    if case.known[row, label - 1] in (Known.NO, Known.PSEUDO) or (labels == label).any():
        return None
    away_mm = np.abs(np.arange(case.labels.shape[0]) - row) * case.info.slice_mm
    known = np.isin(case.known[:, label - 1], (Known.HAND, Known.TEACHER)) & case.usable
    near = np.flatnonzero(known & (away_mm >= REACH_MM[0]) & (away_mm <= REACH_MM[1]))
    if not near.size:
        return None
    source = int(rng.choice(near))
    inside = torch.from_numpy(case.labels[source] == label)
    if int(inside.sum()) < _SMALLEST_PIXELS:
        return None
    hu = case.hu[row]
    taken = (labels > 0) | (hu > _BONE_HU) | (hu < _LUNG_HU)
    for _ in range(_TRIES):
        aside = (int(rng.integers(*_ROWS)), int(rng.integers(*_COLUMNS)))
        moved = inside.roll(aside, (0, 1))
        around = widen(moved[None])[0] > 0
        if taken[around.numpy()].mean() < 0.03:
            return Loan(source, label, aside, moved, around)
    return None


def widen(masks: Tensor) -> Tensor:
    """Masks (N, H, W) and a margin around them, as 0 and 1."""
    # One axis after the other: the same in a quarter of the time.
    width = 2 * MARGIN_PIXELS + 1
    wide = F.max_pool2d(masks.float(), (width, 1), 1, (MARGIN_PIXELS, 0))
    return F.max_pool2d(wide, (1, width), 1, (0, MARGIN_PIXELS))


def paste_slices(stack: Tensor, lent: Tensor, loan: Loan) -> Tensor:
    """Slices (3, H, W) with the kidney's surroundings from others, the seam smoothed."""
    soft = F.avg_pool2d(loan.around.float()[None, None], SEAM_PIXELS, 1, SEAM_PIXELS // 2)[0]
    return stack + soft * (lent.roll(loan.shift, (1, 2)) - stack)


def paste_labels(labels: NDArray[np.uint8], loan: Loan) -> NDArray[np.uint8]:
    """Labels (H, W) with the kidney; what lay under it is gone."""
    pasted = np.array(labels)
    pasted[loan.around.numpy()] = 0
    pasted[loan.inside.numpy()] = loan.label
    return pasted
