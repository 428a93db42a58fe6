"""The published schemas fit what the commands write, refuse what is wrong, and are documented."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest
from cohort_maker import odd_cases, write_cohort
from conftest import ROOT
from look_maker import write_case
from test_comparison_report import two  # noqa: F401  (a fixture)

from segmate_cli import cli, cohort_report, comparison_report, report
from segmate_cli.schemas import SCHEMAS, ComparisonRow, ReportRow, columns, json_schema


def check(name: str, content: object) -> None:
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
    check("report", written)
    assert {row["status"] for row in written["rows"]} >= {"absent", "truncated"}


def test_a_report_without_a_scan_fits(tmp_path, run):
    labels, _ = write_case(tmp_path)
    _, out, _ = run("report", labels, "--format", "json")
    check("report", json.loads(out))


def test_a_report_of_what_predict_wrote_fits(tmp_path, run, tiny_bundle):
    from conftest import ball_scan

    scan = ball_scan(tmp_path / "scan.nii.gz")
    labels = tmp_path / "labels.nii.gz"
    run("predict", scan, "-o", labels, "--model", tiny_bundle)
    _, out, _ = run("report", labels, "--format", "json")
    check("report", json.loads(out))


def test_a_comparison_fits(two, run):  # noqa: F811
    _, out, _ = run("compare", *two, "--format", "json")
    check("comparison", json.loads(out))


def test_a_cohort_fits(tmp_path, run):
    out = write_cohort(tmp_path / "out", **odd_cases())
    other = write_cohort(tmp_path / "old", 30, seed=3)
    check("cohort", json.loads(run("cohort", out, "--format", "json")[1]))
    drifted = json.loads(run("cohort", out, "--reference", other, "--format", "json")[1])
    assert drifted["organs"][0]["drift"]
    check("cohort", drifted)


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
    assert tuple(SCHEMAS) == cli._SCHEMAS
    for name in SCHEMAS:
        code, out, _ = run("schema", name)
        assert code == 0
        assert json.loads(out) == json_schema(name)
        assert json.loads(out)["title"] == f"segmate-{name}"


def test_rows_have_the_columns_of_the_tables():
    assert tuple(columns(ReportRow)) == report.COLUMNS
    assert tuple(columns(ComparisonRow)) == comparison_report.COLUMNS
    assert cohort_report.COLUMNS[0] == "case"


def test_every_column_is_documented():
    text = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    for row in (ReportRow, ComparisonRow):
        for name, meaning in columns(row).items():
            assert meaning, name
            assert f"| `{name}` | {meaning} |" in text, (
                f"docs/tables.md: write | `{name}` | {meaning} |"
            )
