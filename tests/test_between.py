"""Labels between the model's slices: as if all scores had been interpolated at once."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import asymmetric_shape, threshold_network, voxel_centres_mm, write_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from test_geometry import make
from test_pipeline import scan_of_shape

from segmate_cli.between import ScoredSlice, scan_slices
from segmate_cli.bundle import open_bundle
from segmate_cli.engines import load_model
from segmate_cli.pipeline import PredictOptions, predict
from segmate_cli.resample import ModelGrid


@pytest.fixture(scope="module")
def scores_bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("between") / "scores"
    return write_bundle(folder, threshold_network(), preprocessing__resampling={"labels": "scores"})


@pytest.fixture(scope="module")
def scores_model(scores_bundle):
    return load_model(open_bundle(scores_bundle), threads=1)


def largest_over_zero(logits: np.ndarray) -> np.ndarray:
    return np.where(logits.max(1) > 0, logits.argmax(1) + 1, 0).astype(np.uint8)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 12),
    st.floats(0.3, 6.0),
    st.sampled_from([1, 2, 3]),
    st.booleans(),
    st.integers(0, 99),
)
def test_streamed_is_what_all_at_once_gives(tiny_bundle, slices, mm, stride, descending, seed):
    geometry = make("IPL" if descending else "SPL", spacing=(mm, 2.0, 2.0), shape=(slices, 5, 6))
    grid = ModelGrid.fit(geometry, open_bundle(tiny_bundle).manifest.preprocessing)
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (grid.shape[0], 3, *grid.shape[1:])).astype(np.float32)
    scored = (
        ScoredSlice(n, largest_over_zero(logits[[n]])[0], logits[n])
        for n in grid.order()
        if n % stride == 0
    )
    found = dict(scan_slices(scored, grid, stride, largest_over_zero))
    assert next(scored, None) is None
    kept = logits[::stride]
    at = np.minimum(np.arange(slices) / (grid.steps[0] * stride), len(kept) - 1)
    low = at.astype(int)
    high = np.minimum(low + 1, len(kept) - 1)
    part = (at - low).astype(np.float32)[:, None, None, None]
    want = largest_over_zero(kept[low] * (1 - part) + kept[high] * part)
    assert sorted(found) == list(range(slices))
    assert np.array_equal(np.stack([found[k] for k in range(slices)]), want)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["PSL", "ASL", "LSP", "RIA", "LPS"]),
    st.tuples(st.integers(1, 9), st.integers(2, 7), st.integers(2, 7)),
    st.tuples(*[st.floats(0.3, 6.0)] * 3),
    st.sampled_from([1, 2]),
    st.integers(0, 99),
)
def test_stored_slices_lie_between_rows_or_columns(tiny_bundle, letters, shape, mm, stride, seed):
    grid = ModelGrid.fit(
        make(letters, spacing=mm, shape=shape), open_bundle(tiny_bundle).manifest.preprocessing
    )
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (grid.shape[0], 3, *grid.shape[1:])).astype(np.float32)
    kept = np.moveaxis(logits[::stride], 1, -1)
    scored = (
        ScoredSlice(n * stride, largest_over_zero(logits[[n * stride]])[0], logits[n * stride])
        for n in range(len(kept))
    )
    found = dict(scan_slices(scored, grid, stride, largest_over_zero))
    axis = grid.turn.axes.index(0)
    assert axis > 0
    want = between(between(kept, grid, axis), grid, 0, stride)
    got = np.stack([found[k] for k in range(grid.source_shape[0])])
    assert got.shape == grid.at_scan_slices().shape
    assert np.array_equal(got, largest_over_zero(np.moveaxis(want, -1, 1)))


def between(scores: np.ndarray, grid: ModelGrid, axis: int, stride: int = 1) -> np.ndarray:
    """Scores at the scan's own places along an axis."""
    last = scores.shape[axis] - 1
    at = np.minimum(np.arange(grid.source_shape[axis]) / (grid.steps[axis] * stride), last)
    low = at.astype(int)
    part = (at - low).astype(np.float32).reshape([-1 if n == axis else 1 for n in range(4)])
    high = np.minimum(low + 1, last)
    return scores.take(low, axis) * (1 - part) + scores.take(high, axis) * part


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (3, 2), (1000, 2)])
def test_batch_size_and_threads_change_no_voxel(
    scores_bundle, scores_model, batch_size, threads, fast
):
    volume, _ = scan_of_shape("SPL", (0.7, 0.9, 1.1))
    want = predict(volume, scores_model, PredictOptions(fast=fast)).values
    options = PredictOptions(batch_size=batch_size, threads=threads, fast=fast)
    assert np.array_equal(predict(volume, scores_bundle, options).values, want)
    assert want.any()


# Fine along the model's slices, or along those that are stored across them.
@pytest.mark.parametrize(
    ("letters", "fine"),
    [("SPL", 0), ("IPL", 0), ("PSL", 1), ("LAI", 2), ("PSL", 0), ("ALS", 0), ("LAI", 0)],
)
def test_there_are_fewer_stairs_than_with_the_nearest_slice(
    tiny_bundle, scores_model, letters, fine
):
    spacing = [0.5 if axis == fine else 2.0 for axis in range(3)]
    volume, distance = scan_of_shape(letters, spacing)
    want = distance < 0
    wrong = {
        name: np.count_nonzero((predict(volume, model).values == 1) != want)
        for name, model in (("nearest", tiny_bundle), ("scores", scores_model))
    }
    assert wrong["scores"] < 0.5 * wrong["nearest"]


def test_fast_takes_half_the_slices_and_stays_close(tiny_bundle):
    volume, distance = scan_of_shape("SPL", (1.0, 2.0, 2.0))
    seen = []
    quick = predict(
        volume, tiny_bundle, PredictOptions(fast=True), lambda *event: seen.append(event)
    )
    whole = predict(volume, tiny_bundle)
    assert seen[-1][2] == -(-whole.run["model_grid"]["shape"][0] // 2)
    assert quick.run["options"]["fast"] is True
    wrong = np.count_nonzero((quick.values == 1) != (distance < 0))
    assert wrong < 0.05 * np.count_nonzero(distance < 0)


def test_a_shape_keeps_its_place(scores_model):
    volume, _ = scan_of_shape("SPL", (0.7, 2.0, 2.0))
    found = predict(volume, scores_model).values == 1
    centres = voxel_centres_mm(volume.geometry)
    inside = asymmetric_shape(centres) < 0
    assert np.abs(centres[found].mean(axis=0) - centres[inside].mean(axis=0)).max() < 0.2
