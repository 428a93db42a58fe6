"""``segmate batch``: options to a plan, the run from start to end, its exit code."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmate_cli import __version__, console, files, memory, scans, sidecar
from segmate_cli.batch import finish, output_folder, records
from segmate_cli.batch.cases import Case, find_cases, in_shard
from segmate_cli.batch.driver import Driver, Plan, Tally
from segmate_cli.batch.events import EventLog
from segmate_cli.batch.output_folder import Shard
from segmate_cli.batch.records import Record, State
from segmate_cli.batch.series_index import SeriesIndex, stamp
from segmate_cli.batch.settings import Settings, absolute_model, digest_of, identity, parse_formats
from segmate_cli.batch.stopping import Stop
from segmate_cli.batch.view import Style, summary, view
from segmate_cli.bundle import open_bundle
from segmate_cli.engines import usable_cpus
from segmate_cli.errors import InputError, UsageError


@dataclass(frozen=True, slots=True)
class Found:
    """What a batch knows before it begins.

    Attributes:
        cases: Those of this run, or of its shard.
        todo: Those that need a worker.
        known: States of the others, which have been done.
        names: Of all cases, those of other shards too.
        taken: Of those known: (case, case that took over its results).
    """

    cases: list[Case]
    todo: list[Case]
    known: list[State]
    names: frozenset[str]
    taken: list[tuple[str, str]]


def run(args: Namespace) -> int:
    """Run a batch; gives the exit code."""
    if args.merge:
        return merge(args)
    if not args.inputs:
        raise UsageError("give scans: folders, files, a manifest (.csv, .tsv), or - for stdin.")
    if args.parquet:
        finish.check_parquet()
    for kind in ("seg", "rtstruct"):
        if kind in parse_formats(args.format):
            scans.check_writer(kind)
    out, shard = Path(args.output), parse_shard(args.shard)
    settings = settings_from(args)
    bundle = open_bundle(settings.model)
    settings = dataclasses.replace(settings, model=absolute_model(settings.model, bundle))
    config = identity(settings, bundle)
    stop = Stop()
    with stop.listening(), output_folder.opened(out, shard) as state:
        plan = _plan(args, out, settings, digest_of(config))
        output_folder.remember_configuration(state, plan.config_sha256, config)
        found = look(args.inputs, plan, state, shard, config, mix=args.mix)
        tally = Tally(len(found.cases))
        for state_of_case in found.known:
            tally.add(state_of_case, known=True)
        with _told(args, out, shard, config, plan, tally) as events:
            try:
                taken = _drive(args, plan, found.todo, tally, events, stop)
                finish.retire(out, [*found.taken, *taken], found.names)
            finally:
                cohort = finish.write_tables([out], out, _suffix(shard), args.parquet)
        _say(args, summary(tally, tally.left))
        print(cohort)
    return stop.exit_code if stop.asked and tally.left else int(tally.exit_code)


def settings_from(args: Namespace) -> Settings:
    """The options that workers need."""
    jobs = args.jobs
    cap = memory.parse_size(args.memory_cap) if args.memory_cap else None
    return Settings(
        model=args.model,
        organs=args.organs,
        engine=args.engine,
        device=args.device,
        check_hu=not args.no_hu_check,
        assume_ras=args.assume_ras,
        formats=parse_formats(args.format),
        report=args.report,
        seg_type=args.seg_type or "binary",
        seg_compress=args.seg_compress,
        uid_root=args.uid_root,
        batch_size=args.batch_size,
        threads=args.threads or max(1, usable_cpus() // jobs),
        memory_cap_bytes=None if cap is None else _share(cap, jobs),
    )


def _share(cap: int, jobs: int) -> int:
    """What a worker may use, when the driver has taken its part."""
    return max(1, (cap - memory.resident_bytes()) // jobs)


def look(
    inputs: Sequence[str],
    plan: Plan,
    state: Path,
    shard: Shard | None,
    config: dict[str, Any],
    *,
    mix: bool,
) -> Found:
    """Find the cases and what has been done of them.

    Raises:
        InputError: There is not one case.
        OutputExistsError: The folder holds another configuration's results.
    """
    index = SeriesIndex(state / f"series{_suffix(shard)}.json")
    cases = find_cases(inputs, index, plan.out, sys.stdin)
    index.save()
    if not cases:
        where = ", ".join(inputs)
        raise InputError(f"{where}: no scan was found (NIfTI, DICOM or .zip); check the path.")
    names = frozenset(case.case_id for case in cases)
    if shard is not None:
        cases = [case for case in cases if in_shard(case, shard.number, shard.of)]
    if not mix:
        there = records.all_records(plan.out)
        output_folder.check_configuration(plan.out, there, plan.config_sha256, config)
    found = Found(cases, [], [], names, [])
    for case in cases:
        record = _known(plan, case)
        if record is None:
            found.todo.append(case)
            continue
        found.known.append(record.state)
        if record.taken_from is not None:
            found.taken.append((record.taken_from, record.case))
    return found


def _known(plan: Plan, case: Case) -> Record | None:
    """The record of a case that needs no worker, or None."""
    record = records.read(plan.out / case.case_id)
    if record is None or record.options != case.options or record.series != case.series:
        return None
    done = output_folder.done_before(
        plan.out, record, stamp(case.path), plan.config_sha256, paranoid=plan.paranoid
    )
    return record if done else None


def _drive(
    args: Namespace,
    plan: Plan,
    todo: list[Case],
    tally: Tally,
    events: EventLog,
    stop: Stop,
) -> list[tuple[str, str]]:
    """Do the cases; gives (case, case that took over its results)."""
    style: Style = "none" if args.quiet else args.progress
    with view(style, tally) as shown:
        driver = Driver(plan, tally, events, shown, stop)
        driver.run(todo)
        taken = driver.taken
        if driver.too_large and not stop.asked:
            alone = Driver(_alone(args, plan), tally, events, shown, stop)
            alone.run(driver.too_large)
            taken += alone.taken
    return taken


def _alone(args: Namespace, plan: Plan) -> Plan:
    """One worker with all threads and the whole memory cap."""
    alone = Namespace(**{**vars(args), "jobs": 1})
    whole = settings_from(alone)
    settings = dataclasses.replace(
        plan.settings, threads=whole.threads, memory_cap_bytes=whole.memory_cap_bytes
    )
    return dataclasses.replace(plan, jobs=1, settings=settings)


def _plan(args: Namespace, out: Path, settings: Settings, config_sha256: str) -> Plan:
    return Plan(
        out=out,
        config_sha256=config_sha256,
        settings=settings,
        jobs=args.jobs,
        timeout_s=args.timeout,
        retries=args.retries,
        paranoid=args.paranoid,
    )


@contextmanager
def _told(
    args: Namespace,
    out: Path,
    shard: Shard | None,
    config: dict[str, Any],
    plan: Plan,
    tally: Tally,
) -> Iterator[EventLog]:
    """Write ``run.json`` and the log's first and last event around a run."""
    about = about_run(config, plan)
    place = out / f"run{_suffix(shard)}.json"
    files.write_text(place, json.dumps(about, indent=2) + "\n")
    with EventLog(out / f"events{_suffix(shard)}.jsonl", about["run"]) as events:
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
            ended = {"ended": now(), "seconds": round(time.monotonic() - start, 3), **counts}
            files.write_text(place, json.dumps({**about, **ended}, indent=2) + "\n")
            events.add("run_ended", **counts)


