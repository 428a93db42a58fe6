"""A change has the interval that independent errors give, and only where both volumes have one."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from look_maker import arrays, write_case
from test_comparison import write

from segmate_cli import files
from segmate_cli.volume_change import change_interval, intervals_of


def test_distances_to_the_ends_add_in_squares():
    low, high = change_interval(100.0, (97.0, 104.0), 90.0, (87.0, 94.0))
    assert low == pytest.approx(-10 - np.hypot(3, 4))
    assert high == pytest.approx(-10 + np.hypot(4, 3))


def test_coverage_is_that_of_the_volumes():
    """Of two volumes with independent errors and 90 % intervals, nine in ten changes are inside."""
    rng = np.random.default_rng(4)
    truth, half = np.array([1500.0, 1450.0]), 1.645 * np.array([30.0, 50.0])
    inside = 0
    for a, b in rng.normal(truth, [30.0, 50.0], (4000, 2)):
        low, high = change_interval(a, (a - half[0], a + half[0]), b, (b - half[1], b + half[1]))
        inside += low <= -50 <= high
    assert inside / 4000 == pytest.approx(0.9, abs=0.015)


def test_a_volume_outside_its_own_interval_makes_no_negative_width():
    low, high = change_interval(100.0, (101.0, 104.0), 90.0, (80.0, 89.0))
    assert low <= -10 <= high


def with_sidecar(path, **organs):
    """A sidecar with intervals, as a run with --uncertainty leaves it."""
    rows = [
        {"organ": key, "volume_low_ml": ends[0], "volume_high_ml": ends[1]}
        for key, ends in organs.items()
    ]
    content = {
        "schema": "segmate-labels",
        "output": {"file_sha256": files.sha256_of_file(path)},
        "doubt": {"organs": rows},
    }
    path.with_name("labels.json").write_text(json.dumps(content))
    return path


@pytest.fixture
def two(tmp_path):
    """A label map, and the same with less of the liver: 30.7 and 23.0 ml."""
    _, values = arrays()
    less = values.copy()
    less[10:12][less[10:12] == 1] = 0
    paths = []
    for name, content in (("a", values), ("b", less)):
        (tmp_path / name).mkdir()
        paths.append(write(tmp_path / name / "labels.nii.gz", content))
    return paths


def rows_of(run, two, *more):
    _, out, _ = run("compare", *two, "--format", "csv", *more)
    return {row["organ"]: row for row in csv.DictReader(io.StringIO(out))}


def test_a_change_that_is_one_is_marked(two, run):
    with_sidecar(two[0], liver=(30.0, 31.5), kidney_left=(4.0, 5.0), lung_right=(40.0, 41.0))
    with_sidecar(two[1], liver=(22.5, 24.0), kidney_left=(4.0, 5.0), lung_right=(40.0, 41.0))
    rows = rows_of(run, two)
    assert float(rows["liver"]["change_high_ml"]) < 0
    assert (
        float(rows["kidney_left"]["change_low_ml"])
        < 0
        < float(rows["kidney_left"]["change_high_ml"])
    )
    assert rows["lung_right"]["change_low_ml"] == ""  # it is cut: a lower bound
    _, text, _ = run("compare", *two)
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert " * " in lines["liver"]
    assert " * " not in lines["kidney_left"]
    assert "0 lies outside" in text


def test_without_both_there_is_none(two, run):
    with_sidecar(two[0], liver=(30.0, 31.5))
    assert rows_of(run, two)["liver"]["change_low_ml"] == ""
    assert "between, ml" not in run("compare", *two)[1]


def test_cohorts_count_the_changes_that_are_some(two, run):
    with_sidecar(two[0], liver=(30.0, 31.5), kidney_left=(4.0, 5.0))
    with_sidecar(two[1], liver=(22.5, 24.0), kidney_left=(4.0, 5.0))
    _, out, _ = run("compare", *two, "--format", "json")
    organs = {each["organ"]: each for each in json.loads(out)["organs"]}
    assert (organs["liver"]["with_interval"], organs["liver"]["beyond_interval"]) == (1, 1)
    assert organs["kidney_left"]["beyond_interval"] == 0
    assert organs["spleen"]["with_interval"] == 0


@pytest.mark.parametrize("doubt", [None, [], {"organs": None}, {"organs": [3, {"organ": "x"}]}])
def test_odd_sidecars_have_no_intervals(tmp_path, doubt):
    path, _ = write_case(tmp_path)
    with_sidecar(path)
    content = json.loads((tmp_path / "labels.json").read_text())
    (tmp_path / "labels.json").write_text(json.dumps({**content, "doubt": doubt}))
    assert intervals_of(path) == {}
    with_sidecar(path, liver=(2.0, 1.0))
    assert intervals_of(path) == {}


def test_a_changed_file_has_none(two):
    with_sidecar(two[0], liver=(30.0, 31.5))
    assert intervals_of(two[0]) == {"liver": (30.0, 31.5)}
    two[0].write_bytes(two[1].read_bytes())
    assert intervals_of(two[0]) == {}
