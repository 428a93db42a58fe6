"""How a batch looks while it runs: a live view on a terminal, else a line or JSON object a case."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

from segmate_cli import memory
from segmate_cli.batch.driver import Tally, View
from segmate_cli.batch.records import Record

Style = Literal["auto", "bar", "lines", "json", "none"]


class _Silent:
    def update(self, tally: Tally, busy: int) -> None:
        """Nothing."""

    def tell(self, record: Record) -> None:
        """Nothing."""


class _Lines:
    """A line on stderr for each case that comes to its end."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._count = 0

    def update(self, tally: Tally, busy: int) -> None:
        """Nothing between two cases."""

    def tell(self, record: Record) -> None:
        """Print the case."""
        self._count += 1
        spent = f"{sum(record.seconds.values()):.1f} s" if record.seconds else ""
        about = record.message or spent
        _print(f"segmate: [{self._count}/{self._total}] {record.case}: {record.state} {about}")


class _Json:
    """A JSON object on stderr for each case that comes to its end."""

    def update(self, tally: Tally, busy: int) -> None:
        """Nothing between two cases."""

    def tell(self, record: Record) -> None:
        """Print the case."""
        shown = {"case", "state", "exit_code", "cause", "message", "seconds", "peak_memory_bytes"}
        _print(json.dumps(record.model_dump(mode="json", include=shown)))


class _Live:
    """One row: done, failed, rate, time left, memory."""

    def __init__(self, progress: Any, tally: Tally) -> None:
        self._progress = progress
        self._row = progress.add_task("batch", total=tally.total, text="")
        self._start = time.monotonic()

    def update(self, tally: Tally, busy: int) -> None:
        """Draw."""
        minutes = (time.monotonic() - self._start) / 60
        ended = tally.done + tally.failed
        rate = f"{ended / minutes:.1f}/min" if ended and minutes > 0 else "-"
        free = memory.available_bytes()
        text = f"{tally.known + tally.done} done, {tally.failed} failed, {busy} running, {rate}"
        if free is not None:
            text += f", {memory.human(free)} free"
        self._progress.update(self._row, completed=tally.total - tally.left, text=text)

    def tell(self, record: Record) -> None:
        """Failures stay on the screen."""
        if not record.succeeded:
            # As plain text: a path may look like markup.
            self._progress.console.print(f"{record.case}: {record.message}", markup=False)


@contextmanager
def view(style: Style, tally: Tally) -> Iterator[View]:
    """Show a batch on stderr; ``auto`` is live on a terminal, else lines."""
    if style == "auto":
        style = "bar" if sys.stderr is not None and sys.stderr.isatty() else "lines"
    if style == "bar":
        from rich import progress
        from rich.console import Console

        columns = (
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[text]}", markup=False),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
            yield _Live(shown, tally)
    elif style == "lines":
        yield _Lines(tally.total - tally.known)
    else:
        yield _Json() if style == "json" else _Silent()


def summary(tally: Tally, left: int) -> str:
    """The batch in one sentence, failures by cause."""
    parts = [f"{tally.done} done", f"{tally.known} known from before"]
    if tally.review:
        parts.append(f"{tally.review} of these to be reviewed")
    by_cause = ", ".join(f"{count} {cause}" for cause, count in tally.causes.most_common())
    parts.append(f"{tally.failed} failed" + (f" ({by_cause})" if by_cause else ""))
    if left:
        parts.append(f"{left} left")
    return f"{tally.total} cases: {', '.join(parts)}."


def _print(line: str) -> None:
    if sys.stderr is None:  # closed by who started us
        return
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)
