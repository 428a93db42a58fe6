"""Whole prepared cases through a network, with the shipping preprocessing.

Slices lie 3 mm apart from the first slice's centre; logits are interpolated to the scan's own
slices and labels decided there, as ``segmate predict`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from segmate_cli.network import network_from_checkpoint
from training.augment import scale_hu
from training.cases import AIR_HU, SLICE_MM, Case

#: Cleans labels (k, H, W), in place or not, of slices that lie so many millimetres apart.
Clean = Callable[[NDArray[np.uint8], float], NDArray[np.uint8]]
_STRIDE = 32


def load_network(path: Path) -> nn.Module:
    """A checkpoint's network, ready for inference."""
    network, _ = network_from_checkpoint(path)
    return network.eval().to(memory_format=torch.channels_last)


def model_slices(case: Case) -> Tensor:
    """A case's usable slices on the model's grid, scaled and padded: (slices, H, W)."""
    rows = np.flatnonzero(case.usable)
    volume = case.hu[rows[0] : rows[-1] + 1].astype(np.float32)
    length = (volume.shape[0] - 1) * case.info.slice_mm
    count = int(np.ceil(length / SLICE_MM - 1e-6)) + 1
    positions = np.minimum(np.arange(count) * SLICE_MM / case.info.slice_mm, volume.shape[0] - 1)
    low = np.minimum(positions.astype(int), max(volume.shape[0] - 2, 0))
    weight = (positions - low).astype(np.float32)[:, None, None]
    high = np.minimum(low + 1, volume.shape[0] - 1)
    slices = torch.from_numpy(volume[low] * (1 - weight) + volume[high] * weight)
    bottom, right = (-size % _STRIDE for size in slices.shape[1:])
    return scale_hu(F.pad(slices, (0, right, 0, bottom), value=AIR_HU))


@torch.inference_mode()  # type: ignore[untyped-decorator]
def slice_logits(
    network: nn.Module, slices: Tensor, batch: int = 4, bfloat16: bool = False
) -> Tensor:
    """Logits (organs, slices, H, W), float32, of slices on the model's grid."""
    padded = torch.cat([slices[:1], slices, slices[-1:]])
    triplets = padded.unfold(0, 3, 1).permute(0, 3, 1, 2)
    result = []
    for part in triplets.split(batch):
        inputs = part.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            result.append(network(inputs).logits.float())
    return torch.cat(result).transpose(0, 1)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def averaged_logits(network: nn.Module, slices: Tensor, zooms: tuple[float, ...]) -> Tensor:
    """Mean logits over magnified copies of the slices.

    Mirrored copies are no help: nobody's liver lies on the left, and the networks know it.
    """
    total: Tensor | None = None
    for zoom in zooms:
        size = [round(side * zoom / _STRIDE) * _STRIDE for side in slices.shape[1:]]
        view = F.interpolate(slices[None], size, mode="bilinear", align_corners=False)[0]
        logits = slice_logits(network, view)
        shape = tuple(slices.shape[1:])
        logits = F.interpolate(logits, shape, mode="bilinear", align_corners=False)
        total = logits if total is None else total.add_(logits)
    if total is None:
        raise ValueError("averaged_logits needs at least one magnification")
    return total / len(zooms)


def decide(logits: Tensor) -> NDArray[np.uint8]:
    """Labels (slices, H, W): the largest logit above 0."""
    best, channel = logits.max(dim=0)
    return np.asarray(torch.where(best > 0, channel + 1, 0).numpy(), dtype=np.uint8)


def at_case_slices(logits: Tensor, case: Case) -> Tensor:
    """Logits (organs, k, H, W) of the case's usable slices, from those on the model's grid."""
    rows = np.flatnonzero(case.usable)
    count = int(rows[-1] - rows[0]) + 1
    at = torch.arange(count) * (case.info.slice_mm / SLICE_MM)
    at = at.clamp_max(logits.shape[1] - 1)
    low = at.long().clamp_max(max(logits.shape[1] - 2, 0))
    part = (at - low)[:, None, None].to(logits.dtype)
    high = (low + 1).clamp_max(logits.shape[1] - 1)
    return torch.lerp(logits[:, low], logits[:, high], part)


def on_case_grid(labels: NDArray[np.uint8], case: Case) -> NDArray[np.uint8]:
    """Labels of the usable slices, padding included, on the case's grid; others stay 0."""
    result = np.zeros(case.hu.shape, dtype=np.uint8)
    rows = np.flatnonzero(case.usable)
    height, width = case.hu.shape[1:]
    result[rows[0] : rows[-1] + 1] = labels[:, :height, :width]
    return result


def to_case_grid(volume: NDArray[np.uint8], case: Case) -> NDArray[np.uint8]:
    """Labels on the model's grid to the case's own slices; unusable slices stay 0."""
    result = np.zeros(case.hu.shape, dtype=volume.dtype)
    rows = np.flatnonzero(case.usable)
    count = rows[-1] - rows[0] + 1
    positions = np.arange(count) * case.info.slice_mm / SLICE_MM
    nearest = np.minimum(np.floor(positions + 0.5).astype(int), volume.shape[0] - 1)
    height, width = case.hu.shape[1:]
    result[rows[0] : rows[-1] + 1] = volume[nearest, :height, :width]
    return result


def predict_case(
    network: nn.Module,
    case: Case,
    clean: Clean | None = None,
) -> NDArray[np.uint8]:
    """Labels of a case on its own slices, as the shipped tool would give them."""
    logits = slice_logits(network, model_slices(case))
    labels = decide(at_case_slices(logits, case))
    if clean is not None:
        labels = clean(labels, case.info.slice_mm)
    return on_case_grid(labels, case)
