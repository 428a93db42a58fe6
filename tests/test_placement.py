from __future__ import annotations

import numpy as np
import pytest

from segmate_cli.errors import GeometryError
from segmate_cli.geometry import Geometry, Reorientation
from segmate_cli.organs import organ
from segmate_cli.placement import placed_on, turned
from segmate_cli.volume import Labels

AFFINE = np.array([[0, 0, 0.7, 5], [0.2, 0.8, 0, -9], [2.5, 0, 0, 40], [0, 0, 0, 1.0]])
WHOLE = Geometry(AFFINE, (9, 6, 7))
VALUES = np.random.default_rng(3).integers(0, 4, WHOLE.shape).astype(np.uint8)


def part(start: int, stop: int, *, shift: float = 0.0) -> Labels:
    """Slices of the whole, sheared as a tilted gantry's."""
    affine = AFFINE.copy()
    affine[:3, 3] += (start + shift) * affine[:3, 0]
    values = VALUES[start:stop].copy()
    return Labels(values, Geometry(affine, values.shape), {1: organ("liver")})


def test_slices_that_were_left_out_are_empty():
    placed = placed_on(part(2, 5), WHOLE, lacks_slices=True)
    assert placed.geometry is WHOLE
    assert np.array_equal(placed.values[2:5], VALUES[2:5])
    assert np.count_nonzero(placed.values) == np.count_nonzero(VALUES[2:5])


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (0, 2, 1)])
def test_on_a_scan_stored_in_another_order(axes):
    turn = Reorientation(axes, (True, False, True))
    scan = turned(WHOLE, turn)
    whole = placed_on(part(0, 9), scan)
    assert np.array_equal(whole.values, turn.view(VALUES))
    expected = np.zeros_like(VALUES)
    expected[6:9] = VALUES[6:9]
    some = placed_on(part(6, 9), scan, lacks_slices=True)
    assert np.array_equal(some.values, turn.view(expected))


@pytest.mark.parametrize(
    ("labels", "lacks_slices"),
    [
        (part(2, 5), False),
        (part(2, 5, shift=0.1), True),
        (part(2, 5, shift=-3), True),
        (part(2, 5, shift=5), True),
        (Labels(VALUES[:, 1:], Geometry(AFFINE, (9, 5, 7)), {}), True),
    ],
    ids=["unknown", "between", "before", "behind", "cropped"],
)
def test_other_voxels_are_refused(labels, lacks_slices):
    with pytest.raises(GeometryError, match="give the scan that was segmented"):
        placed_on(labels, WHOLE, lacks_slices=lacks_slices)
