"""Who may work in an output folder: one batch, or the shards of one, and what if locks fail."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT, ball_scan

from segmate_cli.batch import output_folder
from segmate_cli.batch.locks import locked
from segmate_cli.batch.output_folder import Shard, opened
from segmate_cli.errors import OutputError, TakenError


def test_a_second_holder_waits_then_is_told(tmp_path):
    with locked(tmp_path / "lock", 1.0) as held:
        assert held
        start = time.monotonic()
        with (
            pytest.raises(TakenError, match="another segmate batch"),
            locked(tmp_path / "lock", 0.3),
        ):
            pass
        assert time.monotonic() - start >= 0.3
    with locked(tmp_path / "lock", 0.0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_is_killed_gives_it_back(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from segmate_cli.batch.locks import locked\n"
        "with locked(Path(sys.argv[1]), 1.0): print('held', flush=True); time.sleep(99)"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(TakenError), locked(tmp_path / "lock", 0.0):
            pass
        holder.kill()
    with locked(tmp_path / "lock", 1.0) as held:
        assert held


@pytest.fixture
def impatient(monkeypatch):
    """A second batch waits for less than its three seconds."""
    monkeypatch.setattr(output_folder, "_LOCK_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
def test_shards_work_beside_each_other_but_not_beside_a_whole_batch(tmp_path):
    with opened(tmp_path, Shard(1, 2), pytest.fail), opened(tmp_path, Shard(2, 2), pytest.fail):
        for other in (None, Shard(1, 2)):
            with pytest.raises(TakenError), opened(tmp_path, other, pytest.fail):
                pass


@pytest.mark.usefixtures("impatient")
def test_a_second_batch_on_the_same_out_ends_with_8(run, tmp_path, tiny_bundle):
    ball_scan(tmp_path / "a.nii.gz")
    out = tmp_path / "out"
    with opened(out, None, pytest.fail):
        code, _, told = run("batch", tmp_path / "a.nii.gz", "-o", out, "--model", tiny_bundle)
    assert (code, "another segmate batch is at work there" in told) == (8, True)
    assert not (out / "a").exists()


@pytest.fixture
def failing_locks(tmp_path, monkeypatch):
    """Locks fail here and in workers, as on some network file systems."""

    def install(number):
        def flock(handle, how):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(
            "import fcntl, os\ndef flock(handle, how):\n"
            f"    raise OSError({number}, os.strerror({number}))\nfcntl.flock = flock\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return install


def test_without_locks_a_batch_goes_on_and_says_so(run, tmp_path, tiny_bundle, failing_locks):
    failing_locks(errno.ENOLCK)
    ball_scan(tmp_path / "a.nii.gz")
    line = ("batch", tmp_path / "a.nii.gz", "-o", tmp_path / "out", "--model", tiny_bundle)
    code, _, told = run(*line)
    assert (code, "knows no locks" in told) == (0, True)
    code, _, told = run(*line)
    assert (code, "0 done, 1 known" in told) == (0, True)


def test_locking_that_fails_otherwise_is_said_not_taken_for_another_batch(tmp_path, failing_locks):
    failing_locks(errno.EIO)
    with (
        pytest.raises(OutputError, match="cannot be locked") as caught,
        locked(tmp_path / "l", 9.0),
    ):
        pass
    assert not isinstance(caught.value, TakenError)
