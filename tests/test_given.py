"""What commands are given to work on: empty paths, pipes, lists on stdin, a folder that is gone."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from conftest import ROOT, ball_scan


@pytest.mark.parametrize(
    "args",
    [
        ("predict", "", "-o", "labels.nii.gz"),
        ("predict", "scan.nii.gz", "-o", ""),
        ("inspect", ""),
        ("report", ""),
        ("report", "labels.nii.gz", "-o", ""),
        ("batch", "", "-o", "out"),
        ("cohort", ""),
    ],
    ids=" ".join,
)
def test_an_empty_path_is_not_the_folder_one_is_in(run, args):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert "an empty path; is a variable of the shell unset?" in err


def test_a_dash_is_stdin_for_report_too(run, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{tmp_path / 'missing.nii.gz'}\n"))
    code, _, err = run("report", "-")
    assert code == 6
    assert "missing.nii.gz: there is no such file" in err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_named_pipe_is_refused_and_not_waited_for(run, tmp_path):
    os.mkfifo(tmp_path / "scan.nii.gz")
    code, _, err = run("predict", tmp_path / "scan.nii.gz", "-o", tmp_path / "labels.nii.gz")
    assert code == 6
    assert "is a device or pipe" in err


@pytest.mark.skipif(os.name != "posix", reason="a folder in use cannot be removed there")
def test_a_working_folder_that_is_gone_costs_relative_outputs_alone(tmp_path, tiny_bundle):
    scan, gone = ball_scan(tmp_path / "scan.nii.gz"), tmp_path / "gone"
    gone.mkdir()
    command = [sys.executable, "-m", "segmate_cli", "predict", str(scan), "--model"]
    command += [str(tiny_bundle), "--quiet", "--no-gate-exit", "-o"]
    script = 'rmdir ../gone && "$@"'
    for out, code in (("labels.nii.gz", 8), (str(tmp_path / "labels.nii.gz"), 0)):
        done = subprocess.run(
            ["sh", "-c", script, "sh", *command, out],
            cwd=gone,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert "bug" not in done.stderr
        gone.mkdir()
