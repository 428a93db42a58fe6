"""A batch where hospitals run it: in a container, and on a disk that is really full."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

import dicom_maker
import nibabel
import numpy as np
import pytest
from conftest import ROOT, ball_scan, write_bundle
from dicom_maker import Recipe, make_series
from test_batch import table

NAMESPACES = ("unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child")
UID = 54321


def why_not():
    """Why no container can be made here, or nothing."""
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return "needs util-linux"
    if os.geteuid() != 0:
        return "needs root, to make namespaces and mount"
    tried = subprocess.run([*NAMESPACES, "mount", "-t", "tmpfs", "none", "/mnt"], check=False)
    return "" if tried.returncode == 0 else "namespaces may not be made here"


REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


def contained(folder, out, *command):
    """Run a command in a container that can read Python, the project and ``folder``."""
    readable = dict.fromkeys((sys.base_prefix, sys.prefix, str(ROOT), str(folder)))
    script = str(ROOT / "tests" / "container.sh")
    line = [*NAMESPACES, script, str(UID), str(out), *readable, "--", *map(str, command)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_read_only_root_strange_uid_no_network_no_shm_no_tmp(tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    (work / "in").mkdir(parents=True)
    out.mkdir()
    model = write_bundle(work / "model")
    scan = nibabel.load(ball_scan(work / "in" / "ball.nii.gz"))
    turned = scan.as_reoriented(np.array([[0, 1], [2, 1], [1, 1]]))  # goes by a temporary file
    nibabel.save(turned, work / "in" / "turned.nii.gz")
    recipe = Recipe(shape=(12, 24, 24)).but(syntax=dicom_maker.JPEG_LS)  # a decoding process
    make_series(work / "in" / "ct", recipe)
    touched = f"touch {work}/x {ROOT}/x /x 2>&1 | grep -c Read-only"
    shown = f"id -u; {touched}; ls /dev; grep -c eth /proc/net/dev"
    tried = contained(work, out, "sh", "-c", shown)
    assert tried.stdout.split() == [str(UID), "3", "null", "urandom", "zero", "0"], tried.stderr
    line = (sys.executable, "-m", "segmate_cli", "batch", work / "in", "-o", out, "--model", model)
    done = contained(work, out, "env", "-C", ROOT, *line, "--format", "sr", "--jobs", "2")
    assert done.returncode == 3, done.stderr
    states = {row["case"]: row["state"] for row in table(out / "cases.csv")}
    assert states == {"ball": "review", "ct": "done", "turned": "review"}
    assert (out / "ct" / "sr.dcm").stat().st_uid == UID


def test_a_disk_that_is_really_full(tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(4):
        ball_scan(tmp_path / "in" / f"b{n}.nii.gz", size=16 + n)
    model = write_bundle(tmp_path / "model")
    out = tmp_path / "out"
    out.mkdir()
    segmate = f"{sys.executable} -m segmate_cli batch {tmp_path}/in -o {out} --model {model}"
    script = f"""
        mount -t tmpfs -o size=60k none {out}
        {segmate}; echo "full: $?"
        ls -A {out}/*/ | grep -c part
        mount -o remount,size=9m {out}
        {segmate}; echo "room: $?"
        cat {out}/cases.csv | wc -l
    """
    done = subprocess.run(
        [*NAMESPACES, "sh", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    lines = [line for line in done.stdout.splitlines() if not line.startswith(str(out))]
    assert lines == ["full: 8", "0", "room: 0", "5"], done.stderr
    assert "the disk is full" in done.stderr
    assert "2 done, 2 known" in done.stderr
