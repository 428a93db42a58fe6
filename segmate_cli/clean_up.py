"""Repairs of masks after the network, organ by organ, as the model's manifest asks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from segmate_cli.bundle import CleanUp, Manifest

Mask = npt.NDArray[np.bool_]
Uint8Array = npt.NDArray[np.uint8]


def clean_up(labels: Uint8Array, manifest: Manifest, voxel_ml: float) -> None:
    """Clean the labels (k, j, i) in place.

    Done on the model's grid: the way back copies voxels, so components stay what they are, and
    there are far fewer voxels to visit than on the scan's grid.
    """
    for value, entry in enumerate(manifest.organs, 1):
        rule = manifest.clean_up.get(entry.key)
        if rule is None or rule == CleanUp():
            continue
        box = bounding_box(labels == value)
        if box is not None:
            _clean_one(labels[box], value, rule, voxel_ml)


def _clean_one(labels: Uint8Array, value: int, rule: CleanUp, voxel_ml: float) -> None:
    mask = labels == value
    kept = mask
    if rule.largest_component or rule.min_component_ml > 0:
        least = rule.min_component_ml / voxel_ml
        kept = keep_components(mask, largest=rule.largest_component, least_voxels=least)
    labels[mask & ~kept] = 0
    if rule.fill_holes:
        labels[holes(kept) & (labels == 0)] = value


def keep_components(mask: Mask, *, largest: bool, least_voxels: float) -> Mask:
    """The largest 26-connected component, or all that are large enough."""
    import cc3d

    parts = cc3d.connected_components(mask.astype(np.uint8), connectivity=26)
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    keep = sizes >= max(1.0, least_voxels)
    if largest:
        keep &= np.arange(sizes.size) == sizes.argmax()
    return np.asarray(keep[parts])


def holes(mask: Mask) -> Mask:
    """Background that is shut in on all sides (6-connected) by the mask."""
    import cc3d

    outside = np.pad(~mask, 1, constant_values=True)
    parts = cc3d.connected_components(outside.astype(np.uint8), connectivity=6)
    shut_in = outside & (parts != parts[0, 0, 0])
    return np.asarray(shut_in[1:-1, 1:-1, 1:-1])


def bounding_box(mask: Mask, margin: int = 0) -> tuple[slice, slice, slice] | None:
    """The box around a mask (k, j, i), wider by a margin where the array allows; None if empty."""
    sides = []
    for axis in range(3):
        others = tuple(n for n in range(3) if n != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        if hit.size == 0:
            return None
        sides.append(slice(max(0, int(hit[0]) - margin), int(hit[-1]) + 1 + margin))
    return sides[0], sides[1], sides[2]
