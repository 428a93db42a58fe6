"""``segmate cohort`` in a shell."""

from __future__ import annotations

import csv
import io
import json

import pytest
from cohort_maker import odd_cases, of_scanners, write_cohort, write_records

from segmate_cli.cohort_report import COLUMNS


@pytest.fixture
def out(tmp_path):
    return write_cohort(tmp_path / "out", **odd_cases())


def test_the_table(out, run):
    code, text, err = run("cohort", out)
    assert (code, err) == (0, "")
    assert text.startswith("46 cases: ")
    assert "to review:" in text
    assert "broken" in text
    assert "drift" not in text


def test_csv_has_a_row_a_case_organ_and_measure(out, run):
    rows = list(csv.DictReader(io.StringIO(run("cohort", out, "--format", "csv")[1])))
    assert tuple(rows[0]) == COLUMNS
    huge = [row for row in rows if row["case"] == "huge" and row["is_outlier"] == "yes"]
    assert [(row["organ"], row["measure"]) for row in huge] == [("liver", "volume_ml")]


def test_json(out, run, tmp_path):
    target = tmp_path / "cohort.json"
    assert run("cohort", out, "-o", target)[:2] == (0, f"{target}\n")
    found = json.loads(target.read_text())
    assert (found["schema"], found["schema_version"]) == ("segmate-cohort", 1)
    assert found["cases"] == 46
    liver = found["organs"][0]
    assert (liver["organ"], liver["not_found"], liver["cut"]) == ("liver", 1, 1)
    assert liver["q1"] < liver["median"] < liver["q3"]
    assert liver["drift"] is None
    assert found["review"][0]["case"] == "broken"


def test_scanners_and_months(tmp_path, run):
    out = write_records(tmp_path / "out", of_scanners(scale=1.35))
    _, text, _ = run("cohort", out)
    assert text.count("ACME One: ") == 3
    assert "Other, kernel B30f: Liver, ml: median " in text
    found = json.loads(run("cohort", out, "--format", "json")[1])
    trends = [each for each in found["trends"] if each["group"] == "ACME One"]
    assert [each["against_others"]["alarm"] for each in trends] == [True, False] * 3
    rows = list(csv.DictReader(io.StringIO(run("cohort", out, "--format", "csv")[1])))
    assert {row["month"] for row in rows} == {f"2025-0{n}" for n in (1, 2, 3, 4)}
    assert {row["scanner"] for row in rows} == {"ACME One", "Other, kernel B30f"}


def test_drift_against_a_reference(out, run, tmp_path):
    other = write_cohort(tmp_path / "new", 50, scale=1.3, seed=3)
    _, text, _ = run("cohort", other, "--reference", out)
    assert text.count("ALARM") == 3
    found = json.loads(run("cohort", other, "--reference", out, "--format", "json")[1])
    assert found["organs"][0]["drift"]["alarm"] is True


def test_wrong_usage(out, run, tmp_path):
    assert run("cohort", tmp_path / "nothing")[0] == 6
    assert run("cohort", out, "--reference", tmp_path)[0] in (0, 6)
    assert run("cohort", out, "--format", "html")[0] == 2
    assert run("cohort", out, "-o", tmp_path / "a.png")[0] == 2


def test_what_is_no_batchs_folder_is_bad_input(run, tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(b"")
    for given in (tmp_path, tmp_path / "scan.nii.gz", tmp_path / "missing"):
        code, _, err = run("cohort", given)
        assert code == 6
        assert "no case of a batch lies there" in err
