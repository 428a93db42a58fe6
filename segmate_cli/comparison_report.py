"""Comparisons as a table for people, CSV or TSV by case and organ, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from segmate_cli.comparison import CaseChange, OrganChange
from segmate_cli.report import ReportFormat, align, rounded, rounded_volume, separated, volume_text

SCHEMA = "segmate-comparison"
SCHEMA_VERSION = 1
COLUMNS = (
    *("case", "organ", "volume_a_ml", "volume_b_ml", "change_ml", "change_percent"),
    *("is_lower_bound", "dice", "only_a_ml", "only_b_ml", "moved_mm", "where", "became"),
    *("came_from", "status_a", "status_b", "change_low_ml", "change_high_ml"),
)
_UNKNOWN = "-"


def render_comparison(cases: Sequence[CaseChange], style: ReportFormat) -> str:
    """Comparisons as text that ends in a newline.

    Args:
        cases: What was compared.
        style: The table shows organs, of several cases summaries; CSV and TSV have a row a case
            and organ; JSON has all.
    """
    changes = [change for case in cases for change in case.organs]
    if style == "csv" or style == "tsv":
        flat = [{**row, **_flat(row)} for row in map(_row, changes)]
        return separated(flat, COLUMNS, style)
    if style == "json":
        content = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "cases": [
                {
                    "case": case.case,
                    "same_voxels": case.same_voxels,
                    "changed_share": rounded(case.changed_share, 6),
                }
                for case in cases
            ],
            "rows": [_row(change) for change in changes],
            "organs": _summaries(changes),
        }
        return json.dumps(content, indent=2) + "\n"
    return _one(cases[0]) if len(cases) == 1 else _many(cases, changes)


def _row(change: OrganChange) -> dict[str, Any]:
    low, high = change.change_interval_ml or (None, None)
    return {
        "case": change.case,
        "organ": change.organ,
        "volume_a_ml": rounded_volume(change.volume_a_ml),
        "volume_b_ml": rounded_volume(change.volume_b_ml),
        "change_ml": rounded(change.change_ml, 3),
        "change_percent": rounded(change.change_percent, 2),
        "is_lower_bound": change.is_lower_bound,
        "dice": rounded(change.dice, 4),
        "only_a_ml": rounded(change.only_a_ml, 3),
        "only_b_ml": rounded(change.only_b_ml, 3),
        "moved_mm": rounded(change.moved_mm, 2),
        "where": list(change.where),
        "became": {name: round(share, 4) for name, share in change.became},
        "came_from": {name: round(share, 4) for name, share in change.came_from},
        "status_a": change.status_a,
        "status_b": change.status_b,
        "change_low_ml": rounded(low, 3),
        "change_high_ml": rounded(high, 3),
    }


def _flat(row: dict[str, Any]) -> dict[str, str]:
    """Lists as text for one cell."""
    return {
        "where": " ".join(row["where"]),
        **{
            name: "; ".join(f"{key} {share}" for key, share in row[name].items())
            for name in ("became", "came_from")
        },
    }


def _one(case: CaseChange) -> str:
    header = ["organ", "a, ml", "b, ml", "change, ml", "change, %"]
    voxels = ["dice", "only a, ml", "only b, ml", "moved, mm", "mostly", "was or is now"]
    known = any(each.change_interval_ml for each in case.organs)
    header += ["between, ml"] if known else []
    lines = [header + voxels if case.same_voxels else header]
    for each in case.organs:
        line = [each.organ, _volume(each.volume_a_ml), _volume(each.volume_b_ml)]
        line += [_signed(each.change_ml), _signed(each.change_percent)]
        line += [_between(each)] if known else []
        if case.same_voxels:
            line += [_number(each.dice, 3), _number(each.only_a_ml), _number(each.only_b_ml)]
            line += [_number(each.moved_mm), " ".join(each.where) or _UNKNOWN, _others(each)]
        lines.append(line)
    text = align(lines)
    if known:
        text += "\n*: 0 lies outside of what the change lies between, so that there is one.\n"
    bounds = [each.organ for each in case.organs if each.is_lower_bound]
    if bounds:
        text += (
            f"\ncut by the edge in one of them, so the change is not known: {', '.join(bounds)}\n"
        )
    if not case.same_voxels:
        return text + "\nThe two lie on different voxels: volumes alone are compared.\n"
    share = case.changed_share
    return text + (f"\n{100 * share:.3g} % of the labelled voxels differ.\n" if share else "\n")


def _between(change: OrganChange) -> str:
    """The interval; a star where it leaves out 0, so that there is a change."""
    if change.change_interval_ml is None:
        return _UNKNOWN
    low, high = change.change_interval_ml
    return f"{low:+.1f} to {high:+.1f}{' *' if change.beyond_interval else ''}"


def _others(change: OrganChange) -> str:
    """What an organ was exchanged with, background aside."""
    names = [name for name, _ in (*change.became, *change.came_from) if name != "background"]
    return ", ".join(dict.fromkeys(names)) or _UNKNOWN


def _many(cases: Sequence[CaseChange], changes: Sequence[OrganChange]) -> str:
    header = ["organ", "cases", "dice", "worst", "in case", "change, %", "largest", "in case"]
    header += ["found in a alone", "in b alone"]
    known = any(change.change_interval_ml for change in changes)
    lines = [[*header, "beyond interval"] if known else header]
    for each in _summaries(changes):
        line = [each["organ"], str(each["cases"]), _number(each["mean_dice"], 3)]
        line += [_number(each["worst_dice"], 3), each["worst_dice_case"] or _UNKNOWN]
        line += [_signed(each["median_change_percent"]), _signed(each["largest_change_percent"])]
        line += [each["largest_change_case"] or _UNKNOWN]
        line += [str(each["found_in_a_alone"]), str(each["found_in_b_alone"])]
        line += [f"{each['beyond_interval']} of {each['with_interval']}"] if known else []
        lines.append(line)
    apart = [case.case for case in cases if not case.same_voxels]
    text = align(lines)
    if apart:
        text += f"\non different voxels, so volumes alone are compared: {', '.join(apart)}\n"
    return text


def _summaries(changes: Sequence[OrganChange]) -> list[dict[str, Any]]:
    return [
        _summary(key, [each for each in changes if each.organ == key])
        for key in dict.fromkeys(each.organ for each in changes)
    ]


def _summary(key: str, mine: Sequence[OrganChange]) -> dict[str, Any]:
    dices = [(each.dice, each.case) for each in mine if each.dice is not None]
    # A change of what is cut by the edge is not known.
    known = [
        (each.change_percent, each.case)
        for each in mine
        if each.change_percent is not None and not each.is_lower_bound
    ]
    worst = min(dices, default=(None, None))
    largest = max(known, key=lambda each: abs(each[0]), default=(None, None))
    beyond = [each.beyond_interval for each in mine if each.beyond_interval is not None]
    found = [(each.volume_a_ml is not None, each.volume_b_ml is not None) for each in mine]
    return {
        "organ": key,
        "cases": len(mine),
        "mean_dice": rounded(float(np.mean([d for d, _ in dices])), 4) if dices else None,
        "worst_dice": rounded(worst[0], 4),
        "worst_dice_case": worst[1],
        "median_change_percent": (
            rounded(float(np.median([c for c, _ in known])), 2) if known else None
        ),
        "largest_change_percent": rounded(largest[0], 2),
        "largest_change_case": largest[1],
        "found_in_a_alone": found.count((True, False)),
        "found_in_b_alone": found.count((False, True)),
        "with_interval": len(beyond),
        "beyond_interval": sum(beyond),
    }


def _volume(value: float | None) -> str:
    return _UNKNOWN if value is None else volume_text(value)


def _number(value: float | None, digits: int = 1) -> str:
    return _UNKNOWN if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:+.1f}"
