"""Planes come out turned as radiologists look at them, whatever the storage order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from look_maker import arrays, geometry, write_case

from segmate_cli import scans
from segmate_cli.look import views
from segmate_cli.look.views import LUNG, PLANES, SOFT_TISSUE, Cut, axis_of, take_views
from segmate_cli.look.whereabouts import locate

ORDERS = ["".join(order) for order in itertools.permutations("SPL")] + ["IAR", "RSA", "PIL"]
WHOLE = ((0, 23), (0, 39), (0, 47))


def views_of(folder, directions, window=SOFT_TISSUE):
    path, scan = write_case(folder, directions)
    labels = scans.open_labels(path)
    ct = scans.find_scan(scan)
    place = locate(labels, ct).places["liver"]
    cuts = {p: Cut(axis_of(labels.geometry, p), 0, window) for p in PLANES}
    cuts = {p: Cut(c.axis, place.centre[c.axis], window) for p, c in cuts.items()}
    whole = tuple((0, n - 1) for n in labels.geometry.shape)
    found = take_views(labels, ct, cuts.values(), whole)
    return {plane: found[cut] for plane, cut in cuts.items()}


@pytest.mark.parametrize("directions", ORDERS)
def test_planes_are_turned_for_the_eye(tmp_path, directions):
    _, values = arrays()
    shown = views_of(tmp_path, directions)
    # Of an even number of slices either of the two in the middle may be the median.
    for plane, image in {
        "axial": values[7],
        "coronal": values[::-1, 19],
        "sagittal": values[::-1, :, 13],
    }.items():
        assert np.array_equal(shown[plane].labels[0], image), plane
    sizes = {"axial": (2, 2), "coronal": (3, 2), "sagittal": (3, 2)}
    for plane, size in sizes.items():
        assert shown[plane].pixel_mm == pytest.approx(size)
    letters = {"axial": "ALPR", "coronal": "SLIR", "sagittal": "SPIA"}
    assert {p: "".join(v.letters) for p, v in shown.items()} == letters


def test_the_window_maps_hu_to_grey(tmp_path):
    grey = views_of(tmp_path, "SPL")["axial"].grey
    assert grey[0, 0] == 0  # air
    assert grey[20, 10] == (60 + 160) * 255 // 400  # liver
    assert views_of(tmp_path, "SPL", LUNG)["axial"].grey[20, 10] > grey[20, 10]


def test_positions_are_lps_mm(tmp_path):
    shown = views_of(tmp_path, "SPL")
    assert shown["axial"].position_mm == pytest.approx(-30 + 3 * 7)
    assert shown["coronal"].position_mm == pytest.approx(-39 + 2 * 19)
    assert shown["sagittal"].position_mm == pytest.approx(-47 + 2 * 13)


def test_without_a_scan_there_are_labels_alone(tmp_path):
    path, _ = write_case(tmp_path)
    cut = Cut(0, 7, SOFT_TISSUE)
    view = take_views(scans.open_labels(path), None, [cut], WHOLE)[cut]
    assert view.grey is None
    assert view.labels[0].any()


def test_only_the_body_is_shown(tmp_path):
    path, scan = write_case(tmp_path)
    labels = scans.open_labels(path)
    cuts = [Cut(axis, 7, SOFT_TISSUE) for axis in range(3)]
    body = ((2, 20), (5, 30), (10, 40))
    found = take_views(labels, scans.find_scan(scan), cuts, body)
    assert [found[cut].labels[0].shape for cut in cuts] == [(26, 31), (19, 31), (19, 26)]


def test_many_planes_of_a_long_scan_are_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr(views, "_BUDGET_BYTES", 3 * 2 * 40 * 48 / 4)
    path, scan = write_case(tmp_path)
    labels = scans.open_labels(path)
    cuts = [Cut(1, 20, SOFT_TISSUE), Cut(0, 7, SOFT_TISSUE)]
    found = take_views(labels, scans.find_scan(scan), cuts, WHOLE)
    assert found[cuts[0]].labels[0].shape == found[cuts[0]].grey.shape == (12, 24)
    assert found[cuts[0]].pixel_mm == (6.0, 4.0)
    assert found[cuts[1]].pixel_mm == (4.0, 4.0)


def test_axes_are_found_by_direction():
    assert [axis_of(geometry("SPL"), plane) for plane in PLANES] == [0, 1, 2]
    assert [axis_of(geometry("RIA"), plane) for plane in PLANES] == [1, 2, 0]
