"""Label maps brought onto a scan's grid: axes turned, slices added that a SEG leaves out as empty.

Nothing is resampled: the voxels must be the same ones.
"""

from __future__ import annotations

import numpy as np

from segmate_cli.errors import GeometryError
from segmate_cli.geometry import Geometry, Reorientation
from segmate_cli.volume import Labels


def turn_onto(geometry: Geometry, other: Geometry) -> Reorientation | None:
    """How a grid's axes become another's; None where they are not, in whatever order."""
    steps = np.linalg.solve(other.affine[:3, :3], geometry.affine[:3, :3])
    axes = [int(np.argmax(np.abs(steps[new]))) for new in range(3)]
    if sorted(axes) != [0, 1, 2]:
        return None
    flips = [bool(steps[new, old] < 0) for new, old in enumerate(axes)]
    return Reorientation((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))


def turned(geometry: Geometry, turn: Reorientation) -> Geometry:
    """The same voxels with their axes turned; those of uneven slices have but one order."""
    if geometry.places_mm is not None:
        return geometry
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1.0
    for new, (old, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
        matrix[old, new] = -1.0 if flip else 1.0
        matrix[old, 3] = geometry.shape[old] - 1 if flip else 0.0
    k, j, i = (geometry.shape[old] for old in turn.axes)
    return Geometry(geometry.affine @ matrix, (k, j, i))


def placed_on(labels: Labels, geometry: Geometry, *, lacks_slices: bool = False) -> Labels:
    """A label map on a scan's grid, which may be stored in another order.

    Args:
        labels: A label map.
        geometry: The scan's.
        lacks_slices: Whether slices before the label map's first and behind its last are empty
            rather than unknown, as in a DICOM SEG that leaves out empty frames.

    Raises:
        GeometryError: Its voxels are not the scan's.
    """
    if labels.geometry.same_as(geometry):
        return labels
    turn = turn_onto(labels.geometry, geometry)
    if turn is not None:
        part = turned(labels.geometry, turn)
        along = turn.axes.index(0) if lacks_slices else None
        first = _first_slice(part, geometry, along)
        if first is not None:
            values = np.zeros(geometry.shape, labels.dtype)
            inside = [slice(None)] * 3
            if along is not None:
                inside[along] = slice(first, first + part.shape[along])
            values[tuple(inside)] = turn.view(labels.values)
            return Labels(values, geometry, labels.organs, labels.source, labels.run)
    raise _off_grid(labels.geometry, geometry)


def check_grid(labels: Geometry, ct: Geometry) -> None:
    """Refuse a CT on another grid than its label map's.

    Raises:
        GeometryError: Says how they differ.
    """
    if not labels.same_as(ct):
        raise _off_grid(labels, ct)


def _first_slice(part: Geometry, whole: Geometry, along: int | None) -> int | None:
    """Where one grid begins along an axis of another; None where it is no part of it."""
    if along is None:
        return 0 if part.same_as(whole) else None
    if part.places_mm is not None or whole.places_mm is not None:
        return None
    off_mm = part.affine[:3, 3] - whole.affine[:3, 3]
    first = round(float(np.linalg.solve(whole.affine[:3, :3], off_mm)[along]))
    if first < 0 or first + part.shape[along] > whole.shape[along]:
        return None
    affine, shape = np.array(whole.affine), list(whole.shape)
    affine[:3, 3] += first * affine[:3, along]
    shape[along] = part.shape[along]
    k, j, i = shape
    return first if part.same_as(Geometry(affine, (k, j, i))) else None


def _off_grid(labels: Geometry, ct: Geometry) -> GeometryError:
    if labels.shape != ct.shape:
        detail = f"{labels.shape} voxels against {ct.shape}"
    else:
        detail = f"voxels up to {labels.difference_mm(ct):.1f} mm apart"
    return GeometryError(
        f"the CT does not lie on the label map's grid ({detail}); give the scan that was segmented."
    )
