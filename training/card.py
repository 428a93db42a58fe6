"""Write the model card from the scores' files: ``python -m training.card``.

Figures come from the JSON of ``training.score_bundle`` alone, words from ``configs/card.md.in``.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.cases import ORGANS, source_of

_TEMPLATE = Path(__file__).with_name("configs") / "card.md.in"
#: What the model has to reach before anybody may lean on it.
BARS = {
    **{"lung_left": 0.96, "lung_right": 0.96, "trachea": 0.85, "esophagus": 0.72},
    **{"spinal_cord": 0.80, "heart": 0.90, "aorta": 0.87, "liver": 0.95},
    **{"kidney_left": 0.91, "kidney_right": 0.91, "spleen": 0.93},
}
_WORST = 10


def organ_table(scores: dict[str, Any], baseline: dict[str, Any]) -> str:
    """Per organ: patients, Dice in both ways, worst, the starter's Dice, the bar."""
    lines = [
        "| organ | patients | Dice | every slice | worst | starter | bar | met |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows = scores["summary"]
    for organ, row in rows.items():
        bar = BARS[organ]
        worst = f"{row['worst']:.3f} ({row['worst_case']})"
        start = baseline["summary"][organ]["dice"]
        met = "yes" if row["dice"] >= bar else "no"
        cells = (organ, row["patients"], f"{row['dice']:.4f}", f"{row['as_labelled']:.3f}", worst)
        lines.append(
            "| " + " | ".join(map(str, (*cells, f"{start:.3f}", f"{bar:.2f}", met))) + " |"
        )
    mean = f"{mean_of(rows, 'dice'):.4f} | {mean_of(rows, 'as_labelled'):.3f}"
    start = mean_of(baseline["summary"], "dice")
    met = "yes" if mean_of(rows, "dice") >= 0.90 else "no"
    lines.append(f"| mean | | {mean} | | {start:.3f} | 0.90 | {met} |")
    return "\n".join(lines)


def mean_of(rows: dict[str, Any], key: str) -> float:
    """Mean over organs."""
    return sum(float(row[key]) for row in rows.values()) / len(rows)


def source_table(scores: dict[str, Any]) -> str:
    """Mean Dice by source and organ, with the number of patients."""
    sources: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for score in scores["scores"]:
        sources[source_of(score["case_id"])][score["organ"]].append(score["dice"])
    lines = ["| source | organs: Dice (patients) |", "| --- | --- |"]
    for source, organs in sources.items():
        cells = [
            f"{organ} {sum(organs[organ]) / len(organs[organ]):.3f} ({len(organs[organ])})"
            for organ in ORGANS
            if organ in organs
        ]
        lines.append(f"| {source} | {', '.join(cells)} |")
    return "\n".join(lines)


def worst_list(scores: dict[str, Any]) -> str:
    """The lowest scores of all, one a line."""
    lowest = sorted(scores["scores"], key=lambda score: float(score["dice"]))[:_WORST]
    return "\n".join(
        f"- {s['organ']} in {s['case_id']}: Dice {s['dice']:.3f}, "
        f"{s['predicted_ml']:g} ml for {s['reference_ml']:g} ml"
        for s in lowest
    )


def swap_sentence(scores: dict[str, Any]) -> str:
    """How much of a left organ was called right, or the reverse."""
    paired = [s for s in scores["scores"] if s["organ"].startswith(("lung", "kidney"))]
    swapped = [s for s in paired if s["swapped_ml"] > 0.5 * s["reference_ml"]]
    most = max(paired, key=lambda s: float(s["swapped_ml"]))
    return (
        f"Sides exchanged in {len(swapped)} of {len(paired)} paired organs; the most on a wrong "
        f"side is {most['swapped_ml']:g} ml ({most['organ']} in {most['case_id']})."
    )


def absent_sentence(scores: dict[str, Any]) -> str:
    """What was found where anatomy has none."""
    found = scores["absent_ml"]
    if not found:
        return "Nothing was found in slices where anatomy rules an organ out."
    parts = [
        f"{ml:g} ml of {organ} in {case_id}"
        for case_id, organs in found.items()
        for organ, ml in organs.items()
    ]
    return "In slices where anatomy rules the organ out: " + ", ".join(parts) + "."


def card(files: dict[str, dict[str, Any]], version: str, refit_steps: int) -> str:
    """The whole card, from the contents of the scores' files by their option's name."""
    scores, baseline = files["scores"], files["baseline"]
    phantom = {organ: row["dice"] for organ, row in files["phantom"]["summary"].items()}
    text = _TEMPLATE.read_text()
    parts = {
        "VERSION": version,
        "REFIT_STEPS": str(refit_steps),
        "ORGANS": organ_table(scores, baseline),
        "SOURCES": source_table(scores),
        "WORST": worst_list(scores),
        "SIDES": swap_sentence(scores),
        "ABSENT": absent_sentence(scores),
        "PHANTOM": ", ".join(f"{organ} {value:.3f}" for organ, value in phantom.items()),
        "FAST": f"{mean_of(files['fast']['summary'], 'dice'):.4f}",
        "NEW": f"{mean_of(scores['summary'], 'dice'):.4f}",
        "OLD": f"{mean_of(baseline['summary'], 'dice'):.3f}",
        "SEEN_NEW": f"{mean_of(files['seen']['summary'], 'dice'):.3f}",
        "SHIPPED_VAL": f"{mean_of(files['shipped']['summary'], 'dice'):.3f}",
        "SEEN_OLD": f"{mean_of(files['seen_baseline']['summary'], 'dice'):.3f}",
    }
    for name, value in parts.items():
        text = text.replace(f"@{name}@", value)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path, help="JSON of score_bundle, validated model")
    parser.add_argument("baseline", type=Path, help="JSON of score_bundle, starter")
    parser.add_argument("phantom", type=Path, help="JSON of score_bundle --phantoms, shipped model")
    parser.add_argument("seen", type=Path, help="the validated model on training cases")
    parser.add_argument("seen_baseline", type=Path, help="the starter on the same")
    parser.add_argument("fast", type=Path, help="JSON of score_bundle --fast, validated model")
    parser.add_argument("shipped", type=Path, help="the shipped model on the validation patients")
    parser.add_argument("output", type=Path, help="card to write")
    parser.add_argument("--version", required=True)
    parser.add_argument(
        "--refit-steps", type=int, required=True, help="steps from the validated model's state"
    )
    options = parser.parse_args(arguments)
    files = {
        name: json.loads(getattr(options, name).read_text())
        for name in ("scores", "baseline", "phantom", "seen", "seen_baseline", "fast", "shipped")
    }
    options.output.write_text(card(files, options.version, options.refit_steps))


if __name__ == "__main__":
    main()
