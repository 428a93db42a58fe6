"""The loop that hands cases to workers, hears from them, and stays alive whatever they do."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from segmate_cli.batch import records
from segmate_cli.batch.cases import Case
from segmate_cli.batch.events import EventLog
from segmate_cli.batch.finish import record_failure
from segmate_cli.batch.records import Record, State
from segmate_cli.batch.settings import Settings
from segmate_cli.batch.slots import Slot, log_path, worker_command
from segmate_cli.batch.stopping import Stop
from segmate_cli.batch.work import Job
from segmate_cli.errors import (
    BatchNeverStartedError,
    BatchStoppedError,
    ExitCode,
    MemoryCapError,
    ModelError,
    OutputError,
    SegmateError,
    UsageError,
)

TIMEOUT_EXIT = 124
_TICK_SECONDS = 0.2
# So many cases in a row whose outputs cannot be written mean that none can.
_WRITE_FAILURES = 3
_DEATHS_AT_START = 3


class View(Protocol):
    """Shows how a batch goes."""

    def update(self, tally: Tally, busy: int) -> None:
        """Something has changed, or a moment has passed."""

    def tell(self, record: Record) -> None:
        """A case has come to its end."""


@dataclass(slots=True)
class Tally:
    """How far a batch is.

    Attributes:
        total: Cases there are.
        known: Of these, done in an earlier run.
        done: Done in this one.
        review: Of known and done, to be looked at.
        failed: Given up.
        causes: Failures by cause.
    """

    total: int
    known: int = 0
    done: int = 0
    review: int = 0
    failed: int = 0
    causes: Counter[str] = field(default_factory=Counter)

    @property
    def left(self) -> int:
        """Cases without an outcome."""
        return self.total - self.known - self.done - self.failed

    def add(self, state: State, cause: str = "", *, known: bool = False) -> None:
        """Count a case's outcome."""
        if state == "failed":
            self.failed += 1
            self.causes[cause] += 1
            return
        self.known += known
        self.done += not known
        self.review += state == "review"

    @property
    def exit_code(self) -> ExitCode:
        """Of a batch that came to its end."""
        if self.failed and self.failed == self.total:
            return ExitCode.BATCH_NONE_SUCCEEDED
        if self.failed:
            return ExitCode.BATCH_SOME_FAILED
        return ExitCode.REVIEW if self.review else ExitCode.DONE


@dataclass(frozen=True, slots=True)
class Plan:
    """How a batch is driven.

    Attributes:
        out: The output folder.
        config_sha256: Identity of the configuration.
        settings: For the workers; threads and memory cap are each worker's share.
        jobs: Workers at a time.
        timeout_s: What a case may take.
        retries: How often a case that may go better is tried again.
        paranoid: See ``Job``.
        command: Starts a worker; by default segmate's own.
    """

    out: Path
    config_sha256: str
    settings: Settings
    jobs: int = 1
    timeout_s: float = 1200.0
    retries: int = 1
    paranoid: bool = False
    command: Callable[[dict[str, Any]], list[str]] = worker_command


