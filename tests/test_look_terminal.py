"""Colours and bars on a terminal, the plain table everywhere else."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest
from look_maker import write_case

from segmate_cli.doubt.words import Finding, Verdict
from segmate_cli.look.terminal import print_table, wants_colour


def row(organ="liver", volume_ml=1200.0, status="complete", **more):
    plain = {"scan": "a.nii.gz", "mean_hu": None, "sd_hu": None, "reasons": []}
    bound = {"is_lower_bound": status == "truncated"}
    return {**plain, **bound, "organ": organ, "volume_ml": volume_ml, "status": status, **more}


def shown(*rows, verdict=None):
    stream = io.StringIO()
    print_table(rows, {"a.nii.gz": verdict} if verdict else {}, stream, width=80)
    return stream.getvalue()


def bar_of(text):
    """The bar's cells, without colours."""
    import re

    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return re.search(r"[\u2500\u2501]*\u25cf[\u2500\u2501]*", plain).group()


def test_the_mark_moves_with_the_volume():
    volumes = (100, 900, 1600, 2500, 9e4)
    marks = [bar_of(shown(row(volume_ml=ml))).index("\u25cf") for ml in volumes]
    assert marks == sorted(marks)
    assert marks[0] < marks[2] < marks[4] == len(bar_of(shown(row()))) - 1


def test_the_mark_within_the_range_lies_on_its_line():
    bar = bar_of(shown(row(volume_ml=1200.0)))
    at = bar.index("\u25cf")
    assert bar[at - 1] == bar[at + 1] == "\u2501"


def test_statuses_have_their_colours():
    assert "\x1b[32mcomplete" in shown(row())
    assert "\x1b[33mtruncated" in shown(row(status="truncated"))
    assert "\x1b[1;31mnot found" in shown(row(volume_ml=None, status="not_found"))


def test_what_is_unknown_is_no_number():
    text = shown(row(volume_ml=None, status="not_found"))
    assert "0.0" not in text
    assert "\u25cf" not in text
    assert ">=1200.0" in shown(row(status="truncated"))


def test_reasons_and_the_verdict_are_told():
    finding = Finding("volume", "review", "liver", "Liver: its volume is 9000 ml.")
    text = shown(row(reasons=["cut at the superior face"]), verdict=Verdict((finding,)))
    assert "Liver: cut at the superior face" in text
    assert "verdict: review" in text


@pytest.mark.parametrize("name", ["NO_COLOR", "TERM"])
def test_who_wants_no_colours_gets_none(name, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    assert not wants_colour(None)
    monkeypatch.setenv(name, "1" if name == "NO_COLOR" else "dumb")
    assert not wants_colour(Terminal())


def on_a_terminal(*command):
    """What a command prints on a terminal of its own."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdout=follower, env=environment) as process:
        os.close(follower)
        parts = []
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not part:
                break
            parts.append(part)
        process.wait(60)
    os.close(leader)
    return b"".join(parts).decode()


def test_a_real_terminal_and_a_real_pipe(tmp_path):
    labels, _ = write_case(tmp_path)
    command = [sys.executable, "-m", "segmate_cli", "report", str(labels), "--no-gate-exit"]
    terminal = on_a_terminal(*command)
    assert "\x1b[" in terminal
    assert "Liver" in terminal
    piped = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "\x1b[" not in piped
    assert piped.splitlines()[0].split()[:2] == ["organ", "volume_ml"]
