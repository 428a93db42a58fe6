"""Reports parse back, say what was not found, and never make a zero of it."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmate_cli import options, organs, report
from segmate_cli.doubt.words import OrganStatus
from segmate_cli.measurement import OrganStats

CUT = OrganStatus("truncated", ("inferior", "circle"), 0.123456, True, ("cut at two", "odd"))
WHOLE = OrganStatus("complete")
LIVER = OrganStats(organs.organ("liver"), 1_500_000, 1499.99961, 61.2345, 12.3456, True, CUT)
SPEC = OrganStats(organs.organ("gallbladder"), 1, 0.000125, None, None, False, WHOLE)
MISSING = OrganStatus("not_found", reasons=("not a voxel was found",))
GONE = OrganStats(organs.organ("spleen"), 0, None, None, None, False, MISSING)
ROWS = report.rows("scans/a.nii.gz", [LIVER, SPEC, GONE])
OTHER = report.rows('odd, "name"\t.nii.gz', [LIVER])


def parse(text: str, style: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter="," if style == "csv" else "\t"))


def test_the_columns_are_the_published_ones():
    published = (
        "scan organ volume_ml voxels mean_hu sd_hu touches_edge "
        "volume_pv_ml volume_low_ml volume_high_ml confidence agreement "
        "status is_lower_bound faces edge_share reasons verdict"
    )
    assert " ".join(report.COLUMNS) == published
    assert all(tuple(row) == report.COLUMNS for row in ROWS)


def test_rows_are_rounded_to_what_can_be_known():
    assert ROWS[0] == {
        "scan": "scans/a.nii.gz",
        "organ": "liver",
        "volume_ml": 1500.0,
        "voxels": 1_500_000,
        "mean_hu": 61.23,
        "sd_hu": 12.35,
        "touches_edge": True,
        **dict.fromkeys(("volume_pv_ml", "volume_low_ml", "volume_high_ml")),
        **dict.fromkeys(("confidence", "agreement")),
        "status": "truncated",
        "is_lower_bound": True,
        "faces": ["inferior", "circle"],
        "edge_share": 0.1235,
        "reasons": ["cut at two", "odd"],
        "verdict": None,
    }


def test_json_parses_back_and_says_its_schema():
    found = json.loads(report.render(ROWS, "json"))
    assert (found["schema"], found["schema_version"]) == ("segmate-report", 1)
    assert found["rows"] == ROWS
    assert found["rows"][2]["volume_ml"] is None
    assert found["rows"][2]["mean_hu"] is None


@pytest.mark.parametrize("style", ["csv", "tsv"])
def test_tables_for_programs_parse_back(style):
    text = report.render([*ROWS, *OTHER], style)
    found = parse(text, style)
    assert text.endswith("\n")
    assert "\r" not in text
    assert tuple(found[0]) == report.COLUMNS
    assert [row["scan"] for row in found] == [row["scan"] for row in [*ROWS, *OTHER]]
    assert float(found[0]["volume_ml"]) == 1500.0
    assert [row["touches_edge"] for row in found] == ["yes", "no", "no", "yes"]
    assert found[2] == {
        **dict.fromkeys(report.COLUMNS, ""),
        "scan": "scans/a.nii.gz",
        "organ": "spleen",
        "voxels": "0",
        "touches_edge": "no",
        "status": "not_found",
        "is_lower_bound": "no",
        "reasons": "not a voxel was found",
    }
    assert found[0]["faces"] == "inferior; circle"


def columns(text: str) -> list[list[str]]:
    import re

    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


def test_the_table_for_people():
    header, liver, speck, gone = columns(report.render(ROWS, "table"))
    numbers = ["organ", "volume_ml", "voxels", "mean_hu", "sd_hu", "touches_edge"]
    assert header == [*numbers, "status", "reasons"]
    assert liver[:6] == ["liver", ">=1500.0", "1500000", "61.2", "12.3", "yes"]
    assert liver[6:] == ["truncated", "cut at two; odd"]
    assert speck == ["gallbladder", "<0.1", "1", "-", "-", "no", "complete"]
    assert gone[:6] == ["spleen", "not found", "0", "-", "-", "no"]
    assert gone[6:] == ["not_found", "not a voxel was found"]


def test_the_table_leaves_out_empty_columns_and_names_scans_where_there_are_several():
    (header, *_) = columns(report.render(report.rows("a", [SPEC, GONE]), "table"))
    assert header == ["organ", "volume_ml", "voxels", "touches_edge", "status", "reasons"]
    (header, first, *_, last) = columns(report.render([*ROWS, *OTHER], "table"))
    assert header[0] == "scan"
    assert first[0] == "scans/a.nii.gz"
    assert last[2] == ">=1500.0"


@pytest.mark.parametrize("style", report.FORMATS)
def test_no_row_is_no_error(style):
    assert report.render([], style).endswith("\n")


@pytest.mark.parametrize("style", report.FORMATS)
@settings(deadline=None)
@given(st.floats(1e-7, 1e5))
def test_what_was_found_is_never_nothing(style, volume_ml):
    stats = OrganStats(organs.organ("heart"), 1, volume_ml, None, None, False, WHOLE)
    rows = report.rows("a", [stats])
    assert rows[0]["volume_ml"] == pytest.approx(volume_ml, rel=0.005, abs=0.0005)
    assert rows[0]["volume_ml"] > 0
    cell = columns(report.render(rows, "table"))[1][1]
    assert cell not in ("0.0", "0", "not found")
    text = report.render(rows, style)
    assert "not found" not in text


@pytest.mark.parametrize("style", report.FORMATS)
def test_what_was_not_found_is_never_zero(style):
    text = report.render(report.rows("a", [GONE]), style)
    assert "0.0" not in text
    assert ("not found" in text) == (style == "table")


def test_the_command_line_offers_every_format():
    assert options.FORMATS == report.FORMATS


def test_itksnap_reads_values_colours_and_titles():
    odd = organs.foreign_organ('the "odd" one', 300)
    lines = report.itksnap_labels({300: odd, 2: organs.organ("liver")}).splitlines()
    cells = [line.split('"')[0].split() for line in lines]
    assert [c[0] for c in cells] == ["0", "2", "300"]
    assert all(len(c) == 7 for c in cells)  # IDX R G B A VIS MSH, as ITK-SNAP's own files
    assert cells[1] == ["2", "150", "75", "50", "1", "1", "1"]
    assert [line.count('"') for line in lines] == [2, 2, 2]
    assert lines[2].endswith("\"The 'odd' one\"")
