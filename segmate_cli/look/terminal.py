"""The report's table on a terminal: statuses in colour, volumes as bars in their usual range.

In a pipe or a file there is the plain table instead, which programs can cut into columns.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from segmate_cli.doubt.anatomy import VOLUMES
from segmate_cli.doubt.words import Verdict
from segmate_cli.organs import foreign_organ
from segmate_cli.report import volume_text

_COLOURS = {
    "complete": "green",
    "truncated": "yellow",
    "absent": "dim",
    "not_found": "bold red",
    "implausible": "bold red",
    "low_confidence": "yellow",
}
_CELLS = 16
# Where on the bar the usual range ends; what is larger still has room.
_UPPER = 2 / 3


def wants_colour(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal that shows colours, and nobody asked for none."""
    if stream is None or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def print_table(
    rows: Sequence[dict[str, Any]],
    verdicts: Mapping[str, Verdict],
    stream: TextIO,
    width: int | None = None,
) -> None:
    """Print rows of a report.

    Args:
        rows: As ``report.rows`` gives them.
        verdicts: By scan.
        stream: A terminal.
        width: Of it, in columns; by default what it says.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, width=width, force_terminal=True, highlight=False)
    for scan in dict.fromkeys(row["scan"] for row in rows):
        mine = [row for row in rows if row["scan"] == scan]
        console.print(Text(str(scan), style="bold"))
        console.print(_table(mine))
        for row in mine:
            if row["reasons"]:
                title = foreign_organ(str(row["organ"]), 1).title
                console.print(Text(f"{title}: {'; '.join(row['reasons'])}", style="dim"))
        verdict = verdicts.get(scan)
        if verdict is not None:
            style = "bold yellow" if verdict.word == "review" else "green"
            console.print(Text(f"verdict: {verdict.word}", style=style))


def _table(rows: Sequence[dict[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    with_hu = any(row["mean_hu"] is not None for row in rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("organ", no_wrap=True)
    table.add_column("volume, ml", justify="right", no_wrap=True)
    table.add_column("usual range", no_wrap=True)
    if with_hu:
        table.add_column("HU", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for row in rows:
        organ = foreign_organ(str(row["organ"]), 1)
        red, green, blue = organ.rgb
        name = Text.assemble(("\u25a0 ", f"rgb({red},{green},{blue})"), organ.title)
        volume = row["volume_ml"]
        shown = "-" if volume is None else volume_text(volume, row["is_lower_bound"])
        cells = [name, shown, _bar(row)]
        if with_hu:
            mean, spread = row["mean_hu"], row["sd_hu"]
            cells.append("-" if mean is None else f"{mean:.0f} \u00b1 {spread:.0f}")
        status = str(row["status"])
        cells.append(Text(status.replace("_", " "), style=_COLOURS.get(status, "")))
        table.add_row(*cells)
    return table


def _bar(row: dict[str, Any]) -> Any:
    """The usual range as a line, the volume as a mark on it; empty where either is unknown."""
    from rich.text import Text

    usual = VOLUMES.get(row["organ"])
    volume = row["volume_ml"]
    if usual is None or volume is None or row["is_lower_bound"]:
        return Text("")
    full = usual.high_ml / _UPPER
    low = round((usual.low_ml or 0.0) / full * (_CELLS - 1))
    high = round(_UPPER * (_CELLS - 1))
    at = min(_CELLS - 1, round(volume / full * (_CELLS - 1)))
    inside = (usual.low_ml or 0.0) <= volume <= usual.high_ml
    bar = Text()
    for cell in range(_CELLS):
        if cell == at:
            bar.append("\u25cf", style="green" if inside else "bold yellow")
        elif low <= cell <= high:
            bar.append("\u2501", style="cyan")
        else:
            bar.append("\u2500", style="dim")
    return bar
