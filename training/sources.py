"""What each source's labels can be trusted for, slice by slice.

The rules follow the sources' notes and what their label maps show. SegTHOR's aorta ends with a
flat cut below the diaphragm and its esophagus near the lung apex although both go on: other sources
label what lies beyond, so nothing is known there. Its trachea ends near the lung apex, too, and no
source labels the neck's: that end is learned, as the definition of the organ.
Radiotherapy contours are known between their ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]
from skimage.segmentation import watershed

from training.cases import AMBIGUOUS_AORTA, ORGANS, PIXEL_MM, Known
from training.masks import largest_part

_INDEX = {organ: channel for channel, organ in enumerate(ORGANS)}
ABDOMINAL = ("liver", "kidney_left", "kidney_right", "spleen")
THORACIC = ("lung_left", "lung_right", "trachea", "esophagus", "heart")
#: Contours of these end where the contouring ended, not where the organ does.
CONTOURED_BETWEEN_ENDS = {
    "kbp": ("spinal_cord", "esophagus"),
    "hnc": ("spinal_cord", "trachea"),
}
#: BTCV scans that go on above the labelled aorta, into the chest or neck.
_WITH_CHEST = ("btcv26", "btcv40")
_ABDOMENS = ("btcv", "lits", "chaos", "ircad01", "ircad17", "amos", "ts_")
_TEACHER_MARGIN_MM = 15.0
_NECK_UNKNOWN_MM = 60.0
#: Chests whose lungs were told apart by a plane: what lies nearer to it goes by the tissue instead.
_PARTED_BY_PLANE = "imlab"
_PLANE_REACH_MM = 30.0
#: Lungs by a threshold took gas of stomach and bowel along: parts of a slice, below the middle of
#: the lungs, that are so much darker inside than lungs (100 to 340 ml in 3 of 30 chests, 3 ml of
#: a bronchus in one, nothing in the others).
_BY_THRESHOLD = "segthor"
_GAS_BELOW_LUNG_HU = 100
_GAS_CORE_PIXELS = 10
#: The teacher's organs that a network trained on them contradicts (Dice under 0.9 with lite2-s) and
#: that turned out, looked at, to be halves of kidneys or parts of other organs: unlabelled.
DOUBTED_TEACHER = {
    "segthor10": ("kidney_left",),
    "segthor11": ("kidney_left",),
    "segthor20": ("kidney_right",),
    "segthor24": ("kidney_right",),
    "segthor30": ("spleen",),
    "segthor32": ("kidney_right",),
    "segthor33": ("kidney_left",),
    "segthor35": ("spleen",),
}
#: Contours of a cord with less of it in their median slice follow the cord itself; the others, and
#: TotalSegmentator's, its sac (104 to 238 mm2 in 22 patients, 52 to 97 in 5).
_THIN_CORD_MM2 = 100.0
#: Branches are thinner than twice this.
_BRANCH_MM = 4.5


def extent(labels: NDArray[np.uint8], value: int) -> tuple[int, int] | None:
    """First and last slice that hold a label, or None."""
    rows = np.flatnonzero((labels == value).any(axis=(1, 2)))
    return (int(rows[0]), int(rows[-1])) if rows.size else None


def usable_slices(info: dict[str, Any], slices: int) -> NDArray[np.bool_]:
    """Slices that may be shown to a network: all, or the highest ``full_body_slices``."""
    usable = np.ones(slices, dtype=bool)
    if "full_body_slices" in info:
        usable[: slices - int(info["full_body_slices"])] = False
    return usable


def known_rows(
    info: dict[str, Any],
    labels: NDArray[np.uint8],
    slice_mm: float,
    pixel_mm: float = PIXEL_MM,
) -> NDArray[np.uint8]:
    """Tell, for every slice and organ of a case, where its labels come from, if from anywhere.

    Args:
        info: the case's ``info.json``.
        labels: uint8 (k, j, i), the hands' labels completed by the teacher's.
        slice_mm: distance of the slices.
        pixel_mm: of the labels.

    Returns:
        uint8 (k, organ) of ``Known``.
    """
    known = np.zeros((labels.shape[0], len(ORGANS)), dtype=np.uint8)
    _mark_teacher(known, info, labels, slice_mm)
    hand = Known.TEACHER if info["id"].startswith("ts_") else Known.HAND
    for organ in info["labels"]:
        if organ in _INDEX and not (info.get("quality") == "C" and organ not in THORACIC[:3]):
            known[:, _INDEX[organ]] = hand
    _forget_open_ends(known, info["id"], labels, slice_mm)
    _mark_absent(known, info["id"], labels, slice_mm)
    known[~usable_slices(info, labels.shape[0])] = Known.NO
    forget_thin_cord(known, labels, pixel_mm)
    return known


def _mark_teacher(
    known: NDArray[np.uint8], info: dict[str, Any], labels: NDArray[np.uint8], slice_mm: float
) -> None:
    if info.get("quality") == "C":
        return
    margin = round(_TEACHER_MARGIN_MM / slice_mm)
    for organ in info.get("teacher_labels", {}):
        rows = extent(labels, _INDEX[organ] + 1) if organ in _INDEX else None
        if rows:
            known[max(0, rows[0] - margin) : rows[1] + margin + 1, _INDEX[organ]] = Known.TEACHER


def _forget_open_ends(
    known: NDArray[np.uint8], case_id: str, labels: NDArray[np.uint8], slice_mm: float
) -> None:
    """Mark as unknown what lies beyond the ends of a structure that the source cut short."""
    ends = {organ: extent(labels, channel + 1) for organ, channel in _INDEX.items()}
    neck = round(_NECK_UNKNOWN_MM / slice_mm)
    if case_id.startswith("segthor"):
        if ends["aorta"]:
            known[: ends["aorta"][0], _INDEX["aorta"]] = Known.NO
        if ends["esophagus"]:
            top = ends["esophagus"][1] + 1
            known[top : top + neck, _INDEX["esophagus"]] = Known.NO
    if case_id in _WITH_CHEST and ends["aorta"]:
        known[ends["aorta"][1] + 1 :, _INDEX["aorta"]] = Known.NO
    for organ in CONTOURED_BETWEEN_ENDS.get(case_id[:3], ()):
        rows = ends[organ]
        column = known[:, _INDEX[organ]]
        if rows:
            column[: rows[0]] = Known.NO
            column[rows[1] + 1 : rows[1] + 1 + neck] = Known.NO
        else:
            column[:] = Known.NO


def forget_thin_cord(
    known: NDArray[np.uint8], labels: NDArray[np.uint8], pixel_mm: float = PIXEL_MM
) -> None:
    """Mark the cord as unknown, in place, where its contours leave out the sac around it.

    Args:
        known: uint8 (k, organ) of ``Known``.
        labels: uint8 (k, j, i).
        pixel_mm: theirs.
    """
    channel = _INDEX["spinal_cord"]
    pixels = (labels == channel + 1).sum((1, 2))
    pixels = pixels[(pixels > 0) & (known[:, channel] == Known.HAND)]
    if pixels.size and float(np.median(pixels)) * pixel_mm**2 < _THIN_CORD_MM2:
        known[:, channel] = Known.NO


def _mark_absent(
    known: NDArray[np.uint8], case_id: str, labels: NDArray[np.uint8], slice_mm: float
) -> None:
    """Mark organs that anatomy rules out: no liver in a neck, no lung below the kidneys."""

    def absent(organs: tuple[str, ...], rows: slice) -> None:
        for organ in organs:
            column = known[rows, _INDEX[organ]]
            column[column == Known.NO] = Known.ABSENT

    slices = labels.shape[0]
    if case_id.startswith(("kbp", "hnc")):
        absent(ABDOMINAL, slice(0, slices))
    carina = extent(labels, _INDEX["trachea"] + 1)
    if carina and case_id.startswith(("segthor", "cip")):
        absent(ABDOMINAL, slice(carina[0] + round(20.0 / slice_mm), slices))
    if case_id.startswith(_ABDOMENS) and case_id not in _WITH_CHEST:
        absent(("trachea",), slice(0, slices))
    kidneys = [extent(labels, _INDEX[organ] + 1) for organ in ("kidney_left", "kidney_right")]
    if case_id.startswith("btcv") and all(kidneys):
        absent(THORACIC, slice(0, min(rows[0] for rows in kidneys if rows)))


def carve_sinuses(
    labels: NDArray[np.uint8], hu: NDArray[np.integer], known: NDArray[np.uint8]
) -> None:
    """Take the fat inside the teacher's kidneys out of them, in place.

    Hands leave the renal sinus out, the teacher fills it: the share of a kidney's closed outline
    that is labelled is 0.936 for 32 kidneys by hand, 0.958 for 68 of the teacher's, and 0.935 for
    these when what is below 0 HU (a mean of 3 x 3 pixels) inside their rim is taken out.
    """
    square = np.ones((3, 3), dtype=bool)
    for organ in ("kidney_left", "kidney_right"):
        channel = _INDEX[organ]
        taught = known[:, channel] == Known.TEACHER
        rows = np.flatnonzero((labels == channel + 1).any(axis=(1, 2)) & taught)
        for row in rows:
            kidney = labels[row] == channel + 1
            mean_hu = ndimage.uniform_filter(hu[row].astype(np.float32), 3)
            fat = ndimage.binary_erosion(kidney, square) & (mean_hu < 0)
            labels[row] = np.where(fat, 0, labels[row])


def part_lungs(labels: NDArray[np.uint8], hu: NDArray[np.integer], case_id: str) -> None:
    """Give each lung what grows out of it, in place, where its source cut both along a plane.

    A watershed of HU from what lies away from that plane: the two pleurae between the lungs are
    denser than either. Lungs that meet nowhere are parted alike.
    """
    if not case_id.startswith(_PARTED_BY_PLANE):
        return
    left, right = _INDEX["lung_left"] + 1, _INDEX["lung_right"] + 1
    lungs = (labels == left) | (labels == right)
    columns = np.arange(labels.shape[2])
    plane = (
        columns[(labels == left).any((0, 1))][0] + columns[(labels == right).any((0, 1))][-1]
    ) / 2
    away = np.abs(columns - plane) * PIXEL_MM > _PLANE_REACH_MM
    seeds = np.where(lungs & away, labels, 0)
    parted = watershed(hu, seeds, mask=lungs)
    labels[lungs] = np.where(parted > 0, parted, labels)[lungs]


def drop_gas(
    labels: NDArray[np.uint8], hu: NDArray[np.integer], case_id: str, pixel_mm: float = PIXEL_MM
) -> None:
    """Take gas of stomach and bowel out of lungs that a threshold found, in place.

    Gas is a part of its own in a slice and, two pixels inside its rim, much darker than lung.
    What is then left below the lungs is the rest of that bowel.

    Args:
        labels: uint8 (k, j, i).
        hu: (k, j, i).
        case_id: tells the source.
        pixel_mm: of both.
    """
    sides = _INDEX["lung_left"] + 1, _INDEX["lung_right"] + 1
    lungs = np.isin(labels, sides)
    if not case_id.startswith(_BY_THRESHOLD) or not lungs.any():
        return
    darkest = np.median(hu[lungs]) - _GAS_BELOW_LUNG_HU
    sizes = lungs.sum(axis=(1, 2))
    rim = max(1, round(2 * PIXEL_MM / pixel_mm))
    found = False
    for row in range(int(np.average(np.arange(sizes.size), weights=sizes))):
        gas = _dark_parts(lungs[row], hu[row], darkest, rim)
        labels[row][gas] = 0
        found = found or bool(gas.any())
    if found:
        lowest = min(_lowest_of_largest(labels == side) for side in sides)
        labels[:lowest][np.isin(labels[:lowest], sides)] = 0


def _lowest_of_largest(mask: NDArray[np.bool_]) -> int:
    """Lowest slice of a mask's largest connected part; the number of slices if it is empty."""
    rows = np.flatnonzero(largest_part(mask).any(axis=(1, 2)))
    return int(rows[0]) if rows.size else mask.shape[0]


