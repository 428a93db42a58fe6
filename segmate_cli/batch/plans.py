"""From the command's options to the plan of a batch."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from pathlib import Path
from typing import Any

from segmate_cli import memory
from segmate_cli.batch.driver import Plan
from segmate_cli.batch.output_folder import Shard
from segmate_cli.batch.settings import GATES, Settings, digest_of, making_sha256, parse_formats
from segmate_cli.doubt.gates_file import parse_gates, read_text
from segmate_cli.errors import UsageError
from segmate_cli.gate_options import say_strange_names
from segmate_cli.sessions import usable_cpus


def settings_from(args: Namespace, jobs: int) -> Settings:
    """The options that workers need; ``jobs`` of them share threads and the memory cap."""
    gates = read_text(Path(args.gates)) if args.gates else None
    if gates is not None:
        # Refused here, not by each worker.
        say_strange_names(args.gates, parse_gates(gates, args.gates))
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
        gates=gates,
        keep_month=args.keep_month,
        batch_size=args.batch_size,
        threads=args.threads or max(1, usable_cpus() // jobs),
        memory_cap_bytes=_share(args.memory_cap, jobs),
    )


def _share(text: str | None, jobs: int) -> int | None:
    """What a worker may use, when the driver has taken its part.

    A worker that has no one beside it looks for itself what is free, before each case.
    """
    if text is None and jobs == 1:
        return None
    cap = memory.parse_size(text) if text else memory.resolve_cap().size_bytes
    return None if cap is None else max(1, (cap - memory.resident_bytes()) // jobs)


def plan_from(args: Namespace, settings: Settings, config: dict[str, Any], jobs: int) -> Plan:
    """The plan for ``jobs`` workers, with the identity of their configuration."""
    return Plan(
        out=Path(args.output),
        config_sha256=digest_of(config),
        making_sha256=making_sha256(config) if GATES in config else "",
        settings=settings,
        jobs=jobs,
        timeout_s=args.timeout,
        retries=args.retries,
        paranoid=args.paranoid,
    )


def alone(args: Namespace, plan: Plan) -> Plan:
    """The same with one worker, which has all threads and the whole memory cap."""
    whole = settings_from(args, 1)
    settings = dataclasses.replace(
        plan.settings, threads=whole.threads, memory_cap_bytes=whole.memory_cap_bytes
    )
    return dataclasses.replace(plan, jobs=1, settings=settings)


def parse_shard(text: str | None) -> Shard | None:
    """``3/8``; UsageError for anything else."""
    if text is None:
        return None
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UsageError(f"--shard {text}: write it like 3/8, from 1/8 to 8/8.")
    return Shard(int(number), int(of))
