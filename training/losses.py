"""Losses for partly labelled slices: nothing is asked where nothing is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.cases import AMBIGUOUS_AORTA, ORGANS, Known
from training.sampling import Batch

_AORTA = ORGANS.index("aorta")


def targets_and_weights(
    batch: Batch,
    teacher_weight: float,
    pseudo_weight: float,
    teacher_factors: Mapping[str, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """What each output should be and how much that counts, both (N, organs, H, W) float32.

    A voxel that a label gives to one structure is no other organ, whether that organ is labelled
    in the case or not. Elsewhere an organ counts only where it is known; the teacher's word
    on an organ counts by that organ's factor less, if it has one.
    """
    labels = batch.labels[:, None]
    device = labels.device
    values = torch.arange(1, len(ORGANS) + 1, dtype=labels.dtype, device=device)
    values = values[None, :, None, None]
    table = torch.tensor([0.0, 1.0, teacher_weight, 1.0, pseudo_weight], device=device)
    weights = table[batch.known.long()]
    for organ, factor in (teacher_factors or {}).items():
        column = ORGANS.index(organ)
        taught = batch.known[:, column] == Known.TEACHER
        weights[:, column] = torch.where(taught, factor * teacher_weight, weights[:, column])
    weights = weights[:, :, None, None].expand(-1, -1, *labels.shape[2:])
    from_pseudo = (batch.known == Known.PSEUDO)[:, :, None, None]
    unsure = ((batch.unsure[:, None] >> (values - 1)) & 1).bool()
    weights = weights * ~(from_pseudo & unsure)
    target = (labels == values) | (from_pseudo & (batch.pseudo[:, None] == values) & (labels == 0))
    taken = (labels > 0) & (labels != values)
    weights = torch.where(taken, weights.clamp_min(0.5), weights)
    ambiguous = labels[:, 0] == AMBIGUOUS_AORTA
    weights[:, _AORTA] = torch.where(ambiguous, 0.0, weights[:, _AORTA])
    return target.float(), weights


def segmentation_loss(logits: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted cross entropy, and one minus soft Dice over the batch for the organs in it."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    entropy = (entropy * weights).sum() / weights.sum().clamp_min(1.0)
    probability = logits.sigmoid() * weights
    wanted = target * weights
    axes = (0, 2, 3)
    overlap = (probability * target).sum(axes)
    total = probability.sum(axes) + wanted.sum(axes)
    there = wanted.sum(axes) > 20
    dice = (2 * overlap + 10.0) / (total + 10.0)
    missing = ((1 - dice) * there).sum() / there.sum().clamp_min(1)
    return entropy, missing


def deep_loss(deep: Sequence[Tensor], target: Tensor, weights: Tensor) -> Tensor:
    """Mean weighted cross entropy of coarser logits, against the share of each organ in a pixel."""
    total = target.new_zeros(())
    for logits in deep:
        size = tuple(logits.shape[-2:])
        weight = F.adaptive_avg_pool2d(weights, size)
        share = F.adaptive_avg_pool2d(target * weights, size) / weight.clamp_min(1e-6)
        entropy = F.binary_cross_entropy_with_logits(
            logits.float(), share.clamp(0, 1), reduction="none"
        )
        total = total + (entropy * weight).sum() / weight.sum().clamp_min(1.0)
    return total / max(1, len(deep))


def boundary_loss(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross entropy of the boundary head: pixels beside the other side of an outline."""
    outside = F.max_pool2d(target, 3, 1, 1) - target
    inside = F.max_pool2d(1 - target, 3, 1, 1) - (1 - target)
    edges = (outside + inside).clamp(0, 1)
    entropy = F.binary_cross_entropy_with_logits(logits, edges, reduction="none")
    return (entropy * weights).sum() / weights.sum().clamp_min(1.0)


def presence_loss(presence_logits: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """Whether each organ is in the crop, where that is known."""
    known = batch.known > 0
    there = (target.sum((2, 3)) > 10).float()
    loss = F.binary_cross_entropy_with_logits(presence_logits.float(), there, reduction="none")
    return (loss * known).sum() / known.sum().clamp_min(1)
