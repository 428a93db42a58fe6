"""Progress goes to stderr: a bar on a terminal, JSON lines for programs, nothing on a pipe."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from segmate_cli import console

SCRIPT = (
    "import sys\n"
    "from segmate_cli import console\n"
    "style = sys.argv[1]\n"
    "with console.progress(style) as progress:\n"
    "    for n in range(1, 4):\n"
    "        progress('segment', n, 3)\n"
    "console.say('done', style=style)\n"
    "print('result')\n"
)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}


def script(style: str, **streams: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, style],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        **streams,
    )


def events(style: str, capsys: pytest.CaptureFixture[str], *calls: tuple[str, int, int]) -> list:
    with console.progress(style) as progress:
        for call in calls:
            progress(*call)
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_json_lines_say_stage_done_total_and_seconds(capsys):
    lines = events("json", capsys, ("read", 1, 1), ("segment", 1, 2), ("segment", 2, 2))
    assert [list(line) for line in lines] == [["stage", "done", "total", "seconds"]] * 3
    assert [tuple(line.values())[:3] for line in lines] == [
        ("read", 1, 1),
        ("segment", 1, 2),
        ("segment", 2, 2),
    ]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0


def test_json_lines_leave_out_what_comes_too_fast_but_no_first_and_no_last(capsys, monkeypatch):
    now = iter([0.0, 0.01, 0.02, 0.03, 0.2, 0.21, 0.22])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    calls = [("a", 1, 9), ("a", 2, 9), ("b", 1, 9), ("b", 2, 9), ("b", 3, 9), ("b", 9, 9)]
    lines = events("json", capsys, *calls)
    assert [(line["stage"], line["done"]) for line in lines] == [
        ("a", 1),
        ("b", 1),
        ("b", 2),
        ("b", 9),
    ]


@pytest.mark.parametrize("style", ["auto", "none"])
def test_nothing_where_nobody_looks(capsys, style):
    assert events(style, capsys, ("segment", 1, 2), ("segment", 2, 2)) == []


def test_no_progress_does_nothing(capsys):
    console.no_progress("segment", 1, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("style", "text"), [("auto", "segmate: 3 organs\n"), ("json", None)])
def test_messages_go_to_stderr(capsys, style, text):
    console.say("3 organs", style=style)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (text or '{"message": "3 organs"}\n')


def test_on_a_pipe_stdout_has_the_result_alone_and_stderr_no_bar():
    done = script("auto", stderr=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "result\n", "segmate: done\n")


def on_a_terminal(style: str) -> tuple[str, str]:
    """Run the script with a terminal for its stderr; gives (stdout, what the terminal got)."""
    pty = pytest.importorskip("pty", reason="no pseudo terminals on this system")
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        done = script(style, stderr=theirs)
        os.close(theirs)
        shown = b""
        try:
            while part := screen.read(65536):
                shown += part
        except OSError:  # how Linux says that the other end is closed
            pass
    assert done.returncode == 0
    return done.stdout, shown.decode()


def test_a_bar_on_a_terminal():
    out, shown = on_a_terminal("auto")
    assert out == "result\n"
    assert "segment" in shown
    assert "100%" in shown
    assert "segmate: done" in shown


@pytest.mark.parametrize("style", ["none", "json"])
def test_no_bar_on_a_terminal_that_wants_none(style):
    _, shown = on_a_terminal(style)
    assert "%" not in shown
    assert ('"stage": "segment"' in shown) == (style == "json")


@pytest.mark.parametrize("style", ["auto", "json", "none"])
def test_a_closed_stderr_sends_nothing_to_stdout(style):
    command = f'exec "$0" -c "$1" {style} 2>&-'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, SCRIPT],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "result\n")


def test_a_reader_of_progress_that_leaves_stops_no_run():
    reading, writing = os.pipe()
    os.close(reading)
    done = script("json", stderr=writing)
    os.close(writing)
    assert done.stdout == "result\n"


def test_a_stream_that_fails_is_not_the_runs_failure():
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    progress = console.JsonLines(Full())
    progress("segment", 1, 2)
    progress("segment", 2, 2)
    assert progress._stage == "segment"
