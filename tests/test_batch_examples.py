"""The schedulers' examples and the README's pipeline, run as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, ball_scan

EXAMPLES = ROOT / "examples"


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(3):
        ball_scan(folder / f"b{n}.nii.gz", size=16 + n)
    (folder / "bad.nii.gz").write_bytes(b"no scan")
    return folder


def shell(command, **variables):
    """Run a shell's command line with segmate on the PATH; gives what is printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        shell=isinstance(command, str),
        env={**os.environ, "PATH": path, **{key: str(value) for key, value in variables.items()}},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def cases(out):
    return sorted(path.parent.name for path in out.glob("*/case.json"))


def test_a_slurm_array_of_two(scans, tmp_path):
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin" / "srun"
    srun.write_text('#!/bin/sh\nexec "$@"\n')
    srun.chmod(0o755)
    out = tmp_path / "out"
    for n in (1, 2):
        shell(
            f"PATH={srun.parent}:$PATH bash {EXAMPLES / 'slurm_array.sbatch'}",
            SCANS=scans,
            OUT=out,
            SLURM_ARRAY_TASK_ID=n,
            SLURM_ARRAY_TASK_COUNT=2,
        )
    assert cases(out) == ["b0", "b1", "b2", "bad"]


def test_an_index_of_the_kubernetes_job(scans, tmp_path):
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, which [dask] brings")
    job = yaml.safe_load((EXAMPLES / "kubernetes_indexed_job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    ((line,), out) = container["args"], tmp_path / "out"
    line = line.replace("/in ", f"{scans} ").replace("/out ", f"{out} ")
    found = []
    for index in range(2):
        shell([*container["command"], line.replace("/8", "/2")], JOB_COMPLETION_INDEX=index)
        found.append(len(cases(out)))
    assert found[0] < found[1] == 4


@pytest.mark.skipif(shutil.which("snakemake") is None, reason="needs snakemake, from PyPI")
def test_the_snakefile(scans, tmp_path):
    out = tmp_path / "out"
    config = ["--config", f"scans={scans}", f"out={out}", "shards=2"]
    shell(["snakemake", "-s", str(EXAMPLES / "snakemake" / "Snakefile"), "-j", "1", *config])
    assert (out / "cohort.csv").exists()
    assert cases(out) == ["b0", "b1", "b2", "bad"]


def readme():
    return (ROOT / "README.md").read_text().partition("## In a hospital batch job")[2]


def test_the_line_for_cron(scans, tmp_path):
    (line,) = re.findall(r"^15 2 \* \* \* (.+)$", readme(), re.M)
    out = tmp_path / "out"
    line = line.replace("/data/ct", str(scans)).replace("/data/results", str(out))
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["env", "-i", f"PATH={path}", f"HOME={tmp_path}", "SHELL=/bin/sh", "/bin/sh", "-c", line],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd="/",
    )
    # What cron mails: one line, and the table's name.
    assert done.returncode == 9
    assert done.stderr == (
        "segmate: 4 cases: 3 done, 0 known from before, 3 of these to be reviewed, "
        "1 failed (1 input).\n"
    )
    assert done.stdout == f"{out / 'cohort.csv'}\n"


def test_the_systemd_unit(tmp_path):
    unit = (EXAMPLES / "segmate-inbox.service").read_text()
    (line,) = re.findall("^ExecStart=(.+)$", unit, re.M)
    (tmp_path / "inbox").mkdir()
    words = line.replace("/data/", f"{tmp_path}/").split()
    assert words[0] == "/opt/segmate/bin/segmate"
    process = subprocess.Popen([sys.executable, "-m", "segmate_cli", *words[1:]], cwd=ROOT)
    end = time.monotonic() + 60
    while not (tmp_path / "results" / "events.jsonl").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    process.terminate()
    (kept,) = re.findall("^SuccessExitStatus=(.+)$", unit, re.M)
    assert process.wait(15) == int(kept) == 143
    if shutil.which("systemd-analyze"):
        told = subprocess.run(
            ["systemd-analyze", "verify", str(EXAMPLES / "segmate-inbox.service")],
            capture_output=True,
            text=True,
            check=False,
        ).stderr
        assert [line for line in told.splitlines() if "not executable" not in line] == []


def test_the_pipeline_of_the_readme(scans, tmp_path):
    line = readme().partition("```bash\n")[2].partition("```")[0]
    (scans / "bad.nii.gz").unlink()
    out = tmp_path / "out"
    line = line.replace("/data/ct", str(scans)).replace("/data/results", str(out))
    assert shell(line.replace("> 2000", "> -1")).count("\n") <= 3
    assert cases(out) == ["b0", "b1", "b2"]
    assert shell(line) == ""
