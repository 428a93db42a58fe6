"""What a batch finds before it begins: its cases, and which of them need a worker, and why."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from segmate_cli import files
from segmate_cli.batch import records
from segmate_cli.batch.cases import Case, find_cases, in_shard
from segmate_cli.batch.driver import Plan
from segmate_cli.batch.judging import can_judge
from segmate_cli.batch.output_folder import Shard
from segmate_cli.batch.records import Record, State
from segmate_cli.batch.series_index import SeriesIndex, stamp
from segmate_cli.errors import InputError

# Why a case needs a worker, but no network.
ONLY_JUDGED = "judged by other gates; is only judged again"


@dataclass(frozen=True, slots=True)
class Found:
    """What a batch knows before it begins.

    Attributes:
        everything: All cases, those of other shards too.
        todo: Cases of this run that need a worker.
        known: States of the others, which have been done.
        taken: Of those known: (case, case that took over its results).
    """

    everything: list[Case]
    todo: list[Case]
    known: list[State]
    taken: list[tuple[str, str]]


def look(inputs: Sequence[str], plan: Plan, state: Path | None, shard: Shard | None) -> Found:
    """Find the cases and what has been done of them.

    Raises:
        InputError: There is not one case.
    """
    found = Found(all_cases(inputs, plan.out, state, shard), [], [], [])
    if not found.everything:
        where = ", ".join(inputs)
        raise InputError(
            f"{where}: no scan was found (NIfTI, DICOM, .zip or .tar); check the path."
        )
    for case, why, record in with_reasons(of_shard(found.everything, shard), plan):
        if why or record is None:
            found.todo.append(case)
            continue
        found.known.append(record.state)
        if record.taken_from is not None:
            found.taken.append((record.taken_from, record.case))
    return found


def all_cases(
    inputs: Sequence[str], out: Path, state: Path | None, shard: Shard | None
) -> list[Case]:
    """The cases of all places; which series lie in which folder is remembered in ``state``."""
    index = SeriesIndex(state and state / f"series{shard.suffix if shard else ''}.json")
    cases = find_cases(inputs, index, out, sys.stdin, partial(_is_held, out))
    index.save()
    return cases


def _is_held(out: Path, name: str, path: str) -> bool:
    """Whether the output holds another scan under a name: of a path that is still there."""
    record = records.read(out / name)
    if record is None or record.path == files.storable(path):
        return False
    try:
        return not os.path.samefile(record.path, path)
    except OSError:  # it has gone: moved to the new path, or changed beyond that
        return False


def of_shard(cases: list[Case], shard: Shard | None) -> list[Case]:
    """Those of one shard, or all."""
    if shard is None:
        return cases
    return [case for case in cases if in_shard(case, shard.number, shard.of)]


def with_reasons(cases: Iterable[Case], plan: Plan) -> Iterator[tuple[Case, str, Record | None]]:
    """Each case with why it needs a worker (empty: it needs none), and its record."""
    for case in cases:
        record = records.read(plan.out / case.case_id)
        yield case, _why(case, record, plan), record


def _why(case: Case, record: Record | None, plan: Plan) -> str:
    if record is None:
        return "new"
    if not record.succeeded:
        return f"failed before ({record.cause})"
    if record.config_sha256 != plan.config_sha256 and records.making_of(
        record
    ) == records.making_of(plan):
        settings = plan.settings.for_case(case.options)
        return ONLY_JUDGED if can_judge(record, settings) else "judged by other gates"
    if record.config_sha256 != plan.config_sha256:
        return "made with other weights or options, or by another version"
    if record.options != case.options or record.series != case.series:
        return "other options, or another series"
    if plan.paranoid:
        return "--paranoid reads it again"
    if record.stamp != stamp(case.path):
        return "its files changed"
    if not records.outputs_whole(plan.out / record.case, record):
        return "outputs are missing or changed"
    return ""