def _dark_parts(
    lungs: NDArray[np.bool_], hu: NDArray[np.integer], darkest: float, rim: int
) -> NDArray[np.bool_]:
    """Parts of a slice's lungs whose inside is darker than that on average."""
    parts, count = ndimage.label(lungs)
    cores = np.where(ndimage.binary_erosion(lungs, iterations=rim), parts, 0)
    pixels = np.bincount(cores.ravel(), minlength=count + 1)
    sums = np.bincount(cores.ravel(), weights=hu.ravel(), minlength=count + 1)
    dark = (pixels >= _GAS_CORE_PIXELS) & (sums < darkest * pixels)
    dark[0] = False
    return np.asarray(dark[parts])


def separate_branches(labels: NDArray[np.uint8], case_id: str, pixel_mm: float = PIXEL_MM) -> None:
    """Relabel, in place, the branches that 3D-IRCADb's ``aorta`` includes as ambiguous."""
    if not case_id.startswith("ircad"):
        return
    aorta = labels == _INDEX["aorta"] + 1
    reach = round(_BRANCH_MM / pixel_mm)
    disc = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])[None] <= reach + 0.3
    trunk = largest_part(ndimage.binary_opening(aorta, disc))
    trunk = ndimage.binary_dilation(trunk, np.ones((1, 3, 3), dtype=bool)) & aorta
    labels[aorta & ~trunk] = AMBIGUOUS_AORTA
