"""Planes that lie in memory deflated are planes all the same."""

from __future__ import annotations

import numpy as np

from segmate_cli.planes import PackedPlanes


def test_they_start_as_zeros_and_keep_what_they_are_given():
    planes = PackedPlanes((3, 4, 5))
    assert planes.shape == (3, 4, 5)
    assert not np.stack(list(planes)).any()
    given = np.arange(20, dtype=np.uint8).reshape(5, 4).T  # not contiguous
    planes[1] = given
    assert [bool(plane.any()) for plane in planes] == [False, True, False]
    assert np.array_equal(planes[1], given)
    assert len(planes) == 3


def test_a_plane_that_was_read_can_be_changed_without_changing_what_is_kept():
    planes = PackedPlanes((1, 2, 2))
    plane = planes[0]
    plane[0, 0] = 7
    assert planes[0][0, 0] == 0


def test_a_label_plane_takes_a_fraction_of_its_size():
    plane = np.zeros((205, 205), np.uint8)
    rows, columns = np.ogrid[:205, :205]
    plane[(rows - 90) ** 2 + (columns - 80) ** 2 < 3000] = 8
    planes = PackedPlanes((1, 205, 205))
    planes[0] = plane
    assert sum(map(len, planes._packed)) < plane.size / 20
