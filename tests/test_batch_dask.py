"""``segmate batch --dask``: the same cases, the same receipts, whoever dies on the cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ball_scan
from test_batch import events, started
from test_batch_driver import Silent

from segmate_cli.batch import records
from segmate_cli.batch.cases import Case
from segmate_cli.batch.driver import Driver, Plan, Tally
from segmate_cli.batch.events import EventLog
from segmate_cli.batch.settings import Settings
from segmate_cli.batch.stopping import Stop

distributed = pytest.importorskip("distributed", reason="needs the extra [dask]")

import cloudpickle  # noqa: E402  # comes with it
import stub_worker  # noqa: E402

from segmate_cli.batch import dask_crew  # noqa: E402

# Dask leaves sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# A cluster's workers cannot import from tests/.
cloudpickle.register_pickle_by_value(stub_worker)


@pytest.fixture(scope="module")
def client():
    with dask_crew.cluster("local:2") as (client, jobs):
        assert jobs == 2
        yield client


def drive(client, folder, names, retries=1, timeout_s=60.0, meanwhile=None):
    """Do stub cases on the cluster; gives their records, and the tally."""
    out = folder / "out"
    (out / ".segmate").mkdir(parents=True)
    plan = Plan(out, "c" * 64, Settings(), 2, timeout_s, retries)
    cases = []
    for name in names:
        path = folder / f"{name}.nii"
        path.write_text(name)
        cases.append(Case(name.replace(".", "-"), str(path)))
    tally, stop = Tally(len(cases)), Stop()
    crew = dask_crew.DaskCrew(client, plan, 2, stub_worker.command)
    if meanwhile is not None:
        threading.Thread(target=meanwhile, args=(stop,), daemon=True).start()
    with stop.cases_under_way(), EventLog(out / "events.jsonl", "run") as log:
        Driver(plan, crew, tally, log, Silent(), stop).run(cases)
    return {case.case_id: records.read(out / case.case_id) for case in cases}, tally


def test_a_crash_or_a_hang_costs_its_case_alone(client, tmp_path):
    names = ["a", "segv", "b", "hang", "first-oom", "input", "c"]
    found, tally = drive(client, tmp_path, names, timeout_s=5.0, retries=1)
    states = {name: record.state for name, record in found.items()}
    assert [name for name, state in states.items() if state == "failed"] == [
        *("segv", "hang", "input"),
    ]
    assert found["hang"].cause == "timeout"
    assert found["first-oom"].batch_size == 2
    assert tally.causes == {"crash": 1, "timeout": 1, "input": 1}
    assert len(client.scheduler_info()["workers"]) == 2


def test_killed_workers_lose_nothing_and_the_cluster_may_grow(client, tmp_path):
    killed = []

    def meanwhile(stop):
        client.cluster.scale(3)
        while len(killed) < 3:
            time.sleep(1.0)
            nannies = client.cluster.workers.values()
            pids = {nanny.pid for nanny in nannies} - {None, *killed}
            if pids:
                os.kill(min(pids), signal.SIGKILL)
                killed.append(min(pids))
        client.cluster.scale(2)

    names = [f"slow.{n}" for n in range(16)]
    found, tally = drive(client, tmp_path, names, meanwhile=meanwhile)
    assert {record.state for record in found.values()} == {"done"}
    assert tally.done + tally.known == 16
    assert len(killed) == 3


def test_a_stop_leaves_the_rest_for_the_next_run(client, tmp_path):
    def meanwhile(stop):
        time.sleep(2.0)
        stop.on_signal(signal.SIGINT, None)

    names = [f"slow.{n}" for n in range(200)]
    start = time.monotonic()
    found, tally = drive(client, tmp_path, names, meanwhile=meanwhile)
    assert time.monotonic() - start < 60
    assert tally.failed == 0
    assert 0 < tally.left < 200
    assert sum(record is not None for record in found.values()) == tally.done


def test_a_cluster_gives_what_this_machine_gives(run, tmp_path, tiny_bundle):
    scans = tmp_path / "in"
    scans.mkdir()
    for n in range(3):
        ball_scan(scans / f"b{n}.nii.gz", size=20 + n)
    (scans / "bad.nii.gz").write_bytes(b"no scan")
    here, there = tmp_path / "here", tmp_path / "there"
    assert run("batch", scans, "-o", here, "--model", tiny_bundle)[0] == 9
    # In a process of its own: there, Dask's warnings are no errors.
    command = [sys.executable, "-m", "segmate_cli", "batch", scans, "-o", there]
    command += ["--model", tiny_bundle, "--dask", "local:1"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    assert "3 done" in done.stderr
    assert done.stdout == f"{there / 'cohort.csv'}\n"
    assert (there / "cohort.csv").read_bytes() == (here / "cohort.csv").read_bytes()
    for labels in here.glob("*/labels.nii.gz"):
        name = labels.relative_to(here)
        assert (there / name).read_bytes() == labels.read_bytes()
    assert sorted(started(there)) == ["b0", "b1", "b2", "bad"]
    assert {each["how"] for each in events(there, "case_done")} == {"segmented"}


def test_what_makes_no_sense_is_refused(run, tmp_path, tiny_bundle):
    ball_scan(tmp_path / "one.nii.gz")
    more = (tmp_path / "one.nii.gz", "-o", tmp_path / "out", "--model", tiny_bundle)
    assert run("batch", *more, "--dask", "local:many")[0] == 2
    assert run("batch", *more, "--dask", "local:2", "--jobs", "2")[0] == 2
    assert run("batch", *more, "--dask", f"slurm:{tmp_path / 'none.yaml'}")[0] == 2
    (tmp_path / "bad.yaml").write_text("- 1")
    assert run("batch", *more, "--dask", f"slurm:{tmp_path / 'bad.yaml'}")[0] == 2
