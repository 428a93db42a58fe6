"""The published schemas fit what the commands write, refuse what is wrong, and are documented."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest
from cohort_maker import odd_cases, of_scanners, write_cohort, write_records
from conftest import ROOT
from look_maker import write_case
from test_comparison_report import two  # noqa: F401  (a fixture)

from segmate_cli import cohort_report, comparison_report, options, report, score_report
from segmate_cli.schemas import (
    SCHEMAS,
    ComparisonRow,
    ReportRow,
    ScoreRow,
    columns,
    json_schema,
)


def assert_fits(name: str, content: object) -> None:
    schema = json_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(content, schema)
    SCHEMAS[name].model_validate_json(json.dumps(content))


@pytest.fixture
def written(tmp_path, run):
    """A report's JSON: of the scan, with an organ that is cut and one that is not there."""
    labels, scan = write_case(tmp_path)
    _, out, _ = run("report", labels, "--ct", scan, "--format", "json")
    return json.loads(out)


def test_a_report_fits(written):
    assert_fits("report", written)
    assert {row["status"] for row in written["rows"]} >= {"absent", "truncated"}


def test_a_report_without_a_scan_fits(tmp_path, run):
    labels, _ = write_case(tmp_path)
    _, out, _ = run("report", labels, "--format", "json")
    assert_fits("report", json.loads(out))


def test_a_report_of_what_predict_wrote_fits(tmp_path, run, tiny_bundle):
    from conftest import ball_scan

    scan = ball_scan(tmp_path / "scan.nii.gz")
    labels = tmp_path / "labels.nii.gz"
    run("predict", scan, "-o", labels, "--model", tiny_bundle)
    _, out, _ = run("report", labels, "--format", "json")
    assert_fits("report", json.loads(out))


@pytest.fixture
def sidecar(tmp_path, run, tiny_bundle):
    """Of a NIfTI scan."""
    from conftest import ball_scan

    scan = ball_scan(tmp_path / "scan.nii.gz")
    run("predict", scan, "-o", tmp_path / "labels.nii.gz", "--model", tiny_bundle)
    return json.loads((tmp_path / "labels.json").read_text())


def test_a_sidecar_fits(sidecar):
    assert_fits("sidecar", sidecar)


def test_a_sidecar_with_findings_fits(tmp_path, run):
    from conftest import ball_scan, write_bundle

    scan = ball_scan(tmp_path / "scan.nii.gz")
    model = write_bundle(tmp_path / "model", gates="adult_ct")  # which a ball is not
    assert run("predict", scan, "-o", tmp_path / "labels.nii.gz", "--model", model)[0] == 3
    content = json.loads((tmp_path / "labels.json").read_text())
    assert_fits("sidecar", content)
    assert len(content["doubt"]["gates"]) > 10
    assert content["doubt"]["findings"]


def test_a_sidecar_of_uneven_dicom_fits(tmp_path, run, tiny_bundle):
    from dicom_maker import make_series
    from test_dicom_uneven import GAPPY

    make_series(tmp_path / "dicom", GAPPY)
    labels = tmp_path / "labels.nii.gz"
    assert run("predict", tmp_path / "dicom", "-o", labels, "--model", tiny_bundle)[0] == 0
    content = json.loads((tmp_path / "labels.json").read_text())
    assert content["input"]["slice_places_lps_mm"]
    assert content["output"]["slice_of_plane"]
    assert_fits("sidecar", content)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("input", "pixels_sha256"), "abc"),
        (("labels", 0, "value"), 0),
        (("model",), None),
        (("patient",), "Doe^Jane"),
    ],
)
def test_a_wrong_sidecar_does_not_fit(sidecar, place, value):
    part = sidecar
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(sidecar, json_schema("sidecar"))


def test_scores_fit(tmp_path, run):
    labels, _ = write_case(tmp_path)
    out = run("evaluate", labels, labels, "--format", "json")[1]
    assert_fits("evaluate", json.loads(out))
    assert json.loads(out)["cases"]
    assert json.loads(out)["not_labelled"]


def test_a_comparison_fits(two, run):  # noqa: F811
    _, out, _ = run("compare", *two, "--format", "json")
    assert_fits("comparison", json.loads(out))


def test_a_cohort_fits(tmp_path, run):
    out = write_cohort(tmp_path / "out", **odd_cases())
    other = write_cohort(tmp_path / "old", 30, seed=3)
    assert_fits("cohort", json.loads(run("cohort", out, "--format", "json")[1]))
    scanners = write_records(tmp_path / "scanners", of_scanners())
    content = json.loads(run("cohort", scanners, "--format", "json")[1])
    assert content["trends"]
    assert_fits("cohort", content)
    drifted = json.loads(run("cohort", out, "--reference", other, "--format", "json")[1])
    assert drifted["organs"][0]["drift"]
    assert_fits("cohort", drifted)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("rows", 0, "volume_ml"), 0.0),
        (("rows", 0, "volume_ml"), "12"),
        (("rows", 0, "status"), "fine"),
        (("rows", 0, "more"), 1),
        (("schema_version",), 2),
        (("schema",), "other"),
    ],
)
def test_what_is_wrong_does_not_fit(written, place, value):
    broken = copy.deepcopy(written)
    part = broken
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, json_schema("report"))


def test_the_command_prints_them(run):
    assert tuple(SCHEMAS) == options.SCHEMAS
    for name in SCHEMAS:
        code, out, _ = run("schema", name)
        assert code == 0
        assert json.loads(out) == json_schema(name)
        title = json.loads(out)["title"]
        assert title == TITLES.get(name, f"segmate-{name}")
        assert json_schema(name)["properties"]["schema"]["const"] == title


TITLES = {"sidecar": "segmate-labels", "evaluate": "segmate-scores"}


def test_rows_have_the_columns_of_the_tables():
    assert tuple(columns(ReportRow)) == report.COLUMNS
    assert tuple(columns(ComparisonRow)) == comparison_report.COLUMNS
    assert tuple(columns(ScoreRow)) == score_report.COLUMNS
    assert cohort_report.COLUMNS[0] == "case"


def test_every_column_is_documented():
    text = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    for row in (ReportRow, ComparisonRow, ScoreRow):
        for name, meaning in columns(row).items():
            assert meaning, name
            assert f"| `{name}` | {meaning} |" in text, (
                f"docs/tables.md: write | `{name}` | {meaning} |"
            )
