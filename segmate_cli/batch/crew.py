"""Whoever does the jobs: worker processes of this machine here, a Dask cluster in ``dask_crew``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal, Protocol

from segmate_cli.batch.jobs import Job
from segmate_cli.batch.settings import Settings
from segmate_cli.batch.slots import Slot, log_path, worker_command

TIMEOUT_EXIT = 124


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a job, or of a worker.

    Attributes:
        kind: ``ready`` (a worker's model is loaded), ``done``, ``failed`` (the worker lives on),
            ``died`` (it does not), ``unfit`` (no worker can do any job).
        job: The one that it is about, if any.
        facts: As ``worker.serve`` sends them; of a death: cause, exit_code, message, and whether
            the worker had ever been ready.
    """

    kind: Literal["ready", "done", "failed", "died", "unfit"]
    job: Job | None
    facts: dict[str, Any] = field(default_factory=dict)


class Crew(Protocol):
    """Workers, wherever they are."""

    @property
    def jobs(self) -> int:
        """How many share one machine's memory cap; a case too large for a share may fit alone."""

    def busy(self) -> int:
        """How many jobs have been given and not been answered."""

    def has_room(self) -> bool:
        """Whether a job can be given now."""

    def give(self, job: Job) -> None:
        """Hand a job out."""

    def hear(self, seconds: float) -> list[Answer]:
        """Answers, waiting for the first one no longer than this."""

    def stop_soon(self) -> None:
        """Begin no case any more; those under way may end."""

    def end(self, *, at_once: bool) -> None:
        """Let all workers go, in the middle of their cases if need be."""


class LocalCrew:
    """Processes on this machine, started when there is work for them."""

    def __init__(
        self,
        settings: Settings,
        state: Path,
        jobs: int,
        timeout_s: float,
        command: Callable[[dict[str, Any]], list[str]] = worker_command,
    ) -> None:
        """Nobody is started yet.

        Args:
            settings: For the workers.
            state: Folder for their logs.
            jobs: Processes at a time.
            timeout_s: What a case may take.
            command: Starts a worker; by default segmate's own.
        """
        self._command = command(settings.as_json())
        self._state = state
        self._jobs = jobs
        self._timeout_s = timeout_s
        self._slots: list[Slot] = []
        self._started = 0

    @property
    def jobs(self) -> int:
        """Processes at a time."""
        return self._jobs

    def busy(self) -> int:
        """How many are at work."""
        return sum(slot.job is not None for slot in self._slots)

    def has_room(self) -> bool:
        """Whether one is idle, or may be started."""
        return self.busy() < self._jobs

    def give(self, job: Job) -> None:
        """Hand a job to an idle worker, or start one for it.

        Raises:
            OutputError: Its log cannot be written.
        """
        idle = [slot for slot in self._slots if slot.job is None]
        (idle[-1] if idle else self._start()).give(job)

    def _start(self) -> Slot:
        self._started += 1
        log = log_path(self._state, self._started % self._jobs)
        slot = Slot(self._command, log)
        self._slots.append(slot)
        return slot

    def hear(self, seconds: float) -> list[Answer]:
        """Answers of all workers; one that takes too long is ended."""
        by_channel = {slot.channel: slot for slot in self._slots}
        ready = wait(list(by_channel), seconds)
        answers = [self._answer(by_channel[one]) for one in ready]  # type: ignore[index]
        overdue = [slot for slot in self._slots if slot.is_overdue(self._timeout_s)]
        return answers + [self._end_overdue(slot) for slot in overdue]

    def _answer(self, slot: Slot) -> Answer:
        message = slot.hear()
        if message is None:
            self._slots.remove(slot)
            return Answer("died", slot.job, slot.death())
        answer = answer_of(message, slot.job)
        if answer.kind in ("done", "failed"):
            slot.job = None
        if answer.facts.get("again"):
            self._slots.remove(slot)  # whatever is wrong with it ends with it
            slot.dismiss()
        return answer

    def _end_overdue(self, slot: Slot) -> Answer:
        self._slots.remove(slot)
        return Answer("died", slot.job, end_overdue(slot, self._timeout_s))

    def stop_soon(self) -> None:
        """Nothing is waiting here."""

    def end(self, *, at_once: bool) -> None:
        """End all processes; those at work get two seconds, unless it is ``at_once``."""
        for slot in self._slots:
            if at_once:
                slot.kill()
            else:
                slot.dismiss()
        self._slots.clear()


def answer_of(message: dict[str, Any], job: Job | None) -> Answer:
    """A worker's message about the job that it has."""
    for kind in ("unfit", "done", "failed"):
        if kind in message:
            return Answer(kind, job, message[kind])
    return Answer("ready", None)


def end_overdue(slot: Slot, timeout_s: float) -> dict[str, Any]:
    """Kill a worker that takes too long; gives the facts of its death."""
    slot.kill()
    text = f"it took longer than {timeout_s:g} s and was ended."
    return {"cause": "timeout", "exit_code": TIMEOUT_EXIT, "message": text, "ready": slot.ready}
