"""Clean-up of masks: only where the manifest asks, and only what it asks."""

from __future__ import annotations

import cc3d
import numpy as np
import pytest
from conftest import two_organ_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmate_cli import components
from segmate_cli.bundle import CleanUp
from segmate_cli.clean_up import clean_up, drop_parts, fill_holes
from segmate_cli.masks import bounding_box
from segmate_cli.planes import PackedPlanes

VOXEL_ML = 0.008


def keep_components(mask: np.ndarray, *, largest: bool, least_voxels: float) -> np.ndarray:
    values = mask.astype(np.uint8)
    rule = CleanUp(largest_component=largest, min_component_ml=least_voxels)
    drop_parts(values, {1: rule}, voxel_ml=1.0)
    return values == 1


def holes(mask: np.ndarray) -> np.ndarray:
    values = mask.astype(np.uint8)
    fill_holes(values, 1)
    return (values == 1) & ~mask


def labels() -> np.ndarray:
    """A liver of 27 voxels with a hole, and crumbs of 4 and 1; a spleen in two parts."""
    values = np.zeros((9, 12, 12), np.uint8)
    values[1:4, 1:4, 1:4] = 1
    values[2, 2, 2] = 0
    values[6, 1:3, 1:3] = 1
    values[8, 11, 11] = 1
    values[5:8, 6:8, 6:8] = 2
    values[1, 9, 9] = 2
    return values


def cleaned(values: np.ndarray, **rules: dict[str, object]) -> np.ndarray:
    out = values.copy()
    clean_up(out, two_organ_manifest(**rules), VOXEL_ML)
    return out


def test_off_unless_the_manifest_asks():
    assert np.array_equal(cleaned(labels()), labels())
    assert np.array_equal(cleaned(labels(), liver={}), labels())


def test_the_largest_component_stays_and_the_other_organ_is_untouched():
    found = cleaned(labels(), liver={"largest_component": True})
    assert np.count_nonzero(found == 1) == 26
    assert found[2, 2, 2] == 0
    assert np.array_equal(found == 2, labels() == 2)


@pytest.mark.parametrize(
    ("least_ml", "kept"), [(0.001, 31), (2 * VOXEL_ML, 30), (4.5 * VOXEL_ML, 26), (1.0, 0)]
)
def test_parts_that_are_too_small_go(least_ml, kept):
    found = cleaned(labels(), liver={"min_component_ml": least_ml})
    assert np.count_nonzero(found == 1) == kept


def test_a_largest_part_that_is_too_small_goes_too():
    rule = {"largest_component": True, "min_component_ml": 1.0}
    assert not (cleaned(labels(), liver=rule) == 1).any()


def test_holes_are_filled_and_bays_are_not():
    values = labels()
    values[1:4, 1:4, 5] = 1  # a sheet beside the liver makes a bay, open above and below
    found = cleaned(values, liver={"fill_holes": True})
    want = values.copy()
    want[2, 2, 2] = 1
    assert np.array_equal(found, want)


def test_filling_takes_nothing_from_another_organ():
    values = np.ones((5, 5, 5), np.uint8)
    values[2, 2, 2], values[2, 2, 3] = 2, 0
    found = cleaned(values, liver={"fill_holes": True})
    assert found[2, 2, 2] == 2
    assert found[2, 2, 3] == 1


def test_a_hole_open_by_an_edge_only_is_shut():
    # 6-connected background against 26-connected organ: an edge is no way out.
    values = np.ones((3, 3, 3), np.uint8)
    values[1, 1, 1] = values[0, 0, 1] = 0
    padded = np.pad(values, 1)
    assert cleaned(padded, liver={"fill_holes": True})[2, 2, 2] == 1


def test_parts_that_touch_by_a_corner_are_one():
    values = np.zeros((4, 4, 4), np.uint8)
    values[0, 0, 0] = values[1, 1, 1] = values[3, 3, 3] = 1
    found = cleaned(values, liver={"largest_component": True})
    assert np.argwhere(found).tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 8), (8, 1, 8), (8, 8, 1)])
@pytest.mark.parametrize("value", [0, 1])
def test_empty_full_and_flat_volumes(shape, value):
    values = np.full(shape, value, np.uint8)
    rule = {"largest_component": True, "fill_holes": True}
    assert np.array_equal(cleaned(values, liver=rule, spleen=rule), values)


