"""What a run tells while it works: a bar on a terminal, JSON lines for programs, or nothing.

Everything here goes to stderr; stdout is for results.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, TextIO

# Called with (stage, done, total) whenever a stage has moved on.
Progress = Callable[[str, int, int], None]
ProgressStyle = Literal["auto", "bar", "json", "none"]

# A terminal or a log needs no more updates than this.
_QUIET_SECONDS = 0.1


def no_progress(stage: str, done: int, total: int) -> None:
    """The progress of library calls that did not ask for one."""


class JsonLines:
    """One JSON object a line: stage, done, total and seconds since the start."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._start = self._last = time.monotonic()
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Print, unless the last line of an unfinished stage is very recent."""
        now = time.monotonic()
        if stage == self._stage and done < total and now - self._last < _QUIET_SECONDS:
            return
        self._stage, self._last = stage, now
        line = {
            "stage": stage,
            "done": done,
            "total": total,
            "seconds": round(now - self._start, 3),
        }
        _print(json.dumps(line), self._stream)


class _Bar:
    """A rich progress bar with one row a stage."""

    def __init__(self, view: Any) -> None:
        self._view = view
        self._rows: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._rows:
            self._rows[stage] = self._view.add_task(stage, total=total)
        self._view.update(self._rows[stage], completed=done, total=total)


@contextmanager
def progress(style: ProgressStyle) -> Iterator[Progress]:
    """Show progress on stderr in the given style; ``auto`` is a bar on a terminal, else silent."""
    if style == "auto":
        style = "bar" if sys.stderr is not None and sys.stderr.isatty() else "none"
    if style == "json":
        yield JsonLines(sys.stderr)
    elif style == "bar":
        from rich.console import Console
        from rich.progress import Progress as RichProgress

        with RichProgress(console=Console(stderr=True), transient=True) as view:
            yield _Bar(view)
    else:
        yield no_progress


def say(message: str, *, style: ProgressStyle = "auto", quiet: bool = False) -> None:
    """Tell the person at the terminal something, if they want to hear it; JSON as progress is."""
    if quiet:
        return
    text = json.dumps({"message": message}) if style == "json" else f"segmate: {message}"
    _print(text, sys.stderr)


def _print(line: str, stream: TextIO | None) -> None:
    """Print if somebody listens: a run does not fail because the reader of its progress left."""
    if stream is None:  # closed by who started us; print would take stdout instead
        return
    with suppress(OSError):
        print(line, file=stream, flush=True)
