"""``segmate batch``: the run from start to end, and its exit code."""

from __future__ import annotations

import dataclasses
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from segmate_cli import console, saving
from segmate_cli.batch import finish, inbox, output_folder, plans, records
from segmate_cli.batch.driver import Plan, Tally
from segmate_cli.batch.dry_run import show
from segmate_cli.batch.outlook import Found, look, of_shard
from segmate_cli.batch.output_folder import Shard
from segmate_cli.batch.rounds import MakeCrew, Rounds, local_crew
from segmate_cli.batch.run_file import told
from segmate_cli.batch.settings import absolute_model, identity, parse_formats
from segmate_cli.batch.stopping import Stop
from segmate_cli.batch.view import Style, summary
from segmate_cli.bundle import Bundle, open_bundle
from segmate_cli.errors import ExitCode, UsageError


def run(args: Namespace) -> int:
    """Run a batch; gives the exit code."""
    if args.merge:
        return merge(args)
    _check(args)
    bundle = open_bundle(args.model)
    shard, stop = plans.parse_shard(args.shard), Stop()
    with stop.listening(), _crews(args) as (crew, jobs):
        settings = plans.settings_from(args, jobs)
        settings = dataclasses.replace(settings, model=absolute_model(settings.model, bundle))
        config = identity(settings, bundle)
        plan = plans.plan_from(args, settings, config, jobs)
        if args.dry_run:
            return _dry_run(args, plan, bundle, shard)
        with output_folder.opened(plan.out, shard, partial(_say, args)) as state:
            output_folder.remember_configuration(state, plan.config_sha256, config)
            return _run_in(args, plan, crew, state, shard, config, stop)


def _check(args: Namespace) -> None:
    """Refuse early what cannot come to a good end."""
    if not args.inputs:
        raise UsageError("give scans: folders, files, a manifest (.csv, .tsv), or - for stdin.")
    if args.watch:
        inbox.check_places(args.inputs, args.set_aside)
    elif args.set_aside:
        raise UsageError("--set-aside belongs to --watch.")
    if args.parquet:
        finish.check_parquet()
    for kind in ("seg", "rtstruct"):
        if kind in parse_formats(args.format):
            saving.check_writer(kind)
    if "html" in parse_formats(args.format):
        from segmate_cli.look.tiles import check_libraries

        check_libraries()


@contextmanager
def _crews(args: Namespace) -> Iterator[tuple[MakeCrew, int]]:
    """Whoever makes crews, and how many workers share this machine."""
    if args.dask is None:
        yield local_crew, args.jobs
        return
    if args.jobs != 1:
        raise UsageError("--jobs is for this machine alone; the cluster decides with --dask.")
    from segmate_cli.batch import dask_crew

    with dask_crew.cluster(args.dask) as (client, jobs):
        yield (lambda plan: dask_crew.DaskCrew(client, plan, jobs)), jobs


def _run_in(
    args: Namespace,
    plan: Plan,
    crew: MakeCrew,
    state: Path,
    shard: Shard | None,
    config: dict[str, Any],
    stop: Stop,
) -> int:
    tally = Tally(0)
    found = Found([], [], [], []) if args.watch else look(args.inputs, plan, state, shard)
    if not args.mix:
        there = records.all_records(plan.out)
        output_folder.check_configuration(plan.out, there, plan.config_sha256, config)
    tally.add_known(found.known)
    tally.total += len(found.todo)
    with told(shard, config, plan, tally) as events:
        style: Style = "none" if args.quiet else args.progress
        rounds = Rounds(plan, plans.alone(args, plan), crew, tally, events, stop, style)
        try:
            if args.watch:
                inbox.watch(args, rounds, state, shard)
            else:
                taken = rounds.do(found.todo)
                finish.retire(plan.out, [*found.taken, *taken], found.everything)
        finally:
            suffix = shard.suffix if shard else ""
            cohort = finish.write_tables([plan.out], plan.out, suffix, args.parquet)
    _say(args, summary(tally, tally.left))
    print(cohort)
    stopped = stop.asked and (tally.left or args.watch)
    return stop.exit_code if stopped else int(tally.exit_code)


def _dry_run(args: Namespace, plan: Plan, bundle: Bundle, shard: Shard | None) -> ExitCode:
    """Say what a run would do; nothing is written, not even the output folder."""
    found = look(args.inputs, plan, None, shard)
    _say(args, show(of_shard(found.everything, shard), plan, bundle, sys.stdout))
    return ExitCode.DONE


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


def _say(args: Namespace, message: str) -> None:
    style: console.ProgressStyle = "json" if args.progress == "json" else "auto"
    console.say(message, style=style, quiet=args.quiet)
