"""A scan shown otherwise: the labels stay where they are, intervals hold what they should."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ball_scan, write_bundle

from segmate_cli import pipeline, scans
from segmate_cli.bundle import open_bundle
from segmate_cli.planes import PackedPlanes
from segmate_cli.variants import Variant, interval, no_interval_for, overlap, variants_of


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
    sure, unsure = interval(0.14, [1.0, 1.0, 1.0]), interval(0.14, [0.8, 1.2, 1.0])
    assert sure == pytest.approx((np.exp(-0.14), np.exp(0.14)))
    assert unsure[0] < sure[0]
    assert unsure[1] > sure[1]
    assert interval(0.32, [1.0])[1] > sure[1]
    assert interval(0.14, [0.0, 1.0, 1.0])[0] > 0


INTERVALS = {"half_widths": {"liver": 0.2}, "share": 0.9, "note": "made up"}


@pytest.fixture
def mixed_bundle(tmp_path):
    return write_bundle(
        tmp_path / "mixed", preprocessing__resampling={"labels": "scores"}, intervals=INTERVALS
    )


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
    # At least as wide as the manifest says of this organ, and hardly wider where all agree.
    half = np.log(liver["volume_high_ml"] / liver["volume_ml"])
    assert 0.199 < half < 0.25
    assert np.log(liver["volume_ml"] / liver["volume_low_ml"]) == pytest.approx(half, abs=1e-3)
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
    table = run("report", labels)[1]
    assert "volume_low_ml" in table
    assert f"  {row['volume_low_ml']:.1f}  " in table  # as the volume is shown


def test_a_model_that_nobody_measured_gives_no_interval_and_says_why(run, tmp_path, tiny_bundle):
    labels = tmp_path / "labels.nii.gz"
    scan = ball_scan(tmp_path / "a.nii.gz")
    code, _, err = run("predict", scan, "-o", labels, "--model", tiny_bundle, "--uncertainty")
    assert code == 0
    assert "No interval of the volume for any organ" in err
    (row,) = json.loads(run("report", labels, "--format", "json")[1])["rows"]
    assert (row["volume_low_ml"], row["volume_high_ml"]) == (None, None)
    assert row["agreement"] > 0.9
    plain = run("predict", scan, "-o", tmp_path / "plain.nii.gz", "--model", tiny_bundle)
    assert "interval" not in plain[2]


def test_organs_without_a_half_width_are_named(tmp_path):
    organs = [{"key": "liver", "channel": 0}, {"key": "spleen", "channel": 1}]
    bundle = write_bundle(tmp_path / "two", organs=organs, network__channels=2, intervals=INTERVALS)
    said = no_interval_for(open_bundle(bundle).manifest)
    assert said is not None
    assert "for spleen:" in said
