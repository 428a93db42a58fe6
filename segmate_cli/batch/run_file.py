"""``run.json`` and the log's first and last event: what was run, on what, and what came of it."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from segmate_cli import __version__, files, sidecar
from segmate_cli.batch import records
from segmate_cli.batch.driver import Plan, Tally
from segmate_cli.batch.events import EventLog
from segmate_cli.batch.output_folder import Shard


@contextmanager
def told(
    shard: Shard | None, config: dict[str, Any], plan: Plan, tally: Tally
) -> Iterator[EventLog]:
    """Write ``run.json`` and the log's first and last event around a run.

    Raises:
        OutputError: They cannot be written.
    """
    suffix = shard.suffix if shard else ""
    about = about_run(config, plan)
    place = plan.out / f"run{suffix}.json"
    files.write_text(place, json.dumps(about, indent=2) + "\n")
    with EventLog(plan.out / f"events{suffix}.jsonl", about["run"]) as events:
        events.add("run_started", total=tally.total, known=tally.known)
        start = time.monotonic()
        try:
            yield events
        finally:
            counts = {
                **{"total": tally.total, "known": tally.known, "done": tally.done},
                **{"review": tally.review, "failed": tally.failed, "left": tally.left},
                "causes": dict(tally.causes),
            }
            ended = {
                "ended": records.now(),
                "seconds": round(time.monotonic() - start, 3),
                **counts,
            }
            files.write_text(place, json.dumps({**about, **ended}, indent=2) + "\n")
            events.add("run_ended", **counts)


def about_run(config: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """What ``run.json`` says of a run when it starts."""
    started = records.now()
    return {
        "schema": "segmate-run",
        "schema_version": 1,
        "run": f"{started}-{os.getpid()}",
        "segmate_version": __version__,
        "command": shlex.join(sys.argv),
        "configuration": config,
        "config_sha256": plan.config_sha256,
        "settings": plan.settings.as_json(),
        "jobs": plan.jobs,
        "timeout_s": plan.timeout_s,
        "retries": plan.retries,
        "host": platform.node(),
        "platform": platform.platform(),
        "packages": sidecar.package_versions(),
        "started": started,
        "ended": None,
    }
