"""``events.jsonl``: what happened, one JSON object a line, only ever appended to."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from segmate_cli.errors import OutputError


class EventLog:
    """An open log. A line is one write, so that no two processes' lines mix."""

    def __init__(self, path: Path, run: str) -> None:
        """Open or make a log.

        Args:
            path: The file.
            run: Name of this run, in every line.

        Raises:
            OutputError: It cannot be written.
        """
        self._path = path
        self._run = run
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._end_torn_line()
        except OSError as error:
            raise self._trouble(error) from error

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._handle)

    def add(self, event: str, **facts: Any) -> None:
        """Append an event.

        Raises:
            OutputError: The disk is full, or has gone.
        """
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "run": self._run, "event": event, **facts})
        try:
            os.write(self._handle, f"{line}\n".encode())
        except OSError as error:
            raise self._trouble(error) from error

    def _end_torn_line(self) -> None:
        """A line that a power cut tore in two gets its end, so that the next one is whole."""
        size = os.fstat(self._handle).st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":
            os.write(self._handle, b"\n")

    def _trouble(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self._path}: cannot be written ({error.strerror}); free some space, or choose a "
            "place that can be written to."
        )
