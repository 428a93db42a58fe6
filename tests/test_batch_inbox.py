"""``segmate batch --watch``: what comes in is taken when it is whole, once, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from conftest import ball_scan
from dicom_maker import Recipe, make_series

from segmate_cli.batch import records
from segmate_cli.batch.cases import Case
from segmate_cli.batch.inbox import Quiet


def test_quiet_is_told_by_looking_again_not_by_the_clock_on_the_wall():
    now = [100.0]
    quiet = Quiet(10, clock=lambda: now[0])
    case = Case("a", "a.nii")
    assert not quiet.since(case, "10 bytes")
    now[0] += 9
    assert not quiet.since(case, "20 bytes")  # still growing
    now[0] += 9
    assert not quiet.since(case, "20 bytes")
    now[0] += 2
    assert quiet.since(case, "20 bytes")
    quiet.forget_others([])
    assert not quiet.since(case, "20 bytes")


@contextmanager
def watching(inbox, out, bundle, *more):
    """The real command, which is asked to end by SIGTERM."""
    command = [sys.executable, "-m", "segmate_cli", "batch", inbox, "-o", out, "--model", bundle]
    command += ["--watch", "--quiet-for", "0.5s", *more]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 143, told
    finally:
        process.kill()
        process.wait()


def state_of(out, case):
    record = records.read(out / case)
    return record and record.state


def until(check):
    end = time.monotonic() + 90
    while not check():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def events(out, kind):
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [each["case"] for each in lines if each["event"] == kind]


def test_an_inbox_over_two_lives(tmp_path, tiny_bundle):
    inbox, out, aside = tmp_path / "in", tmp_path / "out", tmp_path / "aside"
    (inbox / "sub").mkdir(parents=True)
    make_series(inbox / "ct", Recipe(shape=(12, 24, 24)))
    (inbox / "bad.nii.gz").write_bytes(b"no scan")
    with watching(inbox, out, tiny_bundle):
        until((out / "bad" / records.NOTE).exists)
        assert "no scan" not in (out / "bad" / records.NOTE).read_text()
    assert state_of(out, "ct") == "done"
    before = os.stat(out / "ct" / "labels.nii.gz").st_ino
    with watching(inbox, out, tiny_bundle, "--set-aside", aside):
        ball_scan(inbox / "bad.nii.gz")  # sent again, whole
        ball_scan(tmp_path / "next.nii.gz").rename(inbox / "next.nii.gz")
        (inbox / "sub" / "worse.nii.gz").write_bytes(b"nor this")
        until((aside / "sub--worse" / records.NOTE).exists)
        until(lambda: state_of(out, "next") == state_of(out, "bad") == "done")
    assert os.stat(out / "ct" / "labels.nii.gz").st_ino == before
    assert events(out, "case_started").count("ct") == 1
    assert not (out / "bad" / records.NOTE).exists()
    assert (aside / "sub--worse" / "worse.nii.gz").read_bytes() == b"nor this"
    assert not (inbox / "sub" / "worse.nii.gz").exists()
    assert (out / "cohort.csv").read_text().count("done") == 3


def test_what_cannot_be_watched_is_refused(run, tmp_path, tiny_bundle):
    ball_scan(tmp_path / "one.nii.gz")
    out = tmp_path / "out"
    more = ("-o", out, "--model", tiny_bundle)
    assert run("batch", tmp_path / "one.nii.gz", *more, "--watch")[0] == 2
    inside = tmp_path / "aside"
    assert run("batch", tmp_path, *more, "--watch", "--set-aside", inside)[0] == 2
    assert run("batch", tmp_path, *more, "--set-aside", inside)[0] == 2
    assert not out.exists()


def test_a_watch_says_nothing_of_an_empty_inbox_and_ends_at_once(tmp_path, tiny_bundle):
    inbox = tmp_path / "in"
    inbox.mkdir()
    out = tmp_path / "out"
    with watching(inbox, out, tiny_bundle):
        until((out / "events.jsonl").exists)
    with pytest.raises(AssertionError):  # the run has ended, and said so
        assert json.loads((out / "run.json").read_text())["ended"] is None
