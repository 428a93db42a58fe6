"""Volumes and HU against formulas and numpy, on straight, oblique and sheared grids."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import voxel_centres_mm
from hypothesis import given, settings
from hypothesis import strategies as st

from segmate_cli import organs
from segmate_cli.errors import GeometryError, UnknownOrganError
from segmate_cli.geometry import Geometry, Reorientation
from segmate_cli.measurement import measure
from segmate_cli.placement import turned
from segmate_cli.volume import Labels, Volume

LIVER, SPLEEN = organs.organ("liver"), organs.organ("spleen")


def grid(
    spacing_mm: tuple[float, float, float],
    shape: tuple[int, int, int],
    *,
    turn_deg: float = 0.0,
    shear: float = 0.0,
) -> Geometry:
    """A grid around the origin; ``shear`` shifts slices along the rows, as a tilted gantry."""
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    axes = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=float)
    axes[1, 0] = shear
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes * spacing_mm
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Geometry(affine, shape)


def labels_of(values: np.ndarray, geometry: Geometry | None = None, **table: int) -> Labels:
    geometry = geometry or Geometry(np.eye(4), values.shape)
    names = {value: organs.foreign_organ(key, value) for key, value in table.items()}
    return Labels(values, geometry, names or {1: LIVER})


GRIDS = [
    grid((2.0, 2.0, 2.0), (40, 40, 40)),
    grid((5.0, 1.0, 1.5), (16, 80, 54)),
    grid((2.0, 1.5, 1.5), (44, 58, 58), turn_deg=25),
    grid((2.0, 1.5, 1.5), (44, 80, 54), shear=0.5),
    grid((2.0, 1.5, 1.5), (44, 80, 58), turn_deg=-15, shear=-0.4),
]


@pytest.mark.parametrize("geometry", GRIDS)
def test_a_ball_has_the_volume_of_a_ball(geometry):
    radius_mm = 25.0
    inside = np.linalg.norm(voxel_centres_mm(geometry), axis=-1) < radius_mm
    (stats,) = measure(labels_of(inside.astype(np.uint8), geometry))
    assert stats.volume_ml == pytest.approx(4 / 3 * np.pi * radius_mm**3 / 1000, rel=0.02)
    assert stats.voxels == np.count_nonzero(inside)
    assert not stats.touches_edge


@given(
    st.tuples(*[st.floats(0.3, 6.0)] * 3),
    st.floats(-40, 40),
    st.floats(-1.0, 1.0),
    st.integers(1, 60),
)
@settings(deadline=None)
def test_a_box_has_its_determinant_for_volume(spacing_mm, turn_deg, shear, voxels):
    geometry = grid(spacing_mm, (3, 4, 5), turn_deg=turn_deg, shear=shear)
    values = (np.arange(60) < voxels).astype(np.uint8).reshape(3, 4, 5)
    (stats,) = measure(labels_of(values, geometry))
    k, j, i = geometry.affine[:3, :3].T
    # A shear keeps the volume: base times height.
    assert stats.volume_ml == pytest.approx(voxels * abs(np.dot(k, np.cross(j, i))) / 1000)
    assert stats.volume_ml == pytest.approx(voxels * np.prod(spacing_mm) / 1000)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_mean_and_sd_are_numpys(dtype):
    rng = np.random.default_rng(9)
    values = rng.choice([0, 1, 2, 200], (6, 30, 30)).astype(dtype)
    hu = rng.integers(-1024, 3072, values.shape).astype(np.int16)
    labels = labels_of(values, liver=1, spleen=2, femur=200)
    found = measure(labels, Volume(hu, labels.geometry))
    assert [stats.organ.key for stats in found] == ["liver", "spleen", "femur"]
    for stats, value in zip(found, (1, 2, 200), strict=True):
        inside = hu[values == value].astype(np.float64)
        assert stats.voxels == inside.size
        assert stats.mean_hu == pytest.approx(inside.mean(), abs=1e-9)
        assert stats.sd_hu == pytest.approx(inside.std(), abs=1e-6)


@pytest.mark.parametrize("hu", [-32768, -1024, 0, 37, 32767])
def test_an_even_organ_has_no_spread(hu):
    values = np.ones((3, 40, 41), np.uint8)
    labels = labels_of(values)
    (stats,) = measure(labels, Volume(np.full(values.shape, hu, np.int16), labels.geometry))
    assert stats.mean_hu == hu
    assert stats.sd_hu == pytest.approx(0.0, abs=1e-3)


def test_without_a_ct_there_are_no_hu():
    (stats,) = measure(labels_of(np.ones((2, 2, 2), np.uint8)))
    assert (stats.mean_hu, stats.sd_hu) == (None, None)


def test_what_is_not_there_has_no_volume_instead_of_none():
    values = np.zeros((3, 3, 3), np.uint8)
    values[1, 1, 1] = 2
    labels = labels_of(values, liver=1, spleen=2, stomach=60_000)
    ct = Volume(np.zeros(values.shape, np.int16), labels.geometry)
    liver, spleen, stomach = measure(labels, ct)
    assert (liver.voxels, liver.volume_ml, liver.mean_hu, liver.sd_hu) == (0, None, None, None)
    assert not liver.touches_edge
    assert (stomach.voxels, stomach.volume_ml) == (0, None)
    assert (spleen.voxels, spleen.volume_ml, spleen.mean_hu) == (1, 0.001, 0.0)


FACES = [(axis, end) for axis in range(3) for end in (0, -1)]


@pytest.mark.parametrize(("axis", "end"), FACES)
def test_each_of_the_six_faces_is_an_edge(axis, end):
    values = np.zeros((5, 6, 7), np.uint8)
    values[2, 3, 3] = 1
    index = [2, 3, 3]
    index[axis] = end
    values[tuple(index)] = 2
    inner, cut = measure(labels_of(values, liver=1, spleen=2))
    assert (inner.touches_edge, cut.touches_edge) == (False, True)


def test_one_voxel_short_of_every_face_is_no_edge():
    values = np.zeros((5, 6, 7), np.uint8)
    values[1:-1, 1:-1, 1:-1] = 1
    (stats,) = measure(labels_of(values))
    assert not stats.touches_edge


def test_a_single_slice_is_all_edge():
    values = np.zeros((1, 6, 7), np.uint8)
    values[0, 3, 3] = 1
    assert measure(labels_of(values))[0].touches_edge


@pytest.mark.parametrize("moved", ["other shape", "shifted", "other spacing", "flipped"])
def test_a_ct_on_another_grid_is_refused(moved):
    labels = labels_of(np.ones((4, 5, 6), np.uint8))
    affine, shape = np.array(labels.geometry.affine), labels.geometry.shape
    if moved == "other shape":
        shape = (4, 5, 7)
    elif moved == "shifted":
        affine[2, 3] += 0.3
    elif moved == "other spacing":
        affine[:3, 0] *= 1.1
    else:
        affine[0, 0], affine[0, 3] = -1.0, 4.0
    ct = Volume(np.zeros(shape, np.int16), Geometry(affine, shape))
    with pytest.raises(GeometryError, match="give the scan that was segmented"):
        measure(labels, ct)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
def test_a_ct_stored_in_another_order_gives_the_same(axes, flips):
    geometry = grid((2.5, 0.8, 0.7), (5, 6, 7), turn_deg=20.0)
    random = np.random.default_rng(1)
    hu = random.integers(-1000, 1000, geometry.shape).astype(np.int16)
    values = random.integers(0, 3, geometry.shape).astype(np.uint8)
    labels = Labels(values, geometry, {1: LIVER, 2: SPLEEN})
    turn = Reorientation(axes, flips)
    other = Volume(np.array(turn.view(hu)), turned(geometry, turn))
    pairs = zip(measure(labels, other), measure(labels, Volume(hu, geometry)), strict=True)
    for one, two in pairs:
        assert (one.voxels, one.mean_hu, one.sd_hu) == (two.voxels, two.mean_hu, two.sd_hu)
        assert one.volume_ml == pytest.approx(two.volume_ml)
        assert one.status.faces == two.status.faces


def test_a_ct_whose_header_was_rounded_is_the_same_grid():
    labels = labels_of(np.ones((4, 5, 6), np.uint8))
    affine = np.array(labels.geometry.affine)
    affine[:3, 3] += 0.004
    ct = Volume(np.zeros((4, 5, 6), np.int16), Geometry(affine, (4, 5, 6)))
    assert measure(labels, ct)[0].mean_hu == 0.0


def test_organs_asked_for_come_in_that_order_and_once():
    values = np.arange(27, dtype=np.uint8).reshape(3, 3, 3) % 4
    labels = labels_of(values, heart=3, liver=1, kidney_left=2)
    keys = [stats.organ.key for stats in measure(labels)]
    assert keys == ["liver", "kidney_left", "heart"]
    some = measure(labels, organs=["HEART", "kidney", "heart", "liver"])
    assert [stats.organ.key for stats in some] == ["heart", "kidney_left", "liver"]
    assert measure(labels, organs=[]) == ()
    with pytest.raises(UnknownOrganError, match="Known here: liver, kidney_left, heart"):
        measure(labels, organs=["spleen"])


@pytest.mark.parametrize("names", [("liver", "Liver"), ("lesion", "lesion")])
def test_values_that_mean_one_organ_are_added_up(names):
    values = np.zeros((3, 4, 5), np.uint8)
    values[1, 1, 1:3], values[0, 0, 0] = 1, 9
    table = {value: organs.foreign_organ(n, value) for value, n in zip((1, 9), names, strict=True)}
    labels = Labels(values, Geometry(np.eye(4), values.shape), table)
    hu = np.where(values == 9, 40, 10).astype(np.int16)
    (stats,) = measure(labels, Volume(hu, labels.geometry))
    assert (stats.voxels, stats.mean_hu, stats.touches_edge) == (3, 20.0, True)


def test_a_table_with_a_value_of_any_size_costs_nothing():
    labels = Labels(
        np.ones((2, 2, 2), np.uint8),
        Geometry(np.eye(4), (2, 2, 2)),
        {1: LIVER, 10**12: SPLEEN},
    )
    assert [stats.voxels for stats in measure(labels)] == [8, 0]


def test_turning_the_axes_changes_no_number():
    geometry = grid((3.0, 1.0, 0.7), (7, 9, 11), turn_deg=10)
    rng = np.random.default_rng(3)
    values = rng.integers(0, 3, geometry.shape).astype(np.uint8)
    hu = rng.integers(-200, 300, geometry.shape).astype(np.int16)
    want = measure(labels_of(values, geometry, liver=1, spleen=2), Volume(hu, geometry))
    for letters in itertools.product("SI", "PA", "LR"):
        turned, turn = geometry.reoriented(letters)
        labels = labels_of(turn.view(values.copy()), turned, liver=1, spleen=2)
        found = measure(labels, Volume(turn.view(hu.copy()), turned))
        for one, other in zip(want, found, strict=True):
            assert other.volume_ml == pytest.approx(one.volume_ml)
            assert (other.voxels, other.mean_hu, other.sd_hu) == (
                one.voxels,
                pytest.approx(one.mean_hu),
                pytest.approx(one.sd_hu),
            )
