"""A scan shown otherwise: the labels stay where they are, intervals hold what they should."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ball_scan, write_bundle

from segmate_cli import pipeline, scans
from segmate_cli.bundle import open_bundle
from segmate_cli.planes import PackedPlanes
from segmate_cli.variants import Variant, interval, overlap, variants_of


def test_what_is_moved_comes_back():
    stacks = np.random.default_rng(1).normal(size=(2, 3, 16, 24)).astype(np.float32)
    moved = Variant("moved", moved=(5, 7))
    assert not np.array_equal(moved.given(stacks), stacks)
    assert np.array_equal(moved.taken(moved.given(stacks)), stacks)
    plain = Variant("as it is")
    assert plain.given(stacks) is stacks
    assert np.allclose(Variant("brighter", brighter=0.5).given(stacks), stacks + 0.5)


def test_half_a_step_is_for_models_whose_scores_are_mixed(tmp_path):
    nearest = open_bundle(write_bundle(tmp_path / "nearest")).manifest
    scores = write_bundle(tmp_path / "scores", preprocessing__resampling={"labels": "scores"})
    names = [each.name for each in variants_of(open_bundle(scores).manifest)]
    assert names == ["half a slice on", *(each.name for each in variants_of(nearest))]
    assert len(variants_of(nearest)) == 2


def test_overlap_counts_by_value():
    one, other = PackedPlanes((1, 2, 3)), PackedPlanes((1, 2, 3))
    one[0] = np.array([[1, 1, 2], [0, 0, 2]], np.uint8)
    other[0] = np.array([[1, 2, 2], [1, 0, 0]], np.uint8)
    found = overlap(one, other, 2)
    assert found.base[1:].tolist() == [2, 2]
    assert found.variant[1:].tolist() == [2, 2]
    assert found.both[1:].tolist() == [1, 1]


def test_an_interval_is_wider_where_variants_differ_and_never_nothing():
    sure, unsure = interval("liver", [1.0, 1.0, 1.0]), interval("liver", [0.8, 1.2, 1.0])
    assert 0.8 < sure[0] < 1 < sure[1] < 1.2
    assert unsure[0] < sure[0]
    assert unsure[1] > sure[1]
    assert interval("esophagus", [1.0])[1] > sure[1]
    assert interval("liver", [0.0, 1.0, 1.0])[0] > 0


@pytest.fixture
def mixed_bundle(tmp_path):
    return write_bundle(tmp_path / "mixed", preprocessing__resampling={"labels": "scores"})


@pytest.mark.parametrize("spacing_mm", [0.8, 2.0])
def test_a_ball_agrees_with_itself_however_it_is_shown(tmp_path, mixed_bundle, spacing_mm):
    scan = scans.find_scan(ball_scan(tmp_path / "a.nii.gz", 40, spacing_mm))
    options = pipeline.PredictOptions(check_hu=False, uncertainty=True)
    plain = pipeline.segment(scan, mixed_bundle, pipeline.PredictOptions(check_hu=False))
    found = pipeline.segment(scan, mixed_bundle, options)
    assert np.array_equal(plain.labels().values, found.labels().values)
    (liver,) = found.run["doubt"]["organs"]
    # Half a voxel aside at most; a variant taken back to the wrong place would be far lower.
    assert liver["agreement"] > 0.9
    assert liver["volume_low_ml"] < liver["volume_ml"] < liver["volume_high_ml"]
    assert plain.run["doubt"]["organs"][0]["volume_low_ml"] is None


def test_the_plan_knows_of_the_second_label_map(tmp_path, mixed_bundle):
    scan = scans.find_scan(ball_scan(tmp_path / "a.nii.gz", 96))
    bundle = open_bundle(mixed_bundle)
    sizes = [
        pipeline.plan_for(scan, bundle, pipeline.PredictOptions(uncertainty=each)).least_cap_bytes
        for each in (False, True)
    ]
    assert sizes[1] > sizes[0]


def test_the_command_line_gives_intervals(run, tmp_path, mixed_bundle):
    labels = tmp_path / "labels.nii.gz"
    scan = ball_scan(tmp_path / "a.nii.gz")
    assert run("predict", scan, "-o", labels, "--model", mixed_bundle, "--uncertainty")[0] == 0
    assert json.loads((tmp_path / "labels.json").read_text())["options"]["uncertainty"] is True
    (row,) = json.loads(run("report", labels, "--format", "json")[1])["rows"]
    assert row["volume_low_ml"] < row["volume_ml"] < row["volume_high_ml"]
    assert "volume_low_ml" in run("report", labels)[1]
