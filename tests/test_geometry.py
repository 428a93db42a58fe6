"""Axes, spacing, directions: the grid's arithmetic against definitions and nibabel."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmate_cli.errors import GeometryError
from segmate_cli.geometry import Geometry, Reorientation, geometry_from_ras, ras_affine

ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "AP", "SI"))
    for letters in itertools.product(*axes)
]
directions = st.sampled_from(ORIENTATIONS)


def make(letters: str, spacing=(2.0, 1.0, 0.5), shape=(4, 5, 6)) -> Geometry:
    columns = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0)}
    columns |= {"S": (0, 0, 1), "I": (0, 0, -1)}
    affine = np.eye(4)
    for axis, (letter, mm) in enumerate(zip(letters, spacing, strict=True)):
        affine[:3, axis] = np.array(columns[letter]) * mm
    affine[:3, 3] = (7.0, -3.0, 11.0)
    return Geometry(affine, shape)


def test_there_are_48_orientations_and_each_is_recognised():
    assert len(ORIENTATIONS) == 48
    assert [make(letters).directions for letters in ORIENTATIONS] == [*map(tuple, ORIENTATIONS)]


@given(directions)
def test_directions_agree_with_nibabel(letters):
    codes = nibabel.aff2axcodes(ras_affine(make(letters)))
    assert "".join(reversed(codes)) == letters


@given(directions, directions)
def test_reorienting_moves_no_voxel(have, want):
    geometry = make(have)
    turned, turn = geometry.reoriented(want)
    values = np.arange(geometry.voxels).reshape(geometry.shape)
    for new_index in itertools.product(*[(0, n - 1) for n in turned.shape]):
        value = turn.view(values)[new_index]
        old_index = np.argwhere(values == value)[0]
        assert np.allclose(turned.to_lps_mm(new_index), geometry.to_lps_mm(old_index))
    assert turned.directions == tuple(want)


@given(directions, directions)
def test_reorienting_and_back_is_the_identity(have, want):
    there = Reorientation.between(have, want)
    back = Reorientation.between(want, have)
    values = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(back.view(there.view(values)), values)


def test_a_view_writes_through():
    values = np.zeros((2, 3, 4))
    Reorientation.between("SPL", "RAI").view(values)[0, 0, 0] = 1
    assert values[1, 2, 3] == 1


@given(st.floats(0, 30), st.floats(0.3, 6), st.floats(0.3, 6), st.floats(0.3, 6))
def test_ras_and_back(angle_deg, k_mm, j_mm, i_mm):
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    affine = np.diag([i_mm, j_mm, k_mm, 1.0])
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ affine[:3, :3]
    affine[:3, 3] = (5, 6, 7)
    geometry = geometry_from_ras(affine, (10, 11, 12))
    assert geometry.shape == (12, 11, 10)
    assert np.allclose(ras_affine(geometry), affine)
    assert np.allclose(geometry.spacing_mm, (k_mm, j_mm, i_mm))
    assert np.isclose(geometry.voxel_ml, k_mm * j_mm * i_mm / 1000)
    index_ijk = np.array([3, 4, 5, 1])
    assert np.allclose(geometry.to_lps_mm((5, 4, 3)), (affine @ index_ijk)[:3] * (-1, -1, 1))
    assert np.isclose(geometry.obliqueness_deg, angle_deg, atol=1e-4)


def test_a_sheared_voxel_has_its_true_volume():
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    affine[1, 0] = 1.0  # slices shifted by half their distance
    assert np.isclose(Geometry(affine, (3, 3, 3)).voxel_ml, 0.002)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda a: a.__setitem__((0, 0), np.nan), "finite"),
        (lambda a: a.__setitem__((slice(None), 1), 0), "zero"),
        (lambda a: a.__setitem__((slice(None), 1), a[:, 2]), "singular"),
    ],
)
def test_a_broken_affine_is_refused(change, word):
    affine = np.eye(4)
    change(affine)
    with pytest.raises(GeometryError, match=word):
        Geometry(affine, (2, 2, 2))


def test_no_voxels_are_refused():
    with pytest.raises(GeometryError, match="three axes"):
        Geometry(np.eye(4), (2, 0, 2))


def test_grids_are_compared_in_millimetres():
    one = make("SPL")
    moved = np.array(one.affine)
    moved[0, 3] += 0.01
    assert one.same_as(Geometry(moved, one.shape))
    moved[0, 3] += 1.0
    assert not one.same_as(Geometry(moved, one.shape))
    assert one.difference_mm(Geometry(moved, (4, 5, 7))) == float("inf")


def test_the_affine_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        make("SPL").affine[0, 0] = 9
