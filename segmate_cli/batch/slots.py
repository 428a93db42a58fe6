"""The driver's end of a worker process: start it, hand it a job, hear from it, end it."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from segmate_cli.batch.jobs import Job
from segmate_cli.errors import OutputError

_GRACE_SECONDS = 2.0


class Slot:
    """One worker process and the job it has.

    Attributes:
        channel: To wait on.
        job: What it is doing, or None.
        ready: Whether its model is loaded.
    """

    def __init__(self, command: list[str], log: Path, folder: Path | None = None) -> None:
        """Start a worker.

        Args:
            command: Program and arguments; the channel's number is put after the program's.
            log: Where its stderr goes.
            folder: Where it is to stand; by default where its driver does.
        """
        ours, theirs = socket.socketpair()
        try:
            with log.open("wb") as stream, theirs:
                self._process = subprocess.Popen(
                    [*command[:3], str(theirs.fileno()), *command[3:]],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    pass_fds=(theirs.fileno(),),
                    cwd=folder,
                    # A Ctrl-C at the terminal is the driver's to handle.
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise OutputError(f"{log}: cannot be written ({error.strerror}).") from error
        self.channel = Connection(ours.detach())
        self.job: Job | None = None
        self.ready = False
        self._since = time.monotonic()

    @property
    def busy_seconds(self) -> float:
        """How long it has been starting, or at its job."""
        return time.monotonic() - self._since

    def is_overdue(self, timeout_s: float) -> bool:
        """Whether it has had its job for longer than that."""
        return self.job is not None and self.busy_seconds > timeout_s

    def give(self, job: Job) -> None:
        """Hand it a job; if the worker has died, ``hear`` will tell."""
        self.job = job
        self._since = time.monotonic()
        with suppress(OSError):
            self.channel.send_bytes(json.dumps(job.as_json()).encode())

    def hear(self) -> dict[str, Any] | None:
        """The next message, or None when it has died."""
        try:
            message: dict[str, Any] = json.loads(self.channel.recv_bytes())
        except (EOFError, OSError):
            return None
        if "ready" in message:
            self.ready = True
            self._since = time.monotonic()  # loading the model is not the case's time
        return message

    def kill(self) -> None:
        """End it now."""
        self.channel.close()
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def dismiss(self) -> None:
        """Let an idle worker go, or ask a busy one to end cleanly, and kill it if it does not."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_SECONDS)
        self.kill()

    def death(self) -> dict[str, Any]:
        """Cause, exit code (128 + n after signal n) and a sentence, once it has died."""
        self.channel.close()
        try:
            code = self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        cause, code, text = _cause_of(code)
        return {"cause": cause, "exit_code": code, "message": text, "ready": self.ready}


def _cause_of(code: int) -> tuple[str, int, str]:
    if code >= 0:
        return "crash", 1, f"the worker process ended by itself with exit code {code}."
    if -code == signal.SIGKILL:
        text = "the worker process was killed (SIGKILL); most often memory ran out."
        return "memory", 128 - code, text
    return "crash", 128 - code, f"the worker process crashed ({signal.Signals(-code).name})."


def worker_command(settings: dict[str, Any]) -> list[str]:
    """How segmate's own worker is started."""
    return [sys.executable, "-m", "segmate_cli.batch.worker", json.dumps(settings)]


def log_path(state: Path, number: int) -> Path:
    """Where a worker's stderr goes."""
    return state / f"worker-{platform.node()}-{os.getpid()}-{number}.log"
