"""The driver and its crew: whatever a worker does, it costs its own case and no other."""

from __future__ import annotations

import json
import re
import signal
import threading
import time

import pytest
import stub_worker
from conftest import ROOT

from segmate_cli.batch import records
from segmate_cli.batch.cases import Case
from segmate_cli.batch.crew import LocalCrew
from segmate_cli.batch.driver import Driver, Plan, Tally
from segmate_cli.batch.events import EventLog
from segmate_cli.batch.settings import Settings
from segmate_cli.batch.stopping import Stop
from segmate_cli.errors import (
    BatchNeverStartedError,
    BatchStoppedError,
    ExitCode,
    OutputError,
)


class Silent:
    def update(self, tally, busy):
        pass

    def tell(self, record):
        pass


class Batch:
    """A driver with stub workers over files that say in their names how they end."""

    def __init__(self, folder, jobs=1, timeout_s=60.0, retries=1):
        self.folder, self.out = folder, folder / "out"
        (self.out / ".segmate").mkdir(parents=True, exist_ok=True)
        settings = Settings()
        self.plan = Plan(self.out, "c" * 64, settings, jobs, timeout_s, retries)
        self.tally, self.stop = Tally(0), Stop()
        self.crew = LocalCrew(
            settings, self.out / ".segmate", jobs, timeout_s, command=stub_worker.command
        )

    def run(self, *names):
        cases = []
        for name in names:
            path = self.folder / f"{name}.nii"
            path.write_text(name)
            cases.append(Case(name.replace(".", "-"), str(path)))
        self.tally.total = len(cases)
        with self.stop.cases_under_way(), EventLog(self.out / "events.jsonl", "run") as events:
            driver = Driver(self.plan, self.crew, self.tally, events, Silent(), self.stop)
            driver.run(cases)

    def record(self, name):
        return records.read(self.out / name.replace(".", "-"))

    def events(self, kind):
        lines = (self.out / "events.jsonl").read_text().splitlines()
        return [each for each in map(json.loads, lines) if each["event"] == kind]


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


DEATHS = {
    "segv": ("crash", 128 + signal.SIGSEGV),
    "oom": ("memory", 128 + signal.SIGKILL),
    "exit": ("crash", 1),
}


def test_a_worker_that_dies_costs_its_case_alone(batch):
    names = [f"{word}.{n}" for n, word in enumerate(["good", "segv", "good", "oom", "exit", "x"])]
    batch.run(*names)
    for name in names:
        record, word = batch.record(name), name.partition(".")[0]
        if word in DEATHS:
            assert (record.cause, record.exit_code) == DEATHS[word]
            assert (record.state, record.attempts) == ("failed", 2)
        else:
            assert (record.state, record.attempts) == ("done", 1)
    assert batch.tally.exit_code == ExitCode.BATCH_SOME_FAILED
    assert batch.tally.causes == {"crash": 2, "memory": 1}


def test_the_second_attempt_has_half_the_batch_in_a_fresh_process(batch):
    batch.run("good", "first-oom.1", "first-full.1")
    assert batch.record("good").batch_size == 4
    for name in ("first-oom.1", "first-full.1"):
        record = batch.record(name)
        assert (record.state, record.attempts, record.batch_size) == ("done", 2, 2)
    assert [each["cause"] for each in batch.events("case_retried")] == ["memory", "output"]


def test_bad_input_is_not_tried_again(batch):
    batch.run("input.1", "good")
    assert batch.record("input.1").attempts == 1
    assert batch.record("input.1").exit_code == ExitCode.BAD_INPUT


def test_a_hang_ends_at_the_timeout_while_others_go_on(tmp_path):
    batch = Batch(tmp_path, jobs=2, timeout_s=8.0, retries=0)
    start = time.monotonic()
    batch.run("hang.1", *[f"good.{n}" for n in range(10)])
    assert time.monotonic() - start < 60
    assert (batch.record("hang.1").cause, batch.record("hang.1").exit_code) == ("timeout", 124)
    assert batch.tally.done == 10


def test_a_full_disk_ends_the_batch_instead_of_failing_every_case(tmp_path):
    batch = Batch(tmp_path, retries=0)
    with pytest.raises(OutputError, match="3 cases in a row"):
        batch.run(*[f"full.{n}" for n in range(9)])
    assert batch.tally.failed == 3


@pytest.mark.parametrize(("known", "error"), [(0, BatchNeverStartedError), (1, BatchStoppedError)])
def test_workers_that_do_not_come_to_life_end_the_batch(batch, monkeypatch, known, error):
    monkeypatch.setenv("STUB_WORKER", "stillborn")
    batch.tally.known = known
    with pytest.raises(BatchStoppedError, match="no worker process comes to life") as caught:
        batch.run("a", "b", "c")
    assert type(caught.value) is error
    code = ExitCode.BATCH_SOME_FAILED if known else ExitCode.BATCH_NONE_SUCCEEDED
    assert caught.value.exit_code == code


def documented():
    """Names that docs/operations.md gives of each event."""
    table = (ROOT / "docs" / "operations.md").read_text().partition("## Events")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.M)
    return {name: set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", text))) for name, text in rows}


def test_events_have_what_the_docs_say(batch):
    batch.run("good", "first-oom.1", "input.1")
    lines = (batch.out / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert {each["event"] for each in events} == {
        *("case_started", "case_done", "case_retried", "case_failed"),
    }
    for event in events:
        assert event.keys() - {"time", "run", "event"} == documented()[event["event"]]


def later(seconds, call):
    timer = threading.Timer(seconds, call)
    timer.start()
    return timer


def test_the_first_sigint_lets_the_case_end_and_the_second_does_not(tmp_path):
    batch = Batch(tmp_path)
    later(1.0, lambda: batch.stop.on_signal(signal.SIGINT, None))
    later(2.5, lambda: batch.stop.on_signal(signal.SIGINT, None))
    start = time.monotonic()
    batch.run("hang.1", "good")
    assert 2.4 < time.monotonic() - start < 6
    assert batch.record("good") is None
    assert batch.record("hang.1") is None  # abandoned, not failed
    assert batch.stop.exit_code == 130


def test_sigterm_abandons_a_case_within_ten_seconds(tmp_path):
    batch = Batch(tmp_path)
    later(0.5, lambda: batch.stop.on_signal(signal.SIGTERM, None))
    start = time.monotonic()
    batch.run("hang.1", "good")
    assert time.monotonic() - start < 9
    assert batch.record("hang.1") is None
    assert batch.stop.exit_code == 143


def test_a_signal_ends_at_once_where_no_case_is_under_way():
    stop = Stop()
    with pytest.raises(SystemExit) as caught:
        stop.on_signal(signal.SIGTERM, None)
    assert caught.value.code == 143
