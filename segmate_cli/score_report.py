"""Scores of ``segmate evaluate`` as a table for people, CSV or TSV by case, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from segmate_cli.evaluation import OrganScore, OrganSummary
from segmate_cli.report import ReportFormat, align, rounded, rounded_volume, separated

SCHEMA = "segmate-scores"
SCHEMA_VERSION = 1
COLUMNS = (
    *("case", "organ", "dice", "surface_dice_2mm", "hd95_mm", "volume_ml", "reference_ml"),
    *("volume_error_ml", "volume_error_percent", "swapped"),
)


def render_scores(
    scores: Sequence[OrganScore],
    summaries: Sequence[OrganSummary],
    left_out: dict[str, list[str]],
    style: ReportFormat,
) -> str:
    """Scores as text that ends in a newline.

    Args:
        scores: One a case and organ.
        summaries: One an organ.
        left_out: By case, the organs that its reference does not label.
        style: The table shows organs; CSV and TSV have a row a case and organ; JSON has both.
    """
    rows = [_row(score) for score in scores]
    if style == "csv" or style == "tsv":
        return separated(rows, COLUMNS, style)
    mean = float(np.mean([each.dice for each in summaries])) if summaries else None
    if style == "json":
        content = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "mean_dice_of_organs": rounded(mean, 4),
            "organs": [_plain(dataclasses.asdict(each)) for each in summaries],
            "cases": rows,
            "not_labelled": left_out,
        }
        return json.dumps(content, indent=2) + "\n"
    return _table(summaries, mean)


def _table(summaries: Sequence[OrganSummary], mean: float | None) -> str:
    header = ["organ", "cases", "dice", "95% interval", "worst", "in case"]
    header += ["surface dice 2 mm", "hd95 mm", "volume error %", "swaps"]
    lines = [
        [
            each.organ,
            str(each.cases),
            f"{each.dice:.3f}",
            f"{each.dice_low:.3f}-{each.dice_high:.3f}",
            f"{each.worst_dice:.3f}",
            each.worst_case,
            f"{each.surface_dice:.3f}",
            "-" if each.hd95_mm is None else f"{each.hd95_mm:.1f}",
            "-" if each.volume_error_percent is None else f"{each.volume_error_percent:+.1f}",
            str(each.swaps),
        ]
        for each in summaries
    ]
    text = align([header, *lines])
    return text + (f"mean of organs  {mean:.3f}\n" if mean is not None else "")


def _row(score: OrganScore) -> dict[str, Any]:
    return {
        "case": score.case,
        "organ": score.organ,
        "dice": rounded(score.dice, 4),
        "surface_dice_2mm": rounded(score.surface_dice, 4),
        "hd95_mm": rounded(score.hd95_mm, 2),
        "volume_ml": rounded_volume(score.volume_ml),
        "reference_ml": rounded_volume(score.reference_ml),
        "volume_error_ml": rounded(score.volume_error_ml, 3),
        "volume_error_percent": rounded(score.volume_error_percent, 2),
        "swapped": score.swapped,
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: rounded(v, 4) if isinstance(v, float) else v for key, v in row.items()}
