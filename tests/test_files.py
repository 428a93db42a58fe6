"""Files appear whole or not at all, and never over something that must stay."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from segmate_cli import files
from segmate_cli.errors import OutputError, OutputExistsError


class Halt(BaseException):
    """Stands for SIGTERM or Ctrl-C, which no `except Exception` sees."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "out.bin"
    with files.write_atomically(path) as stream:
        stream.write(b"first")
        stream.flush()
        assert not path.exists()
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["out.bin"]


@pytest.mark.parametrize("error", [ValueError, Halt, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"precious"])
def test_an_exception_leaves_what_was_there(tmp_path, error, before):
    path = tmp_path / "out.bin"
    if before is not None:
        path.write_bytes(before)

    def half_a_file() -> None:
        with files.write_atomically(path) as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(error):
        half_a_file()
    assert names(tmp_path) == ([] if before is None else ["out.bin"])
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_is_told_as_that(tmp_path, number):
    def run_out() -> None:
        with files.write_atomically(tmp_path / "out.bin") as stream:
            stream.write(b"x")
            raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError, match="the disk is full"):
        run_out()
    assert names(tmp_path) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a tmpfs; the limit on file sizes stands in for it")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_leaves_nothing(tiny_disk):
    path = tiny_disk / "out.bin"
    path.write_bytes(b"before")

    def too_much() -> None:
        with files.write_atomically(path) as stream:
            for _ in range(100):
                stream.write(b"x" * 4096)

    with pytest.raises(OutputError, match="the disk is full"):
        too_much()
    assert names(tiny_disk) == ["out.bin"]
    assert path.read_bytes() == b"before"


def test_a_limit_on_file_sizes_leaves_nothing(tmp_path):
    if sys.platform == "win32":
        pytest.skip("no RLIMIT_FSIZE on Windows")
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from segmate_cli import errors, files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n"
        "    files.write_text(Path(sys.argv[1]), 'x' * 20_000)\n"
        "except errors.OutputError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out.txt")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "out.txt: cannot be written (File too large)" in done.stdout
    assert names(tmp_path) == []


def test_a_folder_that_may_not_be_written_to(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write anywhere (root); run as another to test it")
    with pytest.raises(OutputError, match="no permission"):
        files.check_output(locked / "out.bin", overwrite=False)
    with pytest.raises(OutputError, match="cannot be written"):
        files.write_text(locked / "out.bin", "x")


def test_a_folder_that_may_not_be_looked_into(tmp_path, monkeypatch):
    def refuse(self: Path, **_: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(OutputError, match="cannot be written"):
        files.check_output(tmp_path / "out.bin", overwrite=False)


def test_a_folder_that_is_gone_by_the_time_of_writing(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        files.write_text(tmp_path / "gone" / "out.txt", "x")


@pytest.mark.parametrize("name", ["a" * 248 + ".nii.gz", "é" * 124 + ".nii", "肝" * 82 + ".nii.gz"])
def test_the_longest_names_can_be_written(tmp_path, name):
    assert len(name.encode()) >= 250
    files.check_output(tmp_path / name, overwrite=False)
    files.write_text(tmp_path / name, "whole")
    assert (tmp_path / name).read_text() == "whole"
    assert len(names(tmp_path)) == 1


def test_a_name_that_is_too_long_is_told(tmp_path):
    with pytest.raises(OutputError, match="name too long"):
        files.check_output(tmp_path / ("a" * 300), overwrite=False)


def test_text_is_utf_8_with_plain_line_ends(tmp_path):
    files.write_text(tmp_path / "t.txt", "Ösophagus\n")
    assert (tmp_path / "t.txt").read_bytes() == "Ösophagus\n".encode()


# --- what an output may be -------------------------------------------------------------------


def test_an_output_that_is_free(tmp_path):
    files.check_output(tmp_path / "out.bin", overwrite=False, inputs=(tmp_path / "in.bin",))
    assert names(tmp_path) == []


def test_an_output_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.check_output(Path("out.bin"), overwrite=False)
    files.write_text(Path("out.bin"), "x")
    assert names(tmp_path) == ["out.bin"]


def test_an_existing_output_needs_overwrite(tmp_path):
    path = tmp_path / "out.bin"
    path.write_bytes(b"x")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        files.check_output(path, overwrite=False)
    files.check_output(path, overwrite=True)


@pytest.mark.parametrize("link", ["itself", "symlink", "hard link", "linked folder", "dotted"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_input_is_never_the_output(tmp_path, link, overwrite):
    given = tmp_path / "in.nii"
    given.write_bytes(b"scan")
    path = given
    if link == "symlink":
        path = tmp_path / "link.nii"
        path.symlink_to(given)
    elif link == "hard link":
        path = tmp_path / "hard.nii"
        path.hardlink_to(given)
    elif link == "linked folder":
        (tmp_path / "there").symlink_to(tmp_path)
        path = tmp_path / "there" / "in.nii"
    elif link == "dotted":
        path = tmp_path / "." / ".." / tmp_path.name / "in.nii"
    other = tmp_path / "other.nii"
    with pytest.raises(OutputError, match="the input itself"):
        files.check_output(path, overwrite=overwrite, inputs=(other, given))
    assert given.read_bytes() == b"scan"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_is_no_output(tmp_path, overwrite):
    with pytest.raises(OutputError, match="is a folder"):
        files.check_output(tmp_path, overwrite=overwrite)


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(OutputError, match="no such folder"):
        files.check_output(tmp_path / "nowhere" / "out.bin", overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_devices_and_pipes_are_not_renamed_over(tmp_path, overwrite):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes on this system")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="device or pipe"):
        files.check_output(tmp_path / "pipe", overwrite=overwrite)
    with pytest.raises(OutputError, match="device or pipe"):
        files.check_output(Path(os.devnull), overwrite=overwrite)


def test_a_dangling_link_is_replaced_by_the_file(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    files.check_output(tmp_path / "link", overwrite=False)
    files.write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").read_text() == "x"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_hash_of_a_file(tmp_path, size):
    data = (b"0123456789" * (size // 10 + 1))[:size]
    (tmp_path / "f").write_bytes(data)
    assert files.sha256_of_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()
