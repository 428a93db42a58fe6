"""A cohort as one HTML file beside a batch's output: what to review, distributions, drift."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from segmate_cli.cohort import (
    GROUPS,
    MEASURES,
    OUTLIER_Z,
    Cohort,
    Distribution,
    Entry,
    GroupBy,
    Measure,
    Trend,
    Value,
    parted,
)
from segmate_cli.cohort_report import drift_text, trend_text
from segmate_cli.look import templates
from segmate_cli.look.charts import Tick, round_numbers

_WIDTH, _HEIGHT = 1080, 84
_BASE = _HEIGHT - 20
_MARGIN = 14
# More dots than these are one blot, and more rows nobody reads on a page.
_DOTS, _ROWS = 1500, 1000
_LEVELS = {"done": "ok", "review": "review", "failed": "bad"}
_RANKS = (("bad", "failed"), ("review", "review"), ("review", "outlier"), ("none", "look"))
_UNITS = {"volume_ml": "ml", "mean_hu": "HU"}
_TITLES = {"volume_ml": "Volume", "mean_hu": "Mean HU"}
# What of a case a link leads to: the first that is there.
_LOOK_AT = ("report.html", "report.json", "labels.json", "case.json")


def render_cohort_page(cohort: Cohort, out: Path, page: Path, reference: Path | None = None) -> str:
    """The page.

    Args:
        cohort: What to show.
        out: The batch's output, for links to its cases.
        page: Where the page will lie.
        reference: Of the cohort that it was compared with.
    """
    links = _Links(out, page.absolute().parent)
    shown = cohort.review[:_ROWS]
    content = {
        "name": out.absolute().name,
        "summary": _summary(cohort),
        "tiles": _tiles(cohort),
        "drift_known": any(each.drift for each in cohort.distributions),
        "reference": reference.absolute().name if reference else "",
        "tests": sum(each.drift is not None for each in cohort.distributions),
        "alarms": [_alarm(each) for each in cohort.alarms],
        "review": [_entry(entry, links) for entry in shown],
        "review_count": len(cohort.review),
        "outlier_z": OUTLIER_Z,
        "organs": _organs(cohort, links),
        "trends": [
            _trend_table(cohort, by, measure)
            for by in GROUPS
            for measure in MEASURES
            if any((each.by, each.part.measure) == (by, measure) for each in cohort.trends)
        ],
        "odd_groups": [text for each in cohort.trends if (text := trend_text(each))],
    }
    return templates.render("cohort.html.j2", page=content)


class _Links:
    """Relative addresses of what there is to look at of a case."""

    def __init__(self, out: Path, folder: Path) -> None:
        self._out, self._folder = out.absolute(), folder

    def of(self, case: str) -> str:
        """Of a case; empty where nothing is there."""
        for name in _LOOK_AT:
            path = self._out / case / name
            if path.is_file():
                return quote(os.path.relpath(path, self._folder).replace(os.sep, "/"))
        return ""


def _summary(cohort: Cohort) -> str:
    organs = len({each.organ for each in cohort.distributions})
    return f"{cohort.cases} cases \u00b7 {organs} organs \u00b7 {len(cohort.review)} to review"


def _tiles(cohort: Cohort) -> list[dict[str, Any]]:
    tiles = [
        {"count": count, "word": state, "level": _LEVELS.get(state, "none")}
        for state, count in sorted(cohort.states.items())
    ]
    tiles += [
        {"count": count, "word": f"failed: {cause or 'unknown'}", "level": "bad"}
        for cause, count in sorted(cohort.causes.items())
    ]
    return tiles


def _trend_table(cohort: Cohort, by: GroupBy, measure: Measure) -> dict[str, Any]:
    """Rows of groups, columns of organs: medians, and how they differ from the rest."""
    mine = [each for each in cohort.trends if (each.by, each.part.measure) == (by, measure)]
    titles = {each.part.organ: each.part.title for each in mine}
    cells = {(each.group, each.part.organ): each for each in mine}
    groups = list(parted(cohort.groups, by).values())
    return {
        "by": by,
        "measure": "volume, ml" if measure == "volume_ml" else "mean HU",
        "columns": list(titles.values()),
        "rows": [
            {
                "group": group,
                "cases": groups.count(group),
                "cells": [_cell(cells.get((group, organ))) for organ in titles],
            }
            for group in dict.fromkeys(each.group for each in mine)
        ],
    }


def _cell(each: Trend | None) -> dict[str, str]:
    if each is None:
        return {"text": "\u2013", "level": ""}
    drift = each.part.drift
    alarm = drift is not None and drift.alarm
    shift = f" ({drift.shift:+.1f} SD)".replace("-", "\u2212") if drift and alarm else ""
    text = f"{each.part.quantile(0.5) or 0.0:.0f}".replace("-", "\u2212")
    return {"text": f"{text}{shift}", "level": "review" if alarm else ""}


def _alarm(each: Distribution) -> str:
    unit = _UNITS[each.measure]
    before = each.drift.reference_median if each.drift else 0.0
    now = each.quantile(0.5) or 0.0
    words = drift_text(each).removeprefix("ALARM: ")
    return f"{each.title}, {unit}: median {now:.1f}, was {before:.1f} ({words})"


def _entry(entry: Entry, links: _Links) -> dict[str, Any]:
    level, word = _RANKS[entry.rank]
    return {
        "case": entry.case,
        "link": links.of(entry.case),
        "level": level,
        "word": word,
        "reasons": entry.reasons,
    }


def _organs(cohort: Cohort, links: _Links) -> list[dict[str, Any]]:
    found = []
    for key in dict.fromkeys(each.organ for each in cohort.distributions):
        mine = [each for each in cohort.distributions if each.organ == key]
        first = mine[0]
        counts = [f"{len(first.values)} measured whole"]
        for number, word in (
            *((first.cut, "cut"), (first.missing, "not found")),
            (first.absent, "out of view"),
        ):
            counts += [f"{number} {word}"] if number else []
        plots = [_plot(each, links) for each in mine if each.values]
        found.append({"title": first.title, "counts": ", ".join(counts), "plots": plots})
    return found


def _plot(each: Distribution, links: _Links) -> dict[str, Any]:
    low, high = float(each.numbers.min()), float(each.numbers.max())
    spare = max(0.03 * (high - low), 1e-3 * max(abs(low), abs(high)), 0.5)
    low, high = low - spare, high + spare

    def x_of(value: float) -> float:
        return round(_MARGIN + (value - low) / (high - low) * (_WIDTH - 2 * _MARGIN), 1)

    plain = [value for value in each.values if not value.is_outlier]
    step = -(-len(plain) // _DOTS) or 1
    dots = "".join(f"M{x_of(v.value)} {_y_of(v.case)}h0" for v in plain[::step])
    q1, median, q3 = (each.quantile(share) or 0.0 for share in (0.25, 0.5, 0.75))
    text = _words(each, (q1, median, q3))
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "base": _BASE,
        "ticks": [Tick(x_of(n), f"{n:g}".replace("-", "\u2212")) for n in round_numbers(low, high)],
        "box": (x_of(q1), round(x_of(q3) - x_of(q1), 1)),
        "median": x_of(median),
        "reference": _inside(each, x_of),
        "dots": dots,
        "outliers": [_outlier(value, each, links, x_of) for value in each.outliers],
        "words": text,
        "text": text,
    }


def _inside(each: Distribution, x_of: Any) -> float | None:
    """Where the reference's median lies, if on the plot."""
    if each.drift is None:
        return None
    x = float(x_of(each.drift.reference_median))
    return x if 0 <= x <= _WIDTH else None


def _words(each: Distribution, quartiles: Sequence[float]) -> str:
    q1, median, q3 = quartiles
    unit = _UNITS[each.measure]
    text = f"{_TITLES[each.measure]}: median {median:.1f} {unit}, middle half {q1:.1f} to {q3:.1f}"
    far = len(each.outliers)
    text += f", {far} outlier{'s' if far > 1 else ''}" if far else ""
    return f"{text}. {drift_text(each)}" if each.drift else f"{text}."


def _outlier(value: Value, each: Distribution, links: _Links, x_of: Any) -> dict[str, Any]:
    words = f"{value.case}: {value.value:.1f} {_UNITS[each.measure]}, z {value.z:+.1f}"
    return {
        "x": x_of(value.value),
        "y": _y_of(value.case),
        "link": links.of(value.case),
        "words": words,
    }


def _y_of(case: str) -> int:
    """A height that is a case's own, so that dots do not hide each other."""
    return 14 + hashlib.sha256(case.encode()).digest()[0] % (_BASE - 28)
