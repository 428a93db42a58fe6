"""Put every case on the model's in-plane grid and cache it: ``python -m training.prepare``.

Reads ``ct.nii.gz``, ``labels.nii.gz``, ``teacher.nii.gz`` and ``info.json`` of every case below the
given folders; writes arrays that ``training.cases.load_case`` maps into memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from training.cases import ORGANS, PIXEL_MM, Case, CaseInfo, save_case
from training.sources import (
    DOUBTED_TEACHER,
    carve_sinuses,
    drop_gas,
    known_rows,
    part_lungs,
    separate_branches,
    usable_slices,
)

_ENDS_OF_ROWS = 4


def interpolation_matrix(size: int, spacing_mm: float, smooth: bool) -> NDArray[np.float32]:
    """Matrix (new size, size) that takes one axis to ``PIXEL_MM``, first voxel's centre kept.

    Args:
        size: voxels along the axis.
        spacing_mm: their distance.
        smooth: whether a Gaussian of (f - 1) / 2 voxels goes before, f = PIXEL_MM / spacing > 1.
    """
    count = int(np.ceil((size - 1) * spacing_mm / PIXEL_MM - 1e-6)) + 1
    positions = np.minimum(np.arange(count) * PIXEL_MM / spacing_mm, size - 1)
    low = np.minimum(positions.astype(int), max(size - 2, 0))
    weight = positions - low
    matrix = np.zeros((count, size))
    matrix[np.arange(count), low] += 1 - weight
    matrix[np.arange(count), np.minimum(low + 1, size - 1)] += weight
    factor = PIXEL_MM / spacing_mm
    if smooth and factor > 1:
        blur = ndimage.gaussian_filter1d(np.eye(size), (factor - 1) / 2, axis=0, mode="nearest")
        matrix = matrix @ blur
    return matrix.astype(np.float32)


def resample_in_plane(volume: NDArray[Any], spacing_mm: float, smooth: bool) -> NDArray[np.float32]:
    """Take a (k, j, i) volume to ``PIXEL_MM`` in both in-plane axes, linearly."""
    rows = interpolation_matrix(volume.shape[1], spacing_mm, smooth)
    columns = interpolation_matrix(volume.shape[2], spacing_mm, smooth)
    result = rows @ volume.astype(np.float32) @ columns.T
    return np.asarray(result, dtype=np.float32)


def resample_labels(labels: NDArray[np.uint8], spacing_mm: float) -> NDArray[np.uint8]:
    """Take labels to ``PIXEL_MM``: the label with the largest share of each voxel."""
    result: NDArray[np.uint8] | None = None
    best = resample_in_plane(labels == 0, spacing_mm, smooth=False)
    for value in np.unique(labels[labels > 0]):
        share = resample_in_plane(labels == value, spacing_mm, smooth=False)
        if result is None:
            result = np.zeros(share.shape, dtype=np.uint8)
        result[share > best] = value
        np.maximum(best, share, out=best)
    return np.zeros(best.shape, dtype=np.uint8) if result is None else result


def to_lps(path: Path) -> tuple[NDArray[Any], tuple[float, float, float]]:
    """Read a NIfTI file as (k, j, i) in LPS array order, scaled, with its (k, j, i) spacing."""
    image = nib.as_closest_canonical(nib.load(path))
    volume = np.asarray(image.dataobj)
    spacing = tuple(float(size) for size in image.header.get_zooms()[:3][::-1])
    # RAS+ to (k, j, i) of LPS array order: rows towards posterior. Columns already grow from the
    # patient's left to right in RAS+, and have to grow from right to left.
    lps = np.transpose(volume, (2, 1, 0))[:, ::-1, ::-1]
    return lps, (spacing[0], spacing[1], spacing[2])


def merged_labels(folder: Path, hand: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Complete the hands' labels by the teacher's, where no hand labelled and it is believed."""
    teacher_path = folder / "teacher.nii.gz"
    if not teacher_path.exists():
        return hand
    teacher = to_lps(teacher_path)[0].astype(np.uint8)
    for organ in DOUBTED_TEACHER.get(folder.name, ()):
        teacher[teacher == ORGANS.index(organ) + 1] = 0
    return np.where(hand > 0, hand, teacher)


def prepare_case(folder: Path) -> Case:
    """Read one case's files and put them on the model's in-plane grid."""
    info = json.loads((folder / "info.json").read_text())
    hu, spacing = to_lps(folder / "ct.nii.gz")
    hu = np.array(hu, dtype=np.float32)
    if info["id"].startswith("segthor"):
        # The ends of the rows before them, which are the last columns here: air.
        hu[:, :, -_ENDS_OF_ROWS:] = -1000.0
    path = folder / "labels.nii.gz"
    hand = to_lps(path)[0].astype(np.uint8) if path.exists() else np.zeros(hu.shape, np.uint8)
    merged = resample_labels(merged_labels(folder, hand), spacing[1])
    separate_branches(merged, info["id"])
    resampled = np.rint(resample_in_plane(hu, spacing[1], smooth=True)).astype(np.int16)
    part_lungs(merged, resampled, info["id"])
    drop_gas(merged, resampled, info["id"])
    known = known_rows(info, merged, spacing[0])
    carve_sinuses(merged, resampled, known)
    return Case(
        info=CaseInfo(info["id"], spacing[0], PIXEL_MM, info.get("quality") or ""),
        hu=resampled,
        labels=merged,
        known=known,
        usable=usable_slices(info, hu.shape[0]),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare every case below the given folders that the cache does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="folder to write to, outside the repository")
    parser.add_argument("sources", type=Path, nargs="+", help="folders that hold case folders")
    parser.add_argument("--force", action="store_true", help="prepare cached cases again")
    options = parser.parse_args(arguments)
    folders = sorted(path.parent for root in options.sources for path in root.glob("*/info.json"))
    for folder in folders:
        if options.force or not (options.cache / folder.name / "case.json").exists():
            save_case(options.cache, prepare_case(folder))
            print(folder.name, flush=True)


if __name__ == "__main__":
    main()
