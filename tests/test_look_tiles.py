"""Outlines lie where the voxels are; pictures keep mm square."""

from __future__ import annotations

import numpy as np
import pytest

from segmate_cli.look.tiles import jpeg, make_tile, scale_bar_mm, simplified, svg_path, trace
from segmate_cli.look.views import SOFT_TISSUE, View


def view(labels, pixel_mm=(1.0, 1.0), grey=True):
    shade = (labels * 40).astype(np.uint8) if grey else None
    return View("axial", shade, (labels,), pixel_mm, ("A", "L", "P", "R"), 0.0, SOFT_TISSUE)


def area(polygon):
    x, y = polygon.T
    return abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2


def disc(size, radius):
    row, column = np.mgrid[:size, :size] - (size - 1) / 2
    return (row**2 + column**2 < radius**2).astype(np.uint8)


def test_pixels_are_square_in_mm_and_fit_the_box():
    tile = make_tile(view(np.ones((20, 30), np.uint8), (3.0, 1.0)), [1], (300, 200))
    assert tile.size == (100, 200)  # 30 mm wide, 60 mm high
    assert tile.pixel_mm == pytest.approx(0.3)


@pytest.mark.parametrize("box", [(400, 400), (100, 100), (40, 40)])
def test_outlines_enclose_the_labels_area(box):
    labels = disc(80, 30)
    tile = make_tile(view(labels), [1], box)
    (outline,) = tile.outlines
    (polygon,) = outline.polygons
    assert area(polygon) * tile.pixel_mm**2 == pytest.approx(labels.sum(), rel=0.03)
    middle = (polygon.min(axis=0) + polygon.max(axis=0)) / 2
    assert middle == pytest.approx([box[0] / 2, box[1] / 2], abs=0.3)


def test_a_hole_is_a_polygon_of_its_own():
    tile = make_tile(view(disc(80, 30) - disc(80, 10)), [1], (160, 160))
    assert len(tile.outlines[0].polygons) == 2


def test_labels_at_the_edge_close_along_it():
    tile = make_tile(view(np.ones((10, 10), np.uint8)), [1], (50, 50))
    (polygon,) = tile.outlines[0].polygons
    assert polygon.min() >= 0
    assert polygon.max() <= 50
    assert area(polygon) == pytest.approx(2500, rel=0.03)


def test_values_that_are_not_there_have_no_outline():
    labels = disc(40, 10) * 3
    assert [each.value for each in make_tile(view(labels), [1, 3], (80, 80)).outlines] == [3]


def test_without_a_scan_the_ground_is_black():
    assert not make_tile(view(disc(40, 10), grey=False), [1], (80, 80)).grey.any()


def test_tracing_nothing_gives_nothing():
    assert trace(np.zeros((5, 5)), 0.5) == []


def test_straight_lines_lose_points_and_curves_stay():
    line = [(x, 0.0) for x in range(20)] + [(19.0, y) for y in range(1, 20)]
    square = np.array(
        [*line, *[(x, 19.0) for x in range(18, -1, -1)], *[(0, y) for y in range(18, 0, -1)]]
    )
    less = simplified(square.astype(float))
    assert len(less) < len(square) / 3
    assert area(less) == pytest.approx(area(square.astype(float)), rel=0.01)
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = 50 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    assert area(simplified(circle)) == pytest.approx(area(circle), rel=0.01)
    assert len(simplified(circle)) < 200


def test_svg_paths_are_tenths_of_pixels():
    path = svg_path([np.array([[1.0, 2.0], [3.04, 2.0], [3.0, 5.0]])])
    assert path == "M10 20l20 0 0 30z"


def test_a_jpeg_is_one():
    from io import BytesIO

    from PIL import Image

    picture = Image.open(BytesIO(jpeg(np.full((8, 9), 77, np.uint8), 80)))
    assert (picture.format, picture.size, picture.mode) == ("JPEG", (9, 8), "L")
    assert abs(picture.getpixel((4, 4)) - 77) < 3


@pytest.mark.parametrize(("width", "bar"), [(300.0, 50), (480.0, 100), (30.0, 5), (2.0, 1)])
def test_scale_bars_are_round(width, bar):
    assert scale_bar_mm(width) == bar
