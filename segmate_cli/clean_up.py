"""Repairs of masks after the network, organ by organ, as the model's manifest asks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from segmate_cli.bundle import CleanUp, Manifest
from segmate_cli.components import Components
from segmate_cli.planes import Planes, Uint8Array

Mask = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


def clean_up(
    labels: Planes, manifest: Manifest, voxel_ml: float, parts: Components | None = None
) -> FloatArray:
    """Clean the labels, planes of (j, i), in place.

    Args:
        labels: Of all organs.
        manifest: Says what is done.
        voxel_ml: Volume of a voxel.
        parts: From ``parts_of``, advanced as the labels came.

    Returns:
        Voxels over what they were, by label value; 1 where nothing was changed.

    Done on the model's grid: the way back copies voxels, so components stay what they are, and
    there are far fewer voxels to visit than on the scan's grid.
    """
    waiting: dict[int, CleanUp] = {}
    kept = np.ones(len(manifest.organs) + 1)
    for value, entry in enumerate(manifest.organs, 1):
        rule = manifest.clean_up.get(entry.key, CleanUp())
        waiting[value] = rule
        # Only what is filled depends on what the organs before it have left.
        if rule.fill_holes:
            drop_parts(labels, waiting, voxel_ml, kept)
            parts = None  # no longer those of the labels as they are
            kept[value] *= fill_holes(labels, value)
            waiting = {}
    drop_parts(labels, waiting, voxel_ml, kept, parts)
    return kept


def parts_of(labels: Planes) -> Components:
    """26-connected parts of all organs, to be found as the labels come.

    Of all organs: to take the others out voxel by voxel would take longer than to find them.
    """
    return Components(lambda k: labels[k], range(labels.shape[0]), 26)


def drop_parts(
    labels: Planes,
    rules: dict[int, CleanUp],
    voxel_ml: float,
    kept: FloatArray | None = None,
    parts: Components | None = None,
) -> None:
    """Take away 26-connected parts of organs that are not the largest, or are too small.

    ``kept``, by label value, is multiplied by the share of voxels that stay; ``parts`` as for
    ``clean_up``.
    """
    ruled = {
        value: rule
        for value, rule in rules.items()
        if rule.largest_component or rule.min_component_ml > 0
    }
    if not ruled:
        return
    parts = (parts or parts_of(labels)).finish()
    drop = np.zeros(parts.sizes.size, np.bool_)
    for value, rule in ruled.items():
        own = np.flatnonzero((parts.values == value) & (parts.sizes > 0))
        drop[own] = parts.sizes[own] < rule.min_component_ml / voxel_ml
        if rule.largest_component and own.size:
            drop[np.delete(own, parts.sizes[own].argmax())] = True
        if kept is not None and own.size:
            kept[value] *= parts.sizes[own[~drop[own]]].sum() / parts.sizes[own].sum()
    _set(labels, parts, drop, 0)


def fill_holes(labels: Planes, value: int) -> float:
    """Give an organ the background that it shuts in on all sides (6-connected).

    Returns:
        Its voxels over what they were.
    """
    slices, rows, columns = labels.shape

    def around(k: int) -> Uint8Array:
        out = np.ones((rows + 2, columns + 2), np.uint8)
        if 0 <= k < slices:
            out[1:-1, 1:-1] = labels[k] != value
        return out

    # A margin on all sides joins all that is outside; it begins first, so it is component 1.
    parts = Components(around, range(-1, slices + 1), 6).finish()
    shut_in = parts.sizes > 0
    shut_in[1] = False
    if not shut_in.any():
        return 1.0
    before = sum(int(np.count_nonzero(labels[k] == value)) for k in range(slices))
    _set(labels, parts, shut_in, value, margin=1)
    return (before + int(parts.sizes[shut_in].sum())) / before if before else 1.0


def _set(labels: Planes, parts: Components, chosen: Mask, value: int, margin: int = 0) -> None:
    """Write a value to voxels of the chosen components; to fill, only where there is background."""
    if not chosen.any():
        return
    rows, columns = (slice(margin, margin + n) for n in labels.shape[1:])
    for k, found in parts.chosen(chosen):
        hit = found[rows, columns]
        if hit.any() and 0 <= k < labels.shape[0]:
            plane = labels[k]
            plane[hit & (plane == 0) if value else hit] = value
            labels[k] = plane
