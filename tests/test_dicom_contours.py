from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

pytest.importorskip("contourpy", reason="needs contourpy: pip install 'segmate-cli[dicom]'")

from segmate_cli.dicom.contours import area, fill, outlines

RING = np.zeros((40, 50), bool)
RING[5:35, 8:44] = True
RING[10:14, 12:20] = RING[10:30, 30:33] = RING[20, 15] = False


def areas(polygons) -> float:
    return sum(map(area, polygons))


@settings(max_examples=150, deadline=None)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_any_mask_comes_back_pixel_by_pixel_with_its_area(mask):
    polygons = outlines(mask)
    assert all(polygon.shape[0] >= 3 and polygon.shape[1] == 2 for polygon in polygons)
    assert areas(polygons) == pytest.approx(np.count_nonzero(mask), rel=0.0101)
    if polygons:
        assert np.array_equal(fill(polygons, mask.shape), mask)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-0.2, 0.2))
def test_smooth_shapes_with_holes_come_back(seed, level):
    y, x = np.mgrid[0:60, 0:70]
    waves = np.random.default_rng(seed).normal(size=(6, 4))
    mask = sum(np.sin(a * x / 8 + b * y / 8 + c) * d for a, b, c, d in waves) > level
    polygons = outlines(mask)
    if polygons:
        assert areas(polygons) == pytest.approx(np.count_nonzero(mask), rel=0.0101)
        assert np.array_equal(fill(polygons, mask.shape), mask)


def test_holes_hang_on_seams_of_one_polygon():
    (polygon,) = outlines(RING)
    assert area(polygon) == pytest.approx(np.count_nonzero(RING), rel=0.01)
    assert np.array_equal(fill([polygon], RING.shape), RING)


def test_a_seam_has_no_width_and_there_is_one_to_each_hole():
    (polygon,) = outlines(RING)
    edges = [tuple(map(tuple, edge)) for edge in zip(polygon, np.roll(polygon, -1, 0), strict=True)]
    there_and_back = {frozenset(edge) for edge in edges if edge[::-1] in edges}
    assert len(there_and_back) == 3


def test_a_hole_that_is_a_contour_of_its_own_is_a_hole():
    square = np.array([[1, 1], [1, 9], [9, 9], [9, 1]]) - 0.5
    hole = np.array([[3, 3], [3, 5], [5, 5], [5, 3]]) - 0.5
    mask = fill([square, hole], (12, 11))
    assert np.count_nonzero(mask) == 64 - 4
    assert not mask[3:5, 3:5].any()


def test_what_reaches_over_the_grid_is_cut_there():
    square = np.array([[-5.5, -5.5], [-5.5, 3.5], [30.0, 3.5], [30.0, -5.5]])
    assert fill([square], (6, 8)).sum(axis=1).tolist() == [4] * 6


def test_lines_stay_straight_with_few_points():
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    (polygon,) = outlines(mask)
    assert len(polygon) == 8


def test_a_single_pixel_is_a_pixel():
    mask = np.zeros((5, 5), bool)
    mask[2, 3] = True
    (polygon,) = outlines(mask)
    assert area(polygon) == pytest.approx(1.0, rel=0.01)
    assert polygon.mean(axis=0) == pytest.approx([2, 3])
