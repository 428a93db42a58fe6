"""A cohort as a table for people, CSV or TSV by case and organ, JSON for programs."""

from __future__ import annotations

import json
from typing import Any

from segmate_cli.cohort import GROUPS, Cohort, Distribution, Trend
from segmate_cli.report import ReportFormat, align, rounded, separated

SCHEMA = "segmate-cohort"
SCHEMA_VERSION = 1
COLUMNS = ("case", "organ", "measure", "value", "z", "is_outlier", "month", "scanner", "year")


def render_cohort(cohort: Cohort, style: ReportFormat) -> str:
    """A cohort as text that ends in a newline.

    Args:
        cohort: What to show.
        style: The table shows organs and what to review; CSV and TSV have a row a case, organ and
            measure; JSON has organs and what to review.
    """
    if style == "csv" or style == "tsv":
        return separated(_rows(cohort), COLUMNS, style)
    if style == "json":
        content = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "cases": cohort.cases,
            "states": dict(cohort.states),
            "failures": dict(cohort.causes),
            "organs": [_summary(each) for each in cohort.distributions],
            "trends": [_trend(each) for each in cohort.trends],
            "review": [
                {"case": each.case, "reasons": list(each.reasons)} for each in cohort.review
            ],
        }
        return json.dumps(content, indent=2) + "\n"
    return _table(cohort)


def _rows(cohort: Cohort) -> list[dict[str, Any]]:
    return [
        {
            "case": value.case,
            "organ": each.organ,
            "measure": each.measure,
            "value": rounded(value.value, 3),
            "z": rounded(value.z, 3),
            "is_outlier": value.is_outlier,
            **{by: cohort.groups.get(value.case, {}).get(by) for by in GROUPS},
        }
        for each in cohort.distributions
        for value in each.values
    ]


def _trend(each: Trend) -> dict[str, Any]:
    part = each.part
    return {
        "by": each.by,
        "group": each.group,
        "organ": part.organ,
        "measure": part.measure,
        "cases": len(part.values),
        **{
            name: rounded(part.quantile(share), 3)
            for name, share in (("q1", 0.25), ("median", 0.5), ("q3", 0.75))
        },
        "against_others": _drift(part),
    }


def _drift(each: Distribution) -> dict[str, Any] | None:
    drift = each.drift
    if drift is None:
        return None
    return {
        "shift": round(drift.shift, 3),
        "p": drift.p,
        "reference_cases": drift.reference_cases,
        "reference_median": rounded(drift.reference_median, 3),
        "alarm": drift.alarm,
    }


def _summary(each: Distribution) -> dict[str, Any]:
    return {
        "organ": each.organ,
        "measure": each.measure,
        "cases": len(each.values),
        "cut": each.cut,
        "not_found": each.missing,
        "absent": each.absent,
        **{
            name: rounded(each.quantile(share), 3)
            for name, share in (
                *(("min", 0.0), ("p5", 0.05), ("q1", 0.25), ("median", 0.5)),
                *(("q3", 0.75), ("p95", 0.95), ("max", 1.0)),
            )
        },
        "outliers": [
            {"case": value.case, "value": rounded(value.value, 3), "z": rounded(value.z, 2)}
            for value in each.outliers
        ],
        "drift": _drift(each),
    }


def _table(cohort: Cohort) -> str:
    states = ", ".join(f"{count} {state}" for state, count in cohort.states.items())
    text = f"{cohort.cases} cases: {states or 'none'}\n\n"
    header = ["organ", "measure", "cases", "cut", "not found", "q1", "median", "q3", "outliers"]
    with_drift = any(each.drift for each in cohort.distributions)
    lines = [[*header, "drift"] if with_drift else header]
    for each in cohort.distributions:
        counts = [str(len(each.values)), str(each.cut), str(each.missing)]
        quantiles = [_number(each.quantile(share)) for share in (0.25, 0.5, 0.75)]
        line = [each.organ, each.measure, *counts, *quantiles, str(len(each.outliers))]
        if with_drift:
            line.append(drift_text(each))
        lines.append(line)
    text += align(lines)
    if odd := [trend_text(each) for each in cohort.trends if each.part.drift]:
        odd = [text for text in odd if text]
        text += "\nunlike the rest:\n" + "".join(f"{each}\n" for each in odd) if odd else ""
    if cohort.review:
        text += "\nto review:\n" + align(
            [["case", "why"], *([each.case, "; ".join(each.reasons)] for each in cohort.review)]
        )
    return text


def trend_text(each: Trend) -> str:
    """What an alarm says of a month, year or scanner; empty without one."""
    drift, part = each.part.drift, each.part
    if drift is None or not drift.alarm:
        return ""
    unit = "ml" if part.measure == "volume_ml" else "HU"
    words = f"{part.title}, {unit}: median {part.quantile(0.5):.1f}, elsewhere"
    return f"{each.group}: {words} {drift.reference_median:.1f} ({drift_text(part)[7:]})"


def drift_text(each: Distribution) -> str:
    """A drift in a few words."""
    if each.drift is None:
        return "-"
    words = f"{each.drift.shift:+.2f} SD, p {each.drift.p:.2g}"
    return f"ALARM: {words}" if each.drift.alarm else words


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
