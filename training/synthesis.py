"""CT painted from label maps that have none: ``python -m training.synthesis CACHE LABELMAPS``.

Every tissue gets an HU of its own, drawn anew for each copy (two contrast phases), with texture
and partial volume; what a map leaves empty inside the body becomes fat and muscle. The organs'
labels are complete from neck to pelvis, which no real source offers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from training.cases import ORGANS, PIXEL_MM, Case, CaseInfo, Known, save_case
from training.prepare import resample_in_plane, resample_labels, to_lps
from training.sources import forget_thin_cord

#: Maps with enough tissues to paint a body from.
MAPS = ("ts_s0327", "ts_s0328", "icrp110_AM", "icrp110_AF")
#: First word found in a tissue's name decides: HU without contrast, HU added by contrast, texture.
TISSUES: tuple[tuple[tuple[str, ...], tuple[float, float, float]], ...] = (
    (("lung",), (-840.0, 10.0, 40.0)),
    (("trachea", "bronchi", "air inside", "nasal"), (-990.0, 0.0, 5.0)),
    (("medullary",), (-40.0, 0.0, 20.0)),
    (("cortical", "teeth", "mandible", "skull"), (850.0, 0.0, 80.0)),
    (("spongiosa",), (220.0, 0.0, 60.0)),
    (("rib", "vertebra", "hip", "femur", "humerus", "scapula", "clavicula"), (330.0, 0.0, 110.0)),
    (("sternum", "sacrum"), (250.0, 0.0, 80.0)),
    (("cartilage",), (110.0, 0.0, 20.0)),
    (("adipose", "residual"), (-98.0, 0.0, 12.0)),
    (("aorta", "artery", "brachiocephalic_trunk", "atrial"), (42.0, 170.0, 6.0)),
    (("heart",), (42.0, 90.0, 14.0)),
    (("vein", "vena", "blood"), (42.0, 110.0, 8.0)),
    (("kidney",), (34.0, 130.0, 14.0)),
    (("spleen",), (48.0, 65.0, 7.0)),
    (("liver",), (56.0, 50.0, 8.0)),
    (("pancreas",), (40.0, 50.0, 14.0)),
    (("gallbladder", "bladder", "eye"), (8.0, 2.0, 4.0)),
    (("stomach", "bowel", "colon", "duodenum"), (35.0, 15.0, 35.0)),
    (("brain", "spinal_cord"), (35.0, 2.0, 6.0)),
    (("skin", "muscle", "autochthon", "psoas", "gluteus", "tongue"), (56.0, 8.0, 10.0)),
)
_SOFT = (42.0, 15.0, 10.0)
_CLOSING_MM = 45.0
_RIM_MM = 10.0
_BELOW_MM = 120.0


def tissue_hu(name: str) -> tuple[float, float, float]:
    """HU without contrast, HU that contrast adds, and texture, of a tissue by its name."""
    lower = name.lower()
    for words, values in TISSUES:
        if any(word in lower for word in words):
            return values
    return _SOFT


def smooth_noise(
    shape: tuple[int, ...], sigma: Sequence[float], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Gaussian noise of standard deviation 1 and the given grain in voxels."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma)
    return np.asarray(noise / max(float(noise.std()), 1e-6), dtype=np.float32)


def body_mask(labels: NDArray[np.uint8], pixel_mm: float) -> NDArray[np.bool_]:
    """What lies between labelled tissues, slice by slice, and a rim of fat around them."""
    reach, pad = _CLOSING_MM / pixel_mm, int(_CLOSING_MM / pixel_mm) + 2
    body = np.zeros(labels.shape, dtype=bool)
    for k, plane in enumerate(labels > 0):
        if not plane.any():
            continue
        wide = np.pad(plane, pad)
        grown = ndimage.distance_transform_edt(~wide) <= reach
        closed = ndimage.distance_transform_edt(grown) > reach - _RIM_MM / pixel_mm
        body[k] = ndimage.binary_fill_holes(closed)[pad:-pad, pad:-pad]
    return body


def paint(
    labels: NDArray[np.uint8],
    names: dict[int, str],
    spacing_mm: tuple[float, float, float],
    complete: bool,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """HU for a label map.

    Args:
        labels: (k, j, i).
        names: tissue of each value.
        spacing_mm: distances of slices, rows and columns.
        complete: every voxel of the body has a label (else the rest is filled in).
        rng: where chance comes from.
    """
    grain = [4.0 / step for step in spacing_mm]
    coarse = smooth_noise(labels.shape, [3 * step for step in grain], rng)
    fine = smooth_noise(labels.shape, [0.4 * step for step in grain], rng)
    hu = np.full(labels.shape, -1000.0, dtype=np.float32)
    if not complete:
        body = body_mask(labels, spacing_mm[1])
        muscle = (coarse > 0.6) & ndimage.binary_erosion(body, iterations=8)
        hu[body] = -100.0 + 8 * coarse[body]
        hu[muscle] = 50.0
        near_cord = ndimage.binary_dilation(labels == 5, np.ones((1, 3, 3), bool), iterations=3)
        hu[near_cord] = 15.0
    contrast = rng.uniform(0.5, 1.3) if rng.random() < 0.65 else 0.0
    shift = rng.normal(0, 6)
    for value, name in names.items():
        plain, added, texture = tissue_hu(name)
        inside = labels == value
        level = plain + contrast * added * rng.uniform(0.8, 1.2) + rng.normal(0, 6) + shift
        hu[inside] = level + texture * (0.6 * coarse[inside] + 0.6 * fine[inside])
        if name.startswith("lung"):
            vessels = inside & (fine > 2.2)
            hu[vessels] = rng.uniform(-300, 40)
    blur = [0.35 * PIXEL_MM / step for step in spacing_mm[1:]]
    hu = ndimage.gaussian_filter(hu, [0.3, *blur])
    return np.asarray(hu + 12 * rng.random() * smooth_noise(hu.shape, [0, 0.6, 0.6], rng))


def synthetic_case(folder: Path, copy: int) -> Case:
    """One painted copy of a label map."""
    info: dict[str, Any] = json.loads((folder / "info.json").read_text())
    labels, spacing = to_lps(folder / "labels.nii.gz")
    labels = np.ascontiguousarray(labels, dtype=np.uint8)
    names = {int(value): str(name) for name, value in info["labels"].items()}
    names |= {int(value): str(name) for name, value in info["extra_labels"].items()}
    names = {value: name for value, name in names.items() if (labels == value).any()}
    rng = np.random.default_rng((copy, len(names), *labels.shape))
    complete = info["id"].startswith("icrp")
    hu = paint(labels, names, spacing, complete, rng)
    known = np.zeros((labels.shape[0], len(ORGANS)), dtype=np.uint8)
    for channel, organ in enumerate(ORGANS):
        if info["labels"].get(organ) == channel + 1:
            known[:, channel] = Known.HAND
    others = np.where(labels > len(ORGANS), np.uint8(100), labels)
    if complete:
        # Vessels of the trunk hold the aorta, so they are no proof of anything.
        others[np.isin(labels, [109, 110, 111, 112])] = 0
    ours = resample_labels(others, spacing[1])
    forget_thin_cord(known, ours)
    return Case(
        CaseInfo(f"synthetic-{info['id']}-{copy}", spacing[0], PIXEL_MM),
        np.rint(resample_in_plane(hu, spacing[1], smooth=True)).astype(np.int16),
        ours,
        known,
        _useful(ours, spacing[0]),
    )


def _useful(labels: NDArray[np.uint8], slice_mm: float) -> NDArray[np.bool_]:
    """Slices of the body, but its legs."""
    organs = (labels > 0) & (labels <= len(ORGANS))
    lowest = int(np.flatnonzero(organs.any(axis=(1, 2)))[0])
    useful = np.asarray((labels > 0).any(axis=(1, 2)))
    useful[: max(0, lowest - round(_BELOW_MM / slice_mm))] = False
    return useful


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write painted cases into the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="folder to write to")
    parser.add_argument("labelmaps", type=Path, help="folder of the label maps")
    parser.add_argument("--copies", type=int, default=3, help="of each map")
    options = parser.parse_args(arguments)
    for name in MAPS:
        for copy in range(options.copies):
            case = synthetic_case(options.labelmaps / name, copy)
            save_case(options.cache, case)
            print(case.info.case_id, flush=True)


if __name__ == "__main__":
    main()
