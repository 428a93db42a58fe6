"""The quick form of ``benchmarks/batch.py``, and a file system that fails: stated outcomes."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, ball_scan
from mixed_scans import BROKEN

from segmate_cli import files
from segmate_cli.batch import records

sys.path.insert(0, str(ROOT))
batch_kills = pytest.importorskip("benchmarks.batch_kills", reason="needs a clone")


def test_kills_lose_nothing_and_repeat_nothing(tmp_path):
    (row,) = batch_kills.kills(tmp_path, 3, scans=12)
    assert row.met, row.measured


def test_each_kind_of_broken_scan_has_its_state_and_exit_code(tmp_path):
    (row,) = batch_kills.mixed(tmp_path, len(BROKEN) + 4, good=4)
    assert row.met, row.measured


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(2):
        ball_scan(folder / f"b{n}.nii.gz", size=16 + n)
    return folder


@pytest.fixture
def batch(run, tiny_bundle):
    def call(*args):
        return run("batch", *args, "--model", tiny_bundle)

    return call


def rows(out):
    with (out / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def in_a_process(code, *args):
    """The command in a process in which ``code`` has spoiled something first."""
    script = f"import sys\n{code}\nfrom segmate_cli import cli\nsys.exit(cli.main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", script, "batch", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


# A file layer whose next renames fail, in the driver and (by sitecustomize) in its workers.
FAILING_RENAMES = """
import errno, os, pathlib
_real, _left = pathlib.Path.replace, [{count}]
def replace(self, target):
    if _left[0] and str(target).endswith({suffix!r}):
        _left[0] -= 1
        raise OSError({number}, os.strerror({number}))
    return _real(self, target)
pathlib.Path.replace = replace
"""


@pytest.fixture
def failing_renames(tmp_path, monkeypatch):
    """Make renames in the workers fail, as a network file system may."""

    def install(suffix, count, number):
        folder = tmp_path / "site"
        folder.mkdir()
        code = FAILING_RENAMES.format(suffix=suffix, count=count, number=int(number))
        (folder / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return install


def test_a_receipt_that_cannot_be_renamed_leaves_nothing_half_done(
    batch, scans, tmp_path, failing_renames, monkeypatch
):
    failing_renames("case.json", 1, errno.EIO)  # in each worker: both attempts are spent
    out = tmp_path / "out"
    code, _, _ = batch(scans / "b0.nii.gz", "-o", out)
    (row,) = rows(out)
    assert (code, row["state"], row["cause"], row["attempts"]) == (10, "failed", "output", "2")
    assert sorted(path.name for path in (out / "b0").iterdir()) == ["case.json"]
    monkeypatch.delenv("PYTHONPATH")
    assert batch(scans / "b0.nii.gz", "-o", out)[0] == 0
    assert records.read(out / "b0").state == "done"


def test_renames_that_always_fail_end_the_batch_with_8(batch, tmp_path, failing_renames):
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(5):
        ball_scan(folder / f"b{n}.nii.gz", size=16 + n)
    failing_renames("labels.nii.gz", 99, errno.ESTALE)
    code, _, told = batch(folder, "-o", tmp_path / "out", "--retries", "0")
    assert code == 8
    assert "3 cases in a row" in told
    assert len(rows(tmp_path / "out")) == 3


def test_a_full_disk_ends_with_8_and_goes_on_when_there_is_room(scans, tmp_path, tiny_bundle):
    out = tmp_path / "out"
    # Every file may have 20 bytes: as a disk that is full, seen from each writer.
    code = (
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))"
    )
    code += "\nimport signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    done = in_a_process(code, scans, "-o", out, "--model", tiny_bundle)
    assert done.returncode == 8, done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(out.glob("**/*.part"))
    again = in_a_process("", scans, "-o", out, "--model", tiny_bundle)
    assert again.returncode == 0, again.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_event_log_that_takes_no_more_ends_with_8(batch, scans, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "events.jsonl").symlink_to("/dev/full")
    code, _, told = batch(scans, "-o", out)
    assert (code, "events.jsonl" in told) == (8, True)
    (out / "events.jsonl").unlink()
    assert batch(scans, "-o", out)[0] == 0


def test_an_out_that_cannot_be_made_or_written_ends_with_8(batch, scans, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/segmate-out")):
        code, _, told = batch(scans, "-o", out)
        assert code == 8, told
        assert told.count("\n") == 1


def test_times_from_the_future_and_a_clock_set_back_redo_nothing(batch, scans, tmp_path):
    out = tmp_path / "out"
    later = time.time_ns() + 10**18  # 31 years
    os.utime(scans / "b0.nii.gz", ns=(later, later))
    assert batch(scans, "-o", out)[0] == 0
    record = json.loads((out / "b0" / records.NAME).read_text())
    record["finished"] = "2099-01-01T00:00:00+00:00"  # the clock has been set back since
    (out / "b0" / records.NAME).write_text(json.dumps(record))
    code, _, told = batch(scans, "-o", out)
    assert (code, "0 done, 2 known" in told) == (0, True)


def test_odd_names_each_have_a_case_and_find_it_again(batch, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    longest = "x" * (255 - len(".nii.gz")) + ".nii.gz"
    names = ["Müller Ärzte.nii.gz", "日本.nii.gz", "a\nb.nii.gz", "-o.nii.gz", "a'\"$(x).nii.gz"]
    names += [longest, os.fsdecode(b"latin\xe9.nii.gz"), "\u202eevil.nii.gz"]
    for n, name in enumerate(names):
        ball_scan(tmp_path / "scan.nii.gz", size=16 + n).rename(folder / name)
    (folder / "loop").symlink_to(folder)
    (folder / "two.nii.gz").hardlink_to(folder / "日本.nii.gz")
    out = tmp_path / "out"
    code, _, told = batch(folder, "-o", out)
    assert code == 0, told
    assert {row["state"] for row in rows(out)} == {"done"}
    assert len(rows(out)) == len(names) + 1
    assert all(row["case"].isascii() and len(row["case"]) <= 110 for row in rows(out))
    assert "0 done, 9 known" in batch(folder, "-o", out)[2]


def test_ten_thousand_scans_in_one_folder_are_found_in_seconds(tmp_path):
    from segmate_cli.batch.cases import find_cases
    from segmate_cli.batch.series_index import SeriesIndex

    for n in range(10_000):
        (tmp_path / f"scan{n}.nii.gz").touch()
    cases = find_cases([str(tmp_path)], SeriesIndex(), tmp_path / "none")
    assert len({case.case_id for case in cases}) == 10_000


def test_nothing_is_left_of_a_write_that_fails(tmp_path, monkeypatch):
    def fail(self, target):
        raise OSError(errno.EXDEV, "as NFS may")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(files.OutputError, match="as NFS may"):
        files.write_text(tmp_path / "a.txt", "text")
    assert list(tmp_path.iterdir()) == []
