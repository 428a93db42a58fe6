"""A case as a task of a Dask worker, which hands it to a worker process of segmate's own.

So a crash, a hang or a shortage of memory costs that process and never the Dask worker; and when
the Dask worker is killed, its process ends by itself. A process stays for the next cases, and is
let go when none has come for a while.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmate_cli import __version__
from segmate_cli.batch import records
from segmate_cli.batch.crew import end_overdue
from segmate_cli.batch.jobs import job_of
from segmate_cli.batch.slots import Slot, log_path, worker_command
from segmate_cli.errors import ExitCode
from segmate_cli.sessions import usable_cpus

_TICK_SECONDS = 0.5
_TICKS_A_QUESTION = 4
_IDLE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Errand:
    """What all tasks of one batch share, in plain data.

    Attributes:
        run: Names the batch among others on the cluster.
        version: Of segmate, where the batch was started.
        folder: Where it was started; relative paths are meant from there.
        out: The output folder.
        settings: For segmate's workers.
        timeout_s: What a case may take.
        share_threads: The worker's threads share the machine's processors.
        command: Starts a worker; None is segmate's own.
    """

    run: str
    version: str
    folder: str
    out: str
    settings: dict[str, Any]
    timeout_s: float
    share_threads: bool
    command: Callable[[dict[str, Any]], list[str]] | None = None

    @property
    def no_more(self) -> str:
        """Name of the event that says that no case is to be begun."""
        return f"segmate-no-more-{self.run}"

    @property
    def at_once(self) -> str:
        """Name of the event that says that cases under way are to be abandoned."""
        return f"segmate-at-once-{self.run}"


class _Pool:
    """Worker processes of this Dask worker that have nothing to do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[tuple[str, float, Slot]] = []
        self._number = 0

    def take(self, errand: Errand) -> Slot:
        """One of that batch, or a new one; OutputError where its log cannot be written."""
        with self._lock:
            for entry in self._idle:
                if entry[0] == errand.run:
                    self._idle.remove(entry)
                    return entry[2]
            self._number += 1
            number = self._number
        settings = dict(errand.settings)
        if errand.share_threads:
            settings["threads"] = max(1, usable_cpus() // _threads_here())
        log = log_path(Path(errand.out) / records.STATE_FOLDER, number % 16)
        return Slot((errand.command or worker_command)(settings), log, Path(errand.folder))

    def give_back(self, errand: Errand, slot: Slot) -> None:
        """Keep one for the next case."""
        with self._lock:
            self._idle.append((errand.run, time.monotonic(), slot))
        timer = threading.Timer(_IDLE_SECONDS, self.let_go, kwargs={"idle_s": _IDLE_SECONDS})
        timer.daemon = True
        timer.start()

    def let_go(self, run: str | None = None, idle_s: float = 0.0) -> None:
        """End those of a batch, or all that have been idle for long."""
        before = time.monotonic() - idle_s
        with self._lock:
            gone = [one for one in self._idle if run in (None, one[0]) and one[1] <= before]
            self._idle = [one for one in self._idle if one not in gone]
        for _, _, slot in gone:
            slot.dismiss()


_pool = _Pool()


def dask_setup(worker: object) -> None:
    """Dask calls this in workers of ``local:N``: a Ctrl-C at the terminal is the driver's."""
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def let_go(run: str) -> None:
    """End the idle processes of a batch on this Dask worker."""
    _pool.let_go(run)


def do(errand: Errand, raw: dict[str, Any]) -> dict[str, Any]:
    """Do a job; gives the worker's last word, or how it died, or that the batch is to stop."""
    if errand.version != __version__:
        text = f"the Dask worker has segmate {__version__}, this batch {errand.version}"
        return {"unfit": _unfit(f"{text}; install the same on all machines.")}
    if not os.path.isdir(errand.folder) or not os.path.isdir(errand.out):
        text = f"the Dask worker does not see {errand.folder} and {errand.out}"
        return {"unfit": _unfit(f"{text}; all machines need the same shared folders.")}
    if _is_set(errand.no_more):
        return {"stopped": {}}
    slot = _pool.take(errand)
    slot.give(job_of(raw))
    return _await(errand, slot)


def _await(errand: Errand, slot: Slot) -> dict[str, Any]:
    ticks = 0
    while True:
        ticks += 1
        if slot.channel.poll(_TICK_SECONDS):
            message = slot.hear()
            if message is None:
                return {"died": slot.death()}
            if "ready" in message:
                continue
            if message.get("failed", {}).get("again") or "unfit" in message:
                slot.dismiss()
            else:
                slot.job = None
                _pool.give_back(errand, slot)
            return message
        if slot.is_overdue(errand.timeout_s):
            return {"died": end_overdue(slot, errand.timeout_s)}
        if ticks % _TICKS_A_QUESTION == 0 and _is_set(errand.at_once):
            slot.kill()
            return {"stopped": {}}


def _is_set(event: str) -> bool:
    from distributed import Event

    with suppress(OSError, TimeoutError):  # the scheduler has gone; so does this worker
        return bool(Event(event).is_set())
    return False


def _threads_here() -> int:
    from distributed import get_worker

    return int(get_worker().state.nthreads)


def _unfit(message: str) -> dict[str, Any]:
    return {"exit_code": int(ExitCode.USAGE), "message": message}


def key_of(run: str, job: dict[str, Any]) -> str:
    """The task's name on the cluster; a retry is another task."""
    return json.dumps([run, job["case"]["case_id"], job["attempt"]])
