"""A worker whose network is a stub: the batch's own machinery without the time of a real one.

``python tests/stub_worker.py FD SETTINGS``, as ``segmate_cli.batch.worker``. What it does with a
case is in the first word of its file's name, up to a dot: ``segv``, ``oom``, ``hang``, ``exit``,
``input``, ``full``, ``slow``; ``first-segv`` only at the first attempt; anything else is done in a
millisecond, with real outputs and a real record.
"""

from __future__ import annotations

import os
import sys

if os.environ.get("STUB_WORKER") == "stillborn":
    sys.exit("cannot start")

import json
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from segmate_cli import files
from segmate_cli.batch import records, worker
from segmate_cli.batch.jobs import job_of
from segmate_cli.batch.records import Content, Record
from segmate_cli.batch.series_index import stamp
from segmate_cli.errors import OutputError, UnreadableError

NETWORK_SECONDS = 0.001


def command(settings: dict[str, Any]) -> list[str]:
    """How the crew starts it."""
    return [sys.executable, "-s", __file__, json.dumps(settings)]


def handle(raw: dict[str, Any]) -> dict[str, Any]:
    """Do a job."""
    job = job_of(raw)
    word = Path(job.case.path).name.partition(".")[0]
    if word.startswith("first-"):
        word = word.removeprefix("first-") if job.attempt == 1 else ""
    misbehave(word)
    time.sleep(NETWORK_SECONDS)
    sha256 = files.sha256_of_file(Path(job.case.path))
    known = records.read(job.folder)
    if known and known.succeeded and known.content and known.content.sha256 == sha256:
        return {"record": known.model_dump(mode="json", by_alias=True), "how": "known"}
    records.make_folder(job.folder)
    records.clear(job.folder)
    files.write_text(job.folder / "labels.nii.gz", f"labels of {sha256}")
    files.write_text(job.folder / "labels.json", json.dumps({"input": sha256}))
    names = ("labels.nii.gz", "labels.json")
    record = Record(
        case=job.case.case_id,
        state="done",
        exit_code=0,
        attempts=job.attempt,
        path=job.case.path,
        content=Content(sha256=sha256, files=1),
        stamp=stamp(job.case.path),
        config_sha256=job.config_sha256,
        outputs={name: records.read_back(job.folder / name) for name in names},
        organs=({"case": job.case.case_id, "organ": "liver", "volume_ml": 1.0, "voxels": 9},),
        seconds={"network": NETWORK_SECONDS},
        batch_size=4 >> job.halvings,
    )
    records.write(job.folder, record)
    return {"record": record.model_dump(mode="json", by_alias=True), "how": "segmented"}


def misbehave(word: str) -> None:
    if word == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif word == "oom":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "hang":
        time.sleep(3600)
    elif word == "slow":
        time.sleep(0.5)
    elif word == "exit":
        os._exit(3)
    elif word == "input":
        raise UnreadableError("this file is no scan.")
    elif word == "full":
        raise OutputError("the disk is full.")


if __name__ == "__main__":
    channel = Connection(int(sys.argv[1]))
    worker.watch_for_orphanhood(channel)
    worker.serve(channel, lambda: handle)
