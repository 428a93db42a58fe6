"""Measurements as a table for people, CSV or TSV for spreadsheets, JSON for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from segmate_cli.doubt.record import status_row
from segmate_cli.doubt.words import Verdict
from segmate_cli.measurement import OrganStats
from segmate_cli.organs import Organ

ReportFormat = Literal["table", "csv", "tsv", "json"]
FORMATS: tuple[str, ...] = get_args(ReportFormat)
SCHEMA = "segmate-report"
SCHEMA_VERSION = 1

COLUMNS = (
    *("scan", "organ", "volume_ml", "voxels", "mean_hu", "sd_hu", "touches_edge"),
    *("volume_pv_ml", "volume_low_ml", "volume_high_ml", "confidence", "agreement"),
    *("status", "is_lower_bound", "faces", "edge_share", "reasons", "verdict"),
)
# What was found is never shown as 0.0.
_LEAST_SHOWN_ML = 0.1


def rows(
    scan: str, stats: Sequence[OrganStats], verdict: Verdict | None = None
) -> list[dict[str, Any]]:
    """One flat row an organ, with the columns that COLUMNS names.

    Args:
        scan: Name of the scan or label map.
        stats: Of its organs.
        verdict: Of the whole, the same in each row; None where there is none.
    """
    return [
        {
            "scan": scan,
            "organ": each.organ.key,
            "volume_ml": rounded_volume(each.volume_ml),
            "voxels": each.voxels,
            "mean_hu": rounded(each.mean_hu, 2),
            "sd_hu": rounded(each.sd_hu, 2),
            "touches_edge": each.touches_edge,
            **status_row(each.status, each.certainty),
            "verdict": verdict.word if verdict else None,
        }
        for each in stats
    ]


def render(
    table: Sequence[dict[str, Any]],
    style: ReportFormat,
    verdicts: Mapping[str, Verdict] | None = None,
) -> str:
    """Rows as text that ends in a newline; JSON also holds the verdicts, by scan."""
    if style == "json":
        scans = [{"scan": scan, **each.as_dict()} for scan, each in (verdicts or {}).items()]
        content = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "scans": scans,
            "rows": list(table),
        }
        return json.dumps(content, indent=2) + "\n"
    if style == "table":
        return _aligned(table)
    return separated(table, COLUMNS, style)


def separated(
    table: Sequence[dict[str, Any]], columns: Sequence[str], style: Literal["csv", "tsv"]
) -> str:
    """Rows as CSV or TSV with a header; unknown values are empty."""
    text = io.StringIO()
    delimiter = "," if style == "csv" else "\t"
    writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in table)
    return text.getvalue()


def itksnap_labels(organs: dict[int, Organ]) -> str:
    """A label description file that ITK-SNAP loads beside the label map."""
    lines = ['    0     0    0    0        0  0  0    "Clear Label"']
    for value, organ in sorted(organs.items()):
        red, green, blue = organ.rgb
        title = organ.title.replace('"', "'")
        lines.append(f'{value:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "{title}"')
    return "\n".join(lines) + "\n"


def _aligned(table: Sequence[dict[str, Any]]) -> str:
    # One scan needs no column for its name, and a report without a CT none for HU.
    hidden = set() if len({row["scan"] for row in table}) > 1 else {"scan"}
    hidden |= {c for c in ("mean_hu", "sd_hu") if all(row[c] is None for row in table)}
    hidden |= {"is_lower_bound", "edge_share", "faces", "verdict"}  # for programs
    hidden |= {"volume_pv_ml", "confidence", "agreement"}
    if all(row["volume_low_ml"] is None for row in table):
        hidden |= {"volume_low_ml", "volume_high_ml"}
    used = [name for name in COLUMNS if name not in hidden]
    return align([used, *([_shown(name, row) for name in used] for row in table)])


def align(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns: text to the left, numbers to the right; the first line is the header."""
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    left = [not any(cell[:1].isdigit() for cell in column[1:]) for column in columns]
    padded = (
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    )
    return "\n".join(padded) + "\n"


def _shown(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if name == "volume_ml":
        if value is None:
            return "not in view" if row["status"] == "absent" else "not found"
        return volume_text(value, row["is_lower_bound"])
    if name in ("mean_hu", "sd_hu", "volume_low_ml", "volume_high_ml"):
        return "-" if value is None else f"{value:.1f}"
    return cell(value)


def volume_text(volume_ml: float, is_lower_bound: bool = False) -> str:
    """A volume that was found, for people."""
    shown = f"{volume_ml:.1f}" if volume_ml >= _LEAST_SHOWN_ML else f"<{_LEAST_SHOWN_ML}"
    return f">={shown}" if is_lower_bound else shown


def cell(value: Any) -> str:
    """A value as a table shows it: unknown is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return "; ".join(map(cell, value))
    return str(value)


def rounded_volume(volume_ml: float | None) -> float | None:
    """To a microlitre, or to three digits where that would round a single small voxel away."""
    if volume_ml is None or volume_ml >= 1:
        return rounded(volume_ml, 3)
    return max(round(volume_ml, 3), float(f"{volume_ml:.3g}"), key=lambda r: -abs(r - volume_ml))


def rounded(value: float | None, digits: int) -> float | None:
    """A number with so many decimals; None stays None."""
    return None if value is None else round(value, digits)
