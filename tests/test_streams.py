"""Standard streams: closed ones, and names of files that their encoding cannot say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, ball_scan
from test_geometry import make

from segmate_cli import nifti_labels
from segmate_cli.organs import organ
from segmate_cli.volume import Labels

SEGMATE = [sys.executable, "-m", "segmate_cli"]
# No locale that says UTF-8, and Python's own remedies for that off.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
STRICT = {"PYTHONIOENCODING": "utf-8:strict"}
NAMES = (os.fsdecode(b"l\xff.nii.gz"), "lé.nii.gz")


def segmate(*args: object, env: dict[str, str] | None = None, **more: object):
    return subprocess.run(
        [*SEGMATE, *(os.fsencode(str(arg)) for arg in args)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        check=False,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label maps whose names are no UTF-8, and no ASCII."""
    made = tmp_path_factory.mktemp("names")
    geometry = make("SPL", spacing=(3.0, 0.9, 0.8), shape=(4, 5, 6))
    values = np.ones(geometry.shape, np.uint8)
    for name in NAMES:
        try:
            nifti_labels.write_labels(Labels(values, geometry, {1: organ("liver")}), made / name)
        except OSError:
            pytest.skip("this file system takes no names that are no UTF-8")
    return made


@pytest.mark.parametrize("env", [ASCII, STRICT], ids=("ascii", "strict"))
def test_names_go_in_and_out_as_the_file_system_has_them(folder, tmp_path, env):
    given = b"\n".join(os.fsencode(folder / name) for name in NAMES) + b"\n"
    done = segmate("report", "--format", "csv", env=env, input=given)
    assert done.returncode == 0, done.stderr
    assert [row.split(b",")[0] for row in done.stdout.splitlines()[1:]] == given.split()
    out = tmp_path / os.fsdecode(b"out\xff.csv")
    done = segmate("report", *(folder / name for name in NAMES), "-o", out, env=env)
    assert (done.returncode, done.stdout) == (0, os.fsencode(out) + b"\n"), done.stderr
    written = out.read_text(encoding="utf-8")
    assert r"l\xff.nii.gz" in written
    assert "lé.nii.gz" in written


def test_a_page_of_a_file_whose_name_is_no_utf_8(run, folder, tmp_path):
    pytest.importorskip("jinja2", reason="pages need the extra [html]")
    assert run("report", folder / NAMES[0], "-o", tmp_path / "page.html")[0] == 0
    assert r"l\xff.nii.gz" in (tmp_path / "page.html").read_text(encoding="utf-8")


def close(*streams: int):
    return lambda: [os.close(stream) for stream in streams]


@pytest.mark.skipif(os.name != "posix", reason="streams are closed between fork and exec")
@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)], ids=("stdout", "all"))
def test_closed_streams_are_nobody_listening(tmp_path, tiny_bundle, closed):
    scan, out = ball_scan(tmp_path / "scan.nii.gz"), tmp_path / "labels.nii.gz"
    done = segmate(
        *("predict", scan, "-o", out, "--model", tiny_bundle, "--quiet", "--no-gate-exit"),
        preexec_fn=close(*closed),
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    # What was printed went nowhere, least of all into the file that was opened next.
    assert out.read_bytes()[:2] == b"\x1f\x8b"
    done = segmate("report", out, preexec_fn=close(*closed))
    assert (done.returncode, done.stderr) == (0, b"")