def about_run(config: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """What ``run.json`` says of a run."""
    started = now()
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


def merge(args: Namespace) -> int:
    """``--merge``: one pair of tables of several output folders, or of a folder's shards."""
    if args.inputs:
        raise UsageError("--merge takes output folders alone; scans go to a batch of their own.")
    out = Path(args.output)
    for folder in args.merge:
        if not (Path(folder) / records.STATE_FOLDER).is_dir():
            raise UsageError(f"{folder} is no output folder of segmate batch.")
    records.make_folder(out)
    sources = [Path(folder) for folder in args.merge]
    print(finish.write_tables(sources, out, "", args.parquet))
    tally = Tally(0)
    for record in finish.merged(sources):
        tally.total += 1
        tally.add(record.state, record.cause)
    _say(args, summary(tally, 0))
    return int(tally.exit_code)


def parse_shard(text: str | None) -> Shard | None:
    """``3/8``; UsageError for anything else."""
    if text is None:
        return None
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UsageError(f"--shard {text}: write it like 3/8, from 1/8 to 8/8.")
    return Shard(int(number), int(of))


def now() -> str:
    """UTC, as every file here has it."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _suffix(shard: Shard | None) -> str:
    return shard.suffix if shard else ""


def _say(args: Namespace, message: str) -> None:
    if not args.quiet:
        console.say(message, style="json" if args.progress == "json" else "auto")
