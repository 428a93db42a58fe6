"""Clean-up of masks: only where the manifest asks, and only what it asks."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import manifest_dict, threshold_network
from hypothesis import given, settings
from hypothesis import strategies as st

from segmate_cli.bundle import Manifest
from segmate_cli.clean_up import clean_up, holes, keep_components

VOXEL_ML = 0.008


def manifest(**rules: dict[str, object]) -> Manifest:
    raw = manifest_dict(
        threshold_network(),
        organs=[{"key": "liver", "channel": 0}, {"key": "spleen", "channel": 1}],
        network__channels=2,
        clean_up=rules,
    )
    import json

    return Manifest.model_validate_json(json.dumps(raw))


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
    clean_up(out, manifest(**rules), VOXEL_ML)
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