class Driver:
    """One go over a list of cases with one set of workers."""

    def __init__(self, plan: Plan, tally: Tally, events: EventLog, view: View, stop: Stop) -> None:
        self._plan = plan
        self._tally = tally
        self._events = events
        self._view = view
        self._stop = stop
        self._todo: deque[Job] = deque()
        self._slots: list[Slot] = []
        self._started = 0
        self._deaths_at_start = 0
        self._write_failures = 0
        self.too_large: list[Case] = []
        self.taken: list[tuple[str, str]] = []

    def run(self, cases: Iterable[Case]) -> None:
        """Do the cases, until none is left or a stop is asked for.

        Cases that do not fit under a worker's share of the memory cap are kept in ``too_large``
        where there are several workers: alone they may fit. ``taken`` has the pairs of cases of
        which the second took over the first one's results.

        Raises:
            OutputError: The output folder takes nothing any more.
            BatchStoppedError, ModelError, EngineMissingError: No worker can be started.
        """
        plan = self._plan
        self._todo.extend(
            Job(case, str(plan.out), plan.config_sha256, paranoid=plan.paranoid) for case in cases
        )
        try:
            while (self._todo and not self._stop.asked) or self._busy():
                if self._stop.at_once:
                    return
                self._hand_out()
                self._listen()
                self._end_overdue()
                self._view.update(self._tally, len(self._busy()))
        finally:
            self._end_workers()

    def _busy(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.job is not None]

    def _hand_out(self) -> None:
        idle = [slot for slot in self._slots if slot.job is None]
        while self._todo and not self._stop.asked and len(self._busy()) < self._plan.jobs:
            slot = idle.pop() if idle else self._start()
            job = self._todo.popleft()
            self._events.add("case_started", case=job.case.case_id, attempt=job.attempt)
            slot.give(job)

    def _start(self) -> Slot:
        self._started += 1
        log = log_path(self._plan.out / records.STATE_FOLDER, self._started % self._plan.jobs)
        slot = Slot(self._plan.command(self._plan.settings.as_json()), log)
        self._slots.append(slot)
        return slot

    def _listen(self) -> None:
        by_channel = {slot.channel: slot for slot in self._slots}
        for channel in wait(list(by_channel), _TICK_SECONDS):
            slot = by_channel[channel]  # type: ignore[index]  # only ours were given
            message = slot.hear()
            if message is None:
                self._buried(slot, *slot.cause_of_death())
            elif "unfit" in message:
                raise _unfit(message["unfit"]) or self._stopped(str(message["unfit"]["message"]))
            elif "done" in message:
                self._succeeded(slot, **message["done"])
            elif "failed" in message:
                self._failed(slot, message["failed"])
            else:
                self._deaths_at_start = 0

    def _stopped(self, message: str) -> BatchStoppedError:
        """An early end, with the exit code that tells whether any case is done."""
        some_done = self._tally.known or self._tally.done
        return (BatchStoppedError if some_done else BatchNeverStartedError)(message)

    def _end_overdue(self) -> None:
        for slot in self._busy():
            if slot.busy_seconds > self._plan.timeout_s:
                slot.kill()
                text = f"it took longer than {self._plan.timeout_s:g} s and was ended."
                self._buried(slot, "timeout", TIMEOUT_EXIT, text)

    def _succeeded(self, slot: Slot, record: dict[str, Any], how: str) -> None:
        self._report_done(Record.model_validate(record), how)
        slot.job = None

    def _report_done(self, record: Record, how: str) -> None:
        self._write_failures = 0
        self._tally.add(record.state, record.cause, known=how == "known")
        if how == "taken" and record.taken_from is not None:
            self.taken.append((record.taken_from, record.case))
        self._events.add(
            "case_done",
            case=record.case,
            state=record.state,
            how=how,
            seconds=record.seconds,
            peak_memory_bytes=record.peak_memory_bytes,
            taken_from=record.taken_from,
        )
        self._view.tell(record)

    def _failed(self, slot: Slot, trouble: dict[str, Any]) -> None:
        """A worker has told that a case failed; it is alive."""
        job, slot.job = slot.job, None
        if job is None:
            return
        if trouble["again"]:
            self._remove(slot)  # whatever is wrong with it ends with it
        if trouble["kind"] == "MemoryCapError" and self._plan.jobs > 1:
            self.too_large.append(job.case)
            self._events.add("case_put_off", case=job.case.case_id, message=trouble["message"])
            return
        self._retry_or_give_up(
            job, trouble["cause"], trouble["exit_code"], trouble["message"], trouble["again"]
        )

    def _buried(self, slot: Slot, cause: str, code: int, message: str) -> None:
        """A worker has died; its case, if it had one, is the one that it costs."""
        self._slots.remove(slot)
        if not slot.ready:
            self._deaths_at_start += 1
            if self._deaths_at_start >= _DEATHS_AT_START:
                raise self._stopped(
                    f"no worker process comes to life: {message} See {records.STATE_FOLDER} in "
                    f"{self._plan.out} for what they said."
                )
        if slot.job is not None:
            self._retry_or_give_up(slot.job, cause, code, message, True)

    def _retry_or_give_up(self, job: Job, cause: str, code: int, message: str, again: bool) -> None:
        facts = {"case": job.case.case_id, "cause": cause, "exit_code": code, "message": message}
        if again and job.attempt <= self._plan.retries and not self._stop.asked:
            self._events.add("case_retried", **facts, attempt=job.attempt)
            number, halvings = job.attempt + 1, job.halvings + 1
            self._todo.append(dataclasses.replace(job, attempt=number, halvings=halvings))
            return
        if again and self._stop.asked:
            return  # the next run tries it
        self._events.add("case_failed", **facts, attempts=job.attempt)
        record = record_failure(job, cause, code, message)
        self._tally.add(record.state, record.cause)
        self._view.tell(record)
        self._write_failures = self._write_failures + 1 if cause == "output" else 0
        if self._write_failures >= _WRITE_FAILURES:
            raise OutputError(
                f"{message} {self._write_failures} cases in a row could not be written, so the "
                "batch stops; the same command goes on from here."
            )

    def _remove(self, slot: Slot) -> None:
        self._slots.remove(slot)
        slot.dismiss()

    def _end_workers(self) -> None:
        for slot in self._slots:
            if self._stop.at_once:
                slot.kill()
            else:
                slot.dismiss()
        self._slots.clear()


def _unfit(trouble: dict[str, Any]) -> SegmateError | None:
    """The error that keeps every worker from starting, where its kind is known."""
    message = str(trouble["message"])
    if trouble["exit_code"] == ExitCode.BAD_MODEL:
        return ModelError(message)
    if trouble["exit_code"] == ExitCode.MEMORY:
        return MemoryCapError(message)
    if trouble["exit_code"] == ExitCode.USAGE:
        return UsageError(message)
    return None
