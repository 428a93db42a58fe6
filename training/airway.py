"""The trachea of scans in which nobody labelled it, by its air: ``python -m training.airway``.

Nearly all tracheas with labels are SegTHOR's, whose images look like no others: a network may
learn the look instead of the organ. Between the lungs' apices and its fork the trachea is a lone
tube of air in the middle of the body, that needs no network. Slices in which the tube is followed
become predicted labels of a round of ``training.pseudo``; all others stay as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from training.cases import ORGANS, PIXEL_MM, Case, Known, load_cases, save_round

#: Where the loosest limit joins the tube with the lung beside it, the next one may part them.
_AIR_HU = (-500, -650, -800, -900)
_SMALLEST_MM2, _LARGEST_MM2 = 60.0, 700.0
_SIDEWAYS_MM, _JUMP_MM, _GROWTH = 40.0, 9.0, 1.7
_LEAST_MM = 25.0
_ABOVE_APEX_MM = 10.0
_TRACHEA = ORGANS.index("trachea")
_LUNGS = (ORGANS.index("lung_left"), ORGANS.index("lung_right"))


@dataclass(frozen=True, slots=True)
class Tube:
    """A round piece of air in one slice: its pixels, area, and centre (row, column)."""

    mask: NDArray[np.bool_]
    area_mm2: float
    centre: tuple[float, float]


def tubes(hu: NDArray[np.int16], middle: float, limit_hu: int = _AIR_HU[0]) -> list[Tube]:
    """Pieces of air of a trachea's size near the middle column of a slice, below a limit."""
    parts, _ = ndimage.label(hu < limit_hu)
    found = []
    for value, box in enumerate(ndimage.find_objects(parts), start=1):
        mask = parts[box] == value
        area_mm2 = float(mask.sum()) * PIXEL_MM**2
        sides = [(side.stop - side.start) * PIXEL_MM for side in box]
        round_enough = area_mm2 > 0.5 * sides[0] * sides[1] and max(sides) < 2.2 * min(sides)
        if not (_SMALLEST_MM2 <= area_mm2 <= _LARGEST_MM2 and round_enough):
            continue
        centre = tuple(float(c) for c in ndimage.center_of_mass(parts == value))
        if abs(centre[1] - middle) * PIXEL_MM <= _SIDEWAYS_MM:
            found.append(Tube(parts == value, area_mm2, (centre[0], centre[1])))
    return found


def follow(case: Case, top: int, middle: float) -> dict[int, NDArray[np.bool_]]:
    """The tube from a slice downwards, as far as it stays one of about the same width."""
    followed: dict[int, NDArray[np.bool_]] = {}
    before: Tube | None = None
    for row in range(top, -1, -1):
        before = _next_tube(case.hu[row], middle, before)
        if before is None:
            break
        followed[row] = before.mask
    return followed


def _next_tube(hu: NDArray[np.int16], middle: float, before: Tube | None) -> Tube | None:
    """The one tube of a slice that goes on from the one above, by the loosest limit that shows it.

    What a stricter limit takes from its rim is given back, by a pixel.
    """
    for limit_hu in _AIR_HU:
        found = [t for t in tubes(hu, middle, limit_hu) if before is None or _goes_on(t, before)]
        if len(found) > 1:
            return None
        if found and limit_hu == _AIR_HU[0]:
            return found[0]
        if found:
            mask = ndimage.binary_dilation(found[0].mask) & (hu < _AIR_HU[0])
            return Tube(mask, float(mask.sum()) * PIXEL_MM**2, found[0].centre)
    return None


def _goes_on(tube: Tube, above: Tube) -> bool:
    apart_mm = float(np.hypot(*np.subtract(tube.centre, above.centre))) * PIXEL_MM
    least, most = above.area_mm2 / _GROWTH, above.area_mm2 * _GROWTH
    return apart_mm <= _JUMP_MM and least <= tube.area_mm2 <= most


def label_airway(case: Case) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """Predicted labels and the completed table of a case, or None where no tube is sure.

    The wall is part of what hands label: the air grows by one pixel into what is no lung. Slices of
    which something is known stay as they are.
    """
    if case.pseudo is None or (case.known[:, _TRACHEA] == Known.HAND).any():
        return None
    labels = np.where(case.labels > 0, case.labels, case.pseudo)
    lungs = np.isin(labels, [channel + 1 for channel in _LUNGS])
    rows = np.flatnonzero(lungs.any(axis=(1, 2)))
    if not rows.size:
        return None
    apex = int(rows[-1]) + round(_ABOVE_APEX_MM / case.info.slice_mm)
    middle = float(np.nonzero(lungs)[2].mean())
    followed = follow(case, min(apex, case.hu.shape[0] - 1), middle)
    if len(followed) * case.info.slice_mm < _LEAST_MM:
        return None
    pseudo, known = np.array(case.pseudo), np.array(case.known)
    new = [row for row in followed if known[row, _TRACHEA] == Known.NO]
    for row in new:
        wide = ndimage.binary_dilation(followed[row]) & ~lungs[row]
        pseudo[row][wide] = _TRACHEA + 1
        known[row, _TRACHEA] = Known.PSEUDO
    return (pseudo, known) if new else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and complete a round's labels in place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="folder of prepared cases")
    parser.add_argument("round", help="round of labels to complete")
    options = parser.parse_args(arguments)
    for case in load_cases(options.cache, options.round):
        completed = label_airway(case)
        if completed is None:
            continue
        save_round(options.cache / case.info.case_id, options.round, *completed)
        slices = int((completed[1][:, _TRACHEA] == Known.PSEUDO).sum())
        print(f"{case.info.case_id}: trachea in {slices} slices", flush=True)


if __name__ == "__main__":
    main()
