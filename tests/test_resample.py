"""The way to the model's grid and back, against definitions and SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from test_geometry import directions, make

from segmate_cli.bundle import Grid, Padding, Preprocessing, Resampling, Window
from segmate_cli.geometry import Geometry
from segmate_cli.resample import ModelGrid, Taps


def preprocessing(spacing=(2.0, 2.0, 2.0), letters=("S", "P", "L"), anti_alias="gaussian"):
    return Preprocessing(
        grid=Grid(spacing_mm=spacing, directions=letters),
        window=Window(low_hu=-1000, high_hu=400, scale=1.0, offset=0.0),
        neighbours_mm=(0.0,),
        padding=Padding(value=-1.0, multiple=1),
        resampling=Resampling(anti_alias=anti_alias),
    )


def on_model_grid(hu: np.ndarray, grid: ModelGrid) -> np.ndarray:
    """The scan on the model's grid, ascending, from its slices as they are stored or turned."""
    planes = map(grid.turn_plane, hu) if grid.streams else iter(grid.turn.view(hu))
    slices = list(grid.slices(planes))
    return np.stack(slices[::-1] if grid.descending else slices)


@given(st.integers(1, 40), st.floats(0.3, 4.0), st.sampled_from([0.0, 0.5, 1.5]))
def test_taps_keep_a_constant(inputs, step, sigma):
    taps = Taps.fit(inputs, max(1, int(inputs / step)), step, sigma)
    constant = np.full((inputs, 2), 7.0, np.float32)
    assert np.allclose(taps.down(constant), 7.0, rtol=1e-5)


@given(st.integers(12, 40), st.floats(0.3, 3.0))
def test_taps_keep_a_ramp(inputs, step):
    outputs = int((inputs - 1) / step) + 1
    ramp = np.arange(inputs, dtype=np.float32)[:, None]
    got = Taps.fit(inputs, outputs, step, 0.0).down(ramp)[:, 0]
    assert np.allclose(got, np.arange(outputs) * step, atol=1e-4)
    assert np.allclose(Taps.fit(inputs, outputs, step, 0.0).across(ramp.T)[0], got, atol=1e-4)


def test_a_gaussian_keeps_its_spread():
    impulse = np.zeros((101, 1), np.float32)
    impulse[50] = 1.0
    got = Taps.fit(101, 101, 1.0, 2.0).down(impulse)[:, 0].astype(float)
    at = np.arange(101) - 50
    assert got.sum() == pytest.approx(1.0, abs=1e-4)
    assert (got * at * at).sum() == pytest.approx(4.0, rel=0.01)


def test_the_same_spacing_changes_nothing():
    geometry = make("SPL", spacing=(2.0, 2.0, 2.0), shape=(5, 6, 7))
    hu = np.random.default_rng(0).integers(-1000, 400, geometry.shape).astype(np.int16)
    grid = ModelGrid.fit(geometry, preprocessing())
    assert grid.shape == geometry.shape
    assert np.array_equal(on_model_grid(hu, grid), hu)


@settings(max_examples=25, deadline=None)
@given(
    directions,
    st.tuples(st.floats(0.7, 5.0), st.floats(0.5, 3.0), st.floats(0.5, 3.0)),
    st.tuples(st.integers(3, 12), st.integers(3, 15), st.integers(3, 15)),
)
def test_linear_resampling_agrees_with_simpleitk(letters, spacing, shape):
    geometry = make(letters, spacing=spacing, shape=shape)
    rng = np.random.default_rng(1)
    hu = rng.integers(-1000, 400, shape).astype(np.int16)
    grid = ModelGrid.fit(geometry, preprocessing(anti_alias="none"))
    turned, _ = geometry.reoriented(("S", "P", "L"))
    image = SimpleITK.Cast(as_simpleitk(hu, geometry), SimpleITK.sitkFloat32)
    reference = SimpleITK.Image(*grid.shape[::-1], SimpleITK.sitkFloat32)
    reference.SetOrigin(turned.affine[:3, 3].tolist())
    reference.SetSpacing((2.0, 2.0, 2.0))
    outside = -9999.0
    want = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(image, reference, SimpleITK.Transform(), SimpleITK.sitkLinear, outside)
    )
    got = on_model_grid(hu, grid)
    # SimpleITK does not extrapolate, segmate repeats the edge: compare where both interpolate.
    inside = want != outside
    assert inside.any()
    assert np.allclose(got[inside], want[inside], atol=0.05)


def as_simpleitk(array: np.ndarray, geometry: Geometry) -> SimpleITK.Image:
    """The same voxels at the same places, by SimpleITK's own means; x, y, z are i, j, k."""
    image = SimpleITK.GetImageFromArray(array)
    axes = geometry.affine[:3, :3][:, ::-1]
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetDirection((axes / np.linalg.norm(axes, axis=0)).ravel().tolist())
    image.SetOrigin(geometry.affine[:3, 3].tolist())
    return image


@settings(max_examples=40, deadline=None)
@given(
    directions,
    st.tuples(st.floats(0.5, 5.0), st.floats(0.5, 5.0), st.floats(0.5, 5.0)),
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)),
)
def test_every_scan_voxel_gets_the_nearest_model_voxel(letters, spacing, shape):
    geometry = make(letters, spacing=spacing, shape=shape)
    grid = ModelGrid.fit(geometry, preprocessing())
    turned, _ = geometry.reoriented(("S", "P", "L"))
    # Put each model voxel's own millimetres along an axis into the "labels" and bring them back.
    for axis, mm in enumerate((2.0, 2.0, 2.0)):
        along = np.arange(grid.shape[axis]) * mm
        labels = np.broadcast_to(
            np.expand_dims(along, [n for n in range(3) if n != axis]), grid.shape
        )
        back, turn = grid.back(labels), geometry.reoriented(("S", "P", "L"))[1]
        truth = np.arange(turned.shape[axis]) * turned.spacing_mm[axis]
        got = np.moveaxis(turn.view(back), axis, 0).reshape(turned.shape[axis], -1)
        assert (got == got[:, :1]).all()
        assert np.abs(got[:, 0] - truth).max() <= mm / 2 + 1e-6


def test_slices_flow_one_by_one():
    geometry = make("SPL", spacing=(1.0, 1.0, 1.0), shape=(1000, 2, 2))
    grid = ModelGrid.fit(geometry, preprocessing())
    taken = []
    planes = (taken.append(k) or np.full((2, 2), k, np.int16) for k in range(1000))
    slices = grid.slices(planes)
    first, second = next(slices), next(slices)
    assert first.shape == (2, 2)
    assert first.dtype == np.float32
    assert second[0, 0] == 2
    assert taken == [0, 1, 2]
    assert len(list(slices)) == 499
    assert taken == list(range(1000))  # also those after the last one needed


@settings(max_examples=48, deadline=None)
@given(directions, st.floats(0.6, 5.0))
def test_labels_come_back_slice_by_slice_as_they_do_at_once(letters, slice_mm):
    geometry = make(letters, spacing=(slice_mm, 1.1, 0.7), shape=(7, 9, 8))
    grid = ModelGrid.fit(geometry, preprocessing())
    labels = np.random.default_rng(2).integers(0, 9, grid.shape).astype(np.uint8)
    assert np.array_equal(np.stack(list(grid.back_planes(labels))), grid.back(labels))
