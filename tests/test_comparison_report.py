"""``segmate compare`` in a shell: tables, CSV, JSON; files and folders."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from look_maker import arrays
from test_comparison import write

from segmate_cli.comparison_report import COLUMNS


@pytest.fixture
def two(tmp_path):
    """Two runs over two cases; in the second run one liver lacks its upper quarter."""
    _, values = arrays()
    less = values.copy()
    less[10:12][less[10:12] == 1] = 0
    for run, first in (("a", values), ("b", less)):
        for case, content in (("one", first), ("two", values)):
            folder = tmp_path / run / case
            folder.mkdir(parents=True)
            path = write(folder / "labels.nii.gz", content)
            (path.parent / "ct_labels.nii.gz").unlink()
    return tmp_path / "a", tmp_path / "b"


def test_the_table_of_one_case(two, run):
    a, b = (folder / "one" / "labels.nii.gz" for folder in two)
    code, out, err = run("compare", a, b)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split("  ")[0] == "organ"
    liver = next(line for line in lines if line.startswith("liver"))
    assert "-25.0" in liver
    assert "superior" in liver
    assert "cut by the edge" in out
    assert "lung_right" in out
    assert "% of the labelled voxels differ" in out


def test_the_table_of_a_cohort_names_the_worst(two, run):
    code, out, _ = run("compare", *two)
    assert code == 0
    liver = next(line for line in out.splitlines() if line.startswith("liver")).split()
    assert liver[:5] == ["liver", "2", "0.929", "0.857", "one"]
    assert liver[5:8] == ["-12.5", "-25.0", "one"]


def test_csv_has_a_row_a_case_and_organ(two, run):
    _, out, _ = run("compare", *two, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 8
    first = next(row for row in rows if (row["case"], row["organ"]) == ("one", "liver"))
    assert float(first["change_percent"]) == -25.0
    assert (first["where"], first["became"]) == ("superior", "background 1.0")


def test_json_has_it_all(two, run, tmp_path):
    out = tmp_path / "c.json"
    assert run("compare", *two, "--format", "json", "-o", out)[:2] == (0, f"{out}\n")
    found = json.loads(out.read_text())
    assert (found["schema"], found["schema_version"]) == ("segmate-comparison", 1)
    assert [case["case"] for case in found["cases"]] == ["one", "two"]
    assert found["cases"][1]["changed_share"] == 0.0
    liver = next(each for each in found["organs"] if each["organ"] == "liver")
    assert liver["worst_dice_case"] == "one"
    assert np.isclose(liver["mean_dice"], (1 + 12 / 14) / 2, atol=1e-4)
    spleen = next(row for row in found["rows"] if row["organ"] == "spleen")
    assert spleen["volume_a_ml"] is None
    assert spleen["dice"] is None


def test_cases_of_one_run_alone_are_named(two, run):
    folder = two[1] / "three"
    folder.mkdir()
    write(folder / "labels.nii.gz", arrays()[1])
    (folder / "ct_labels.nii.gz").unlink()
    _, _, err = run("compare", *two)
    assert "three" in err


def test_wrong_usage(two, run, tmp_path):
    assert run("compare", two[0], tmp_path / "nothing")[0] == 6
    assert run("compare", two[0], two[1] / "one" / "labels.nii.gz")[0] == 2
    assert run("compare", *two, "-o", tmp_path / "a.html")[0] == 2
