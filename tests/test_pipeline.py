"""The whole way with a network whose answer is known: what goes in comes back, in its place."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import (
    asymmetric_shape,
    position_network,
    threshold_network,
    voxel_centres_mm,
    write_bundle,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_geometry import directions

from segmate_cli.bundle import open_bundle
from segmate_cli.engines import load_model
from segmate_cli.errors import MemoryCapError, ModelError, UnknownOrganError, UsageError
from segmate_cli.geometry import Geometry
from segmate_cli.inputs import neighbour_stacks
from segmate_cli.pipeline import PredictOptions, predict
from segmate_cli.segmenter import decide
from segmate_cli.volume import Volume

HALF_MODEL_VOXEL_MM = 1.0


def rotation(angles_deg: tuple[float, float, float]) -> np.ndarray:
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(angles_deg)):
        a, b = [n for n in range(3) if n != axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    return turn


def scan_of_shape(letters, spacing, angles_deg=(0.0, 0.0, 0.0)) -> tuple[Volume, np.ndarray]:
    """The asymmetric shape as CT on a grid of any direction; and its signed distance in mm."""
    units = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0)}
    units |= {"S": (0, 0, 1), "I": (0, 0, -1)}
    axes = np.array([units[letter] for letter in letters], dtype=float).T
    shape = tuple(int(np.ceil(80.0 / mm)) + odd for odd, mm in enumerate(spacing))
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles_deg) @ axes * spacing
    middle = (np.array(shape) - 1) / 2
    affine[:3, 3] = np.array([6.0, -3.0, 6.0]) - affine[:3, :3] @ middle
    geometry = Geometry(affine, shape)
    distance = asymmetric_shape(voxel_centres_mm(geometry))
    # Partial volume over 1 mm as a scanner gives it: the surface lies at -300 HU.
    hu = np.rint(np.clip(-300 - 700 * distance, -1000, 400)).astype(np.int16)
    return Volume(hu, geometry), distance


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    directions,
    st.tuples(st.floats(0.7, 5.0), st.floats(0.6, 2.5), st.floats(0.6, 2.5)),
    st.tuples(st.floats(-20, 20), st.floats(-20, 20), st.floats(-20, 20)),
)
def test_a_mask_comes_back_within_half_a_voxel(tiny_model, letters, spacing, angles_deg):
    volume, distance = scan_of_shape(letters, spacing, angles_deg)
    labels = predict(volume, tiny_model)
    found = labels.values == 1
    wrong = found != (distance < 0)
    # Half a model voxel and half a scan voxel, along each axis: both grids round once.
    allowed_mm = np.linalg.norm([HALF_MODEL_VOXEL_MM + mm / 2 for mm in spacing])
    assert np.abs(distance[wrong]).max(initial=0.0) <= allowed_mm
    centres = voxel_centres_mm(volume.geometry)
    if found.any():
        moved = centres[found].mean(axis=0) - centres[distance < 0].mean(axis=0)
        assert np.abs(moved).max() < HALF_MODEL_VOXEL_MM + max(spacing) / 2


@pytest.fixture(scope="module")
def tiny_model(tiny_bundle):
    return load_model(open_bundle(tiny_bundle), threads=1)


@given(directions)
@settings(
    max_examples=48, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_on_the_models_own_spacing_nothing_is_lost(tiny_model, letters):
    volume, _ = scan_of_shape(letters, (2.0, 2.0, 2.0))
    labels = predict(volume, tiny_model)
    assert np.array_equal(labels.values == 1, volume.hu > -300)


@pytest.mark.parametrize("shape", [(1, 9, 9), (9, 1, 9), (9, 9, 1), (1, 1, 1), (2, 3, 1)])
def test_flat_volumes_survive(tiny_model, shape):
    hu = np.full(shape, -1000, np.int16)
    hu[shape[0] // 2 :] = 100
    volume = Volume(hu, Geometry(np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]], shape))
    labels = predict(volume, tiny_model, PredictOptions(check_hu=False))
    assert np.array_equal(labels.values == 1, hu > -300)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("threads", [1, 2])
def test_batch_size_and_threads_change_no_voxel(tiny_bundle, tiny_model, batch_size, threads):
    volume, _ = scan_of_shape("SPL", (1.3, 0.9, 1.1))
    want = predict(volume, tiny_model).values
    options = PredictOptions(batch_size=batch_size, threads=threads)
    assert np.array_equal(predict(volume, tiny_bundle, options).values, want)


def test_a_run_says_what_it_did(tiny_model):
    volume, _ = scan_of_shape("SPL", (2.0, 2.0, 2.0))
    seen = []
    labels = predict(volume, tiny_model, progress=lambda *event: seen.append(event))
    assert labels.run["model"]["name"] == "tiny"
    assert labels.run["slice_position"] == {"rule": "none"}
    assert {"read", "resample", "network", "window", "clean_up"} <= labels.run["seconds"].keys()
    assert seen[-1] == ("segment", volume.hu.shape[0], volume.hu.shape[0])


def test_overlaps_go_to_the_larger_logit(tmp_path):
    folder = write_bundle(
        tmp_path / "three",
        threshold_network(3),
        organs=[
            {"key": "liver", "channel": 0, "threshold": 0.5},
            {"key": "heart", "channel": 2, "threshold": 0.9},
        ],
        network__channels=3,
    )
    manifest = open_bundle(folder).manifest
    logits = np.full((1, 3, 1, 6), -5.0, np.float32)
    logits[0, 1] = 99.0  # a channel that is no organ
    logits[0, 0, 0] = [1.0, 1.0, -1.0, -1.0, 3.0, 0.0]
    logits[0, 2, 0] = [0.5, 2.5, 2.0, 2.5, 3.0, -1.0]
    # 0.9 is logit 2.197: the third passes nowhere; a tie goes to the earlier organ.
    assert decide(logits, manifest).tolist() == [[[1, 2, 0, 2, 1, 0]]]


def test_only_the_organs_asked_for(tmp_path):
    folder = write_bundle(
        tmp_path / "two",
        threshold_network(2),
        organs=[{"key": "heart", "channel": 1}, {"key": "liver", "channel": 0}],
        network__channels=2,
    )
    volume, _ = scan_of_shape("SPL", (2.0, 2.0, 2.0))
    all_of_them = predict(volume, folder)
    assert {v: o.key for v, o in all_of_them.organs.items()} == {1: "heart", 2: "liver"}
    only = predict(volume, folder, PredictOptions(organs=("LIVER",)))
    assert {v: o.key for v, o in only.organs.items()} == {2: "liver"}
    assert np.array_equal(only.values == 2, all_of_them.values == 2)
    assert not (only.values == 1).any()
    with pytest.raises(UnknownOrganError, match="Known here: heart, liver"):
        predict(volume, folder, PredictOptions(organs=("brain",)))


def test_nonsense_from_the_network_is_no_background(tmp_path):
    network = threshold_network().replace(np.float32(10.0).tobytes(), np.float32(np.nan).tobytes())
    folder = write_bundle(tmp_path / "nan", network)
    volume, _ = scan_of_shape("SPL", (2.0, 2.0, 2.0))
    with pytest.raises(ModelError, match="no numbers"):
        predict(volume, folder)


def test_a_cap_that_cannot_hold_is_refused_with_the_least_that_does(tiny_model):
    volume, _ = scan_of_shape("SPL", (2.0, 2.0, 2.0))
    with pytest.raises(MemoryCapError, match=r"at least .* MB is needed with a batch of 1"):
        predict(volume, tiny_model, PredictOptions(memory_cap_bytes=1_000_000))


def test_a_tight_cap_takes_a_smaller_batch(tmp_path):
    from segmate_cli import memory

    folder = write_bundle(tmp_path / "hungry", network__bytes_per_pixel=50_000)
    model = load_model(open_bundle(folder), threads=1)
    volume, _ = scan_of_shape("SPL", (2.0, 2.0, 2.0))
    room = memory.resident_bytes() + 2.6 * 48 * 48 * 50_000 + 60_000_000
    labels = predict(volume, model, PredictOptions(memory_cap_bytes=int(room)))
    assert 1 <= labels.run["options"]["batch_size"] < 4


def test_a_batch_size_of_nothing_is_refused(tiny_model):
    volume, _ = scan_of_shape("SPL", (2.0, 2.0, 2.0))
    with pytest.raises(UsageError, match="batch-size 0"):
        predict(volume, tiny_model, PredictOptions(batch_size=0))


@given(st.integers(1, 7), st.lists(st.integers(-3, 3), min_size=1, max_size=5))
def test_neighbours_repeat_the_ends(slices, steps):
    planes = [np.full((1, 1), n, np.float32) for n in range(slices)]
    got = [[int(v) for v in stack.ravel()] for stack in neighbour_stacks(iter(planes), steps)]
    assert got == [[min(max(n + s, 0), slices - 1) for s in steps] for n in range(slices)]


def position_bundle(folder, rule):
    return write_bundle(
        folder,
        position_network(),
        network__takes_slice_position=True,
        preprocessing__slice_position=rule,
    )


def bar(first, last) -> Volume:
    """Ten slices of air with a bar of tissue from slice ``first`` to ``last``."""
    hu = np.full((10, 8, 8), -1000, np.int16)
    hu[first : last + 1] = 400
    return Volume(hu, Geometry(np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]], hu.shape))


def test_without_a_known_position_film_is_the_identity(tmp_path):
    labels = predict(bar(2, 8), position_bundle(tmp_path / "none", "none"))
    assert labels.run["slice_position"] == {"rule": "none"}
    assert labels.values.any(axis=(1, 2)).tolist() == [False] * 2 + [True] * 7 + [False]


def test_the_slice_position_is_estimated_in_a_first_pass(tmp_path):
    labels = predict(bar(2, 8), position_bundle(tmp_path / "estimate", "estimate"))
    assert labels.run["slice_position"] == {"rule": "estimate", "first": 2, "last": 8}
    # Positions 0, 1/6, 2/6, 3/6 ...: the logit 10 - 20 * position stays over 0 below one half.
    assert np.flatnonzero(labels.values.any(axis=(1, 2))).tolist() == [2, 3, 4]


def test_a_position_that_cannot_be_estimated_is_said(tmp_path):
    folder = position_bundle(tmp_path / "estimate", "estimate")
    labels = predict(bar(4, 4), folder)
    assert labels.run["slice_position"] == {"rule": "estimate", "first": None, "last": None}
    assert labels.values.any(axis=(1, 2)).tolist() == [n == 4 for n in range(10)]
