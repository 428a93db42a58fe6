"""Renal pelves wide with urine, which are no kidney: rare in the data, common in hospitals.

Hands leave the renal pelvis out of a kidney. A network that has seen few wide ones takes what lies
in the hollow of a kidney for a part of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.lending import KIDNEYS

#: Pixels by which a kidney's outline is closed to find its hollow, and over which that is widened.
CLOSING_PIXELS, WIDTH_PIXELS = 8, 5
#: Lowest and highest share of hollow around a pixel that makes it pelvis: narrow and wide ones.
LEVEL = (0.1, 0.5)
#: HU of urine, and with iodine in it (excretory phase).
URINE_HU, EXCRETED_HU = (-5.0, 25.0), (150.0, 450.0)
EXCRETED_CHANCE = 0.25
#: Smaller sections are a kidney's ends, which have no hollow; of a kidney this share is left.
_SMALLEST_PIXELS, _LEAST_LEFT = 250, 0.5
#: Bone and bowel with contrast, and air.
_DENSE_HU, _DARK_HU = 250.0, -300.0


def find_pelves(image: Tensor, either: Tensor, level: Tensor) -> Tensor:
    """Where the pelvis of each crop's kidneys lies if it is that wide: bool (N, H, W).

    Args:
        image: (N, 3, H, W) in HU.
        either: (N, H, W), labels, an earlier model's where there are none.
        level: (N,), `LEVEL`.
    """
    found = torch.zeros_like(either, dtype=torch.bool)
    room = ((image < _DENSE_HU) & (image > _DARK_HU)).all(dim=1)
    for value in KIDNEYS:
        kidney = either == value
        hollow = _closed(kidney) & (either == 0)
        near = _mean(_mean(hollow.float())) > level[:, None, None]
        pelvis = near & room & ((either == 0) | kidney)
        area = kidney.sum(dim=(1, 2))
        left = (kidney & ~pelvis).sum(dim=(1, 2))
        fits = (area >= _SMALLEST_PIXELS) & (left >= _LEAST_LEFT * area)
        found |= pelvis & fits[:, None, None]
    return found


def fill_pelves(image: Tensor, pelves: Tensor, hu: Tensor) -> Tensor:
    """Slices (N, 3, H, W) with so many HU (N,) in the pelves, their rims smoothed."""
    soft = F.avg_pool2d(pelves.float()[:, None], 3, 1, 1)
    return image + soft * (hu[:, None, None, None] - image)


def _closed(masks: Tensor) -> Tensor:
    """Masks (N, H, W) without notches of up to twice `CLOSING_PIXELS`."""
    wide = _widest(masks.float())
    return _widest(1 - wide) == 0


def _widest(values: Tensor) -> Tensor:
    width = 2 * CLOSING_PIXELS + 1
    rows = F.max_pool2d(values[:, None], (width, 1), 1, (CLOSING_PIXELS, 0))
    return F.max_pool2d(rows, (1, width), 1, (0, CLOSING_PIXELS))[:, 0]


def _mean(values: Tensor) -> Tensor:
    return F.avg_pool2d(values[:, None], 2 * WIDTH_PIXELS + 1, 1, WIDTH_PIXELS)[:, 0]