def test_a_hole_at_the_edge_of_the_scan_is_no_hole():
    values = np.ones((4, 4, 4), np.uint8)
    values[0, 2, 2] = 0
    assert np.array_equal(cleaned(values, liver={"fill_holes": True}), values)


masks = st.binary(min_size=60, max_size=60).map(
    lambda data: (np.frombuffer(data, np.uint8) % 3 > 0).reshape(3, 4, 5)
)


@settings(deadline=None)
@given(masks)
def test_filling_only_adds_keeping_only_takes_and_twice_is_once(mask):
    filled = mask | holes(mask)
    assert not (mask & holes(mask)).any()
    assert not holes(filled).any()
    kept = keep_components(mask, largest=True, least_voxels=0)
    assert not (kept & ~mask).any()
    assert kept.any() == mask.any()
    assert np.array_equal(keep_components(kept, largest=True, least_voxels=0), kept)
    assert np.array_equal(keep_components(mask, largest=False, least_voxels=0), mask)


@settings(deadline=None)
@given(masks)
def test_scipy_agrees(mask):
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is not installed")
    assert np.array_equal(mask | holes(mask), ndimage.binary_fill_holes(mask))
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    kept = keep_components(mask, largest=True, least_voxels=0)
    sizes = np.bincount(parts.ravel())[1:]
    assert np.count_nonzero(kept) == (sizes.max() if count else 0)


def whole(labels: np.ndarray, rules: list[CleanUp]) -> None:
    """The same clean-up on the volume as a whole, organ after organ, as it was first written."""
    for value, rule in enumerate(rules, 1):
        box = bounding_box(labels == value)
        if box is None:
            continue
        part = labels[box]
        mask = part == value
        found = cc3d.connected_components(mask.astype(np.uint8), connectivity=26)
        sizes = np.bincount(found.reshape(-1))
        sizes[0] = 0
        keep = sizes >= max(1.0, rule.min_component_ml / VOXEL_ML)
        if rule.largest_component:
            keep &= np.arange(sizes.size) == sizes.argmax()
        kept = keep[found]
        part[mask & ~kept] = 0
        if rule.fill_holes:
            outside = np.pad(~kept, 1, constant_values=True)
            parts = cc3d.connected_components(outside.astype(np.uint8), connectivity=6)
            shut_in = (outside & (parts != parts[0, 0, 0]))[1:-1, 1:-1, 1:-1]
            part[shut_in & (part == 0)] = value


rules = st.builds(
    CleanUp,
    largest_component=st.booleans(),
    fill_holes=st.booleans(),
    min_component_ml=st.sampled_from([0.0, 2 * VOXEL_ML, 3.5 * VOXEL_ML, 20 * VOXEL_ML]),
)
shapes = st.tuples(st.integers(1, 12), st.integers(1, 7), st.integers(1, 7))


@settings(deadline=None, max_examples=300)
@given(shapes, st.integers(0, 10**6), st.floats(0.2, 0.9), rules, rules, st.sampled_from([1, 2, 8]))
def test_slab_by_slab_is_the_same_as_all_at_once(shape, seed, share, liver, spleen, slab):
    rng = np.random.default_rng(seed)
    values = rng.choice(3, shape, p=[1 - share, share / 2, share / 2]).astype(np.uint8)
    want = values.copy()
    whole(want, [liver, spleen])
    packed = PackedPlanes(shape)
    for k, plane in enumerate(values):
        packed[k] = plane
    before, components._SLAB_PLANES = components._SLAB_PLANES, slab
    try:
        rules = {"liver": liver.model_dump(), "spleen": spleen.model_dump()}
        clean_up(packed, two_organ_manifest(**rules), VOXEL_ML)
    finally:
        components._SLAB_PLANES = before
    assert np.array_equal(np.stack(list(packed)), want)


def test_a_snake_through_all_slabs_is_one_part():
    # Down one side, along the last plane, up the other: two parts until the very last slab.
    values = np.zeros((40, 5, 5), np.uint8)
    values[:, 0, 0] = values[:, 4, 4] = values[39, :, 0] = values[39, 4, :] = 1
    values[:30, 2, 2] = 1
    found = cleaned(values, liver={"largest_component": True})
    assert np.count_nonzero(found) == np.count_nonzero(values) - 30


def test_of_equal_parts_the_first_stays():
    values = np.zeros((20, 3, 3), np.uint8)
    values[[1, 9, 18], 1, 1] = 1
    found = cleaned(values, liver={"largest_component": True})
    assert np.argwhere(found).tolist() == [[1, 1, 1]]
