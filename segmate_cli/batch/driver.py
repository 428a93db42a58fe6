"""The loop that hands cases to workers, hears from them, and stays alive whatever they do."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from segmate_cli.batch import records
from segmate_cli.batch.cases import Case
from segmate_cli.batch.crew import Answer, Crew
from segmate_cli.batch.events import EventLog
from segmate_cli.batch.finish import record_failure
from segmate_cli.batch.jobs import Job
from segmate_cli.batch.records import Record, State
from segmate_cli.batch.settings import Settings
from segmate_cli.batch.stopping import Stop
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

    def add_known(self, states: Iterable[State]) -> None:
        """Count cases that an earlier run has done."""
        for state in states:
            self.total += 1
            self.add(state, known=True)

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
        making_sha256: See ``Job``.
        settings: For the workers; threads and memory cap are each worker's share.
        jobs: Workers at a time.
        timeout_s: What a case may take.
        retries: How often a case that may go better is tried again.
        paranoid: See ``Job``.
    """

    out: Path
    config_sha256: str
    settings: Settings
    jobs: int = 1
    timeout_s: float = 1200.0
    retries: int = 1
    paranoid: bool = False
    making_sha256: str = ""


class Driver:
    """One go over a list of cases with one crew."""

    def __init__(
        self, plan: Plan, crew: Crew, tally: Tally, events: EventLog, view: View, stop: Stop
    ) -> None:
        self._plan = plan
        self._crew = crew
        self._tally = tally
        self._events = events
        self._view = view
        self._stop = stop
        self._todo: deque[Job] = deque()
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
            Job(
                case,
                str(plan.out),
                plan.config_sha256,
                paranoid=plan.paranoid,
                making_sha256=plan.making_sha256,
            )
            for case in cases
        )
        crew = self._crew
        try:
            while (self._todo and not self._stop.asked) or crew.busy():
                if self._stop.at_once:
                    return
                if self._stop.asked:
                    crew.stop_soon()
                self._hand_out()
                for answer in crew.hear(_TICK_SECONDS):
                    self._take(answer)
                self._view.update(self._tally, crew.busy())
        finally:
            crew.end(at_once=self._stop.at_once)

    def _hand_out(self) -> None:
        while self._todo and not self._stop.asked and self._crew.has_room():
            job = self._todo.popleft()
            self._events.add("case_started", case=job.case.case_id, attempt=job.attempt)
            self._crew.give(job)

    def _take(self, answer: Answer) -> None:
        facts = answer.facts
        if answer.kind == "unfit":
            raise _unfit(facts) or self._stopped(str(facts["message"]))
        if answer.kind == "died":
            self._buried(answer.job, **facts)
        elif answer.kind == "ready" or answer.job is None:
            self._deaths_at_start = 0
        elif answer.kind == "done":
            self._succeeded(Record.model_validate(facts["record"]), facts["how"])
        else:
            self._failed(answer.job, facts)

    def _stopped(self, message: str) -> BatchStoppedError:
        """An early end, with the exit code that tells whether any case is done."""
        some_done = self._tally.known or self._tally.done
        return (BatchStoppedError if some_done else BatchNeverStartedError)(message)

    def _succeeded(self, record: Record, how: str) -> None:
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

    def _failed(self, job: Job, trouble: dict[str, Any]) -> None:
        """A worker has told that a case failed; it is alive."""
        if trouble["kind"] == "MemoryCapError" and self._crew.jobs > 1:
            self.too_large.append(job.case)
            self._events.add("case_put_off", case=job.case.case_id, message=trouble["message"])
            return
        self._retry_or_give_up(
            job, trouble["cause"], trouble["exit_code"], trouble["message"], trouble["again"]
        )

    def _buried(
        self, job: Job | None, cause: str, exit_code: int, message: str, ready: bool
    ) -> None:
        """A worker has died; its case, if it had one, is the one that it costs."""
        if not ready:
            self._deaths_at_start += 1
            if self._deaths_at_start >= _DEATHS_AT_START:
                raise self._stopped(
                    f"no worker process comes to life: {message} See {records.STATE_FOLDER} in "
                    f"{self._plan.out} for what they said."
                )
        if job is not None:
            self._retry_or_give_up(job, cause, exit_code, message, True)

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
