"""``--watch``: a folder into which scans come; each is taken once it has been quiet for a while.

Quiet is told by this process's own clock from one look to the next, so neither a clock that is set
nor times that a copy keeps can make a half-copied scan look old. What has been done is known from
the records, as in any batch; what has failed is set aside until its files change.
"""

from __future__ import annotations

import os
import shutil
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from segmate_cli import files
from segmate_cli.batch import finish, outlook, records
from segmate_cli.batch.cases import Case
from segmate_cli.batch.driver import Plan
from segmate_cli.batch.output_folder import Shard
from segmate_cli.batch.records import NOTE, Record
from segmate_cli.batch.rounds import Rounds
from segmate_cli.batch.series_index import stamp
from segmate_cli.errors import InputError, OutputError, UsageError

_LEAST_PAUSE_SECONDS = 0.2
_MOST_PAUSE_SECONDS = 15.0
# Of the time, no more than a part of this size is spent in looking.
_LOOKING = 10


def check_places(places: Sequence[str], set_aside: str | None) -> None:
    """Refuse what cannot be watched.

    Raises:
        UsageError: A place is no folder, or what is set aside would come in again.
    """
    for place in places:
        if not os.path.isdir(place):
            raise UsageError(f"--watch takes folders; {place} is none.")
        inside = os.path.realpath(place) + os.sep
        if set_aside and os.path.realpath(set_aside).startswith(inside):
            raise UsageError(f"--set-aside {set_aside} lies in {place}, which is watched.")


class Quiet:
    """Tells what has not changed for some time."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing has been seen yet.

        Args:
            seconds: How long.
            clock: Never goes back.
        """
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[str, tuple[str, float]] = {}

    def since(self, case: Case, seen: str) -> bool:
        """Whether a case has looked like this for long enough; to be asked again and again."""
        before, since = self._seen.get(case.case_id, ("", 0.0))
        if before != seen:
            since = self._clock()
            self._seen[case.case_id] = (seen, since)
        return self._clock() - since >= self._seconds

    def forget_others(self, cases: Iterable[Case]) -> None:
        """Drop what is no longer there."""
        there = {case.case_id for case in cases}
        self._seen = {name: seen for name, seen in self._seen.items() if name in there}


def watch(args: Namespace, rounds: Rounds, state: Path, shard: Shard | None) -> None:
    """Take scans as they come, until a stop is asked for.

    Errors as ``Driver.run``; a watched folder that goes away ends the watch.
    """
    out, stop = rounds.plan.out, rounds.stop
    quiet = Quiet(args.quiet_for)
    settled: dict[str, str] = {}
    suffix = shard.suffix if shard else ""
    while not stop.asked:
        start = time.monotonic()
        cases = _cases(args.inputs, out, state, shard)
        quiet.forget_others(cases)
        waiting = list(_waiting(cases, rounds, settled))
        rested = [case for case, seen in waiting if quiet.since(case, seen)]
        looked = time.monotonic() - start
        if rested:
            rounds.tally.total += len(rested)
            finish.retire(out, rounds.do(rested), cases)
            finish.write_tables([out], out, suffix, args.parquet)
        _set_aside(cases, args, rounds, settled)
        pause = min(args.quiet_for / 4, _MOST_PAUSE_SECONDS)
        stop.wait(max(pause, _LOOKING * looked, _LEAST_PAUSE_SECONDS))


def _cases(places: Sequence[str], out: Path, state: Path, shard: Shard | None) -> list[Case]:
    """The cases there are now; an empty inbox is nothing bad."""
    if not all(map(os.path.isdir, places)):
        raise InputError(f"{', '.join(places)}: a watched folder has gone; is it still mounted?")
    return outlook.of_shard(outlook.all_cases(places, out, state, shard), shard)


def _waiting(
    cases: Sequence[Case], rounds: Rounds, settled: dict[str, str]
) -> Iterator[tuple[Case, str]]:
    """Cases that need a worker, with their stamp; the others are settled, and counted once."""
    for case in cases:
        seen = stamp(case.path)
        if settled.get(case.case_id) == seen:
            continue
        ((_, why, record),) = outlook.with_reasons([case], rounds.plan)
        if record is None or (why and not _failed_so(record, case, seen, rounds.plan)):
            yield case, seen
            continue
        if case.case_id not in settled and record.succeeded and not rounds.tally.done:
            rounds.tally.add_known([record.state])
        settled[case.case_id] = seen


def _failed_so(record: Record, case: Case, seen: str, plan: Plan) -> bool:
    """Whether this very scan has failed, under this very configuration."""
    return (
        not record.succeeded
        and record.stamp == seen
        and record.series == case.series
        and record.config_sha256 == plan.config_sha256
    )


def _set_aside(
    cases: Sequence[Case], args: Namespace, rounds: Rounds, settled: dict[str, str]
) -> None:
    """Leave a note beside the record of each failure; move its files if that is asked for."""
    users = Counter(case.path for case in cases)
    for case in cases:
        folder = rounds.plan.out / case.case_id
        record = records.read(folder)
        if record is None or record.succeeded or (folder / NOTE).exists():
            continue
        moved = None
        own = users[case.path] == 1 and case.path not in args.inputs
        if args.set_aside and own and record.stamp == stamp(case.path):
            moved = _move(case, Path(args.set_aside))
            files.write_text(moved.parent / NOTE, note(record, moved))
        files.write_text(folder / NOTE, note(record, moved))
        where = None if moved is None else str(moved)
        rounds.events.add("case_set_aside", case=case.case_id, moved_to=where)


def note(record: Record, moved: Path | None) -> str:
    """What people read about a scan that was set aside."""
    remedy = (
        f"Its files were moved to {moved}; mend them and put them into the inbox again."
        if moved
        else "It is tried again when its files change, and by the same command without --watch."
    )
    return (
        f"{record.path}\nwas set aside on {record.finished} after {record.attempts} attempt(s): "
        f"{record.message}\nCause: {record.cause}, exit code {record.exit_code}.\n{remedy}\n"
    )


def _move(case: Case, folder: Path) -> Path:
    """Move a case's files below a folder, beside what was set aside under its name before."""
    target = folder / case.case_id
    try:
        number = 1
        while target.exists():
            number += 1
            target = folder / f"{case.case_id}.{number}"
        target.mkdir(parents=True)
        place = target / os.path.basename(case.path.rstrip(os.sep))
        return Path(shutil.move(case.path, place))
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{target}: {case.path} cannot be moved there ({reason}).") from error
