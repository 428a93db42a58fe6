"""Volumes and HU of labelled organs, measured on the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segmate_cli import organs as organ_table
from segmate_cli.errors import GeometryError
from segmate_cli.organs import Organ
from segmate_cli.volume import Labels, Volume


@dataclass(frozen=True, slots=True)
class OrganStats:
    """What is known about one organ of one label map.

    Attributes:
        organ: Which.
        voxels: How many voxels carry its label.
        volume_ml: Voxels times the grid's true voxel volume; None where there is no voxel, since
            "not found" is not "has no volume".
        mean_hu: Mean of the CT over the voxels; None without a CT or voxels.
        sd_hu: Standard deviation of the CT over the voxels.
        touches_edge: Whether a voxel lies on a face of the grid: the organ may be cut there and
            its volume a lower bound.
    """

    organ: Organ
    voxels: int
    volume_ml: float | None
    mean_hu: float | None
    sd_hu: float | None
    touches_edge: bool


def measure(
    labels: Labels, ct: Volume | None = None, organs: Sequence[str] | None = None
) -> tuple[OrganStats, ...]:
    """Measure the organs of a label map.

    Args:
        labels: From ``predict`` or ``load_labels``.
        ct: The scan, for HU; it must lie on the labels' grid.
        organs: Names or aliases; by default all that the label map names, by value.

    Raises:
        GeometryError: The CT lies on another grid.
        UnknownOrganError: An organ that the label map does not name.
    """
    if ct is not None:
        _check_grid(labels, ct)
    known = [organ for _, organ in sorted(labels.organs.items())]
    wanted = known if organs is None else organ_table.select(organs, known)
    sums = _add_up(labels, ct)
    edge = _values_on_faces(labels)
    rows = []
    for organ in {each.key: each for each in wanted}.values():
        # Two values may mean one organ, as in a foreign table with "liver" and "Liver".
        values = [value for value, each in labels.organs.items() if each.key == organ.key]
        count, hu, squared = (float(part) for part in sums[:, _within(values, sums)].sum(axis=1))
        n = int(count)
        mean = hu / n if n and ct is not None else None
        spread = None if mean is None else float(np.sqrt(max(0.0, squared / n - mean * mean)))
        volume_ml = n * labels.geometry.voxel_ml if n else None
        rows.append(OrganStats(organ, n, volume_ml, mean, spread, not edge.isdisjoint(values)))
    return tuple(rows)


def _check_grid(labels: Labels, ct: Volume) -> None:
    apart_mm = labels.geometry.difference_mm(ct.geometry)
    if labels.geometry.same_as(ct.geometry):
        return
    if labels.geometry.shape != ct.geometry.shape:
        detail = f"{labels.geometry.shape} voxels against {ct.geometry.shape}"
    else:
        detail = f"voxels up to {apart_mm:.1f} mm apart"
    raise GeometryError(
        f"the CT does not lie on the label map's grid ({detail}); give the scan that was segmented."
    )


def _add_up(labels: Labels, ct: Volume | None) -> npt.NDArray[np.float64]:
    """Voxels, sum and sum of squares of HU, (3, label value); by slices to spare memory."""
    size = int(labels.values.max()) + 1
    sums = np.zeros((3, size))  # whole numbers below 2**53, so exact
    for k, plane in enumerate(labels.values):
        inside = plane > 0
        present = plane[inside].astype(np.intp)
        sums[0] += np.bincount(present, minlength=size)
        if ct is not None and present.size:
            hu = ct.hu[k][inside].astype(np.float64)
            sums[1] += np.bincount(present, hu, minlength=size)
            sums[2] += np.bincount(present, hu * hu, minlength=size)
    return sums


def _within(values: list[int], sums: npt.NDArray[np.float64]) -> list[int]:
    """The values that the label map is wide enough for; others have no voxel."""
    return [value for value in values if value < sums.shape[1]]


def _values_on_faces(labels: Labels) -> set[int]:
    found: set[int] = set()
    for axis in range(3):
        for end in (0, -1):
            found.update(int(v) for v in np.unique(labels.values.take(end, axis=axis)))
    return found - {0}
