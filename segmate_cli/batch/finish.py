"""What is written when a case fails, and when a batch ends: records, tables, ``run.json``."""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segmate_cli import __version__, files, report
from segmate_cli.batch import records
from segmate_cli.batch.cases import Case
from segmate_cli.batch.jobs import Job
from segmate_cli.batch.locks import locked
from segmate_cli.batch.records import Record
from segmate_cli.batch.series_index import stamp
from segmate_cli.errors import EngineMissingError, TakenError

CASE_COLUMNS = (
    *("case", "state", "exit_code", "cause", "message", "attempts", "path", "series"),
    *("seconds", "peak_memory_mb", "batch_size", "input_sha256", "pixels_sha256"),
    *("labels_sha256", "config_sha256", "taken_from", "finished", "segmate_version"),
)
COHORT_COLUMNS = ("case", *report.COLUMNS[1:], "state")
# What is no text in them.
_WHOLE = ("voxels",)
_NUMBERS = (
    *("volume_ml", "mean_hu", "sd_hu", "volume_pv_ml", "volume_low_ml", "volume_high_ml"),
    *("confidence", "agreement", "edge_share"),
)
_YES_OR_NO = ("touches_edge", "is_lower_bound")
_LOCK_SECONDS = 5.0


def record_failure(job: Job, cause: str, code: int, message: str) -> Record:
    """Record that a case has failed; whatever an earlier run left of it goes.

    Raises:
        OutputError: It cannot be written.
    """
    record = Record(
        case=job.case.case_id,
        state="failed",
        exit_code=code,
        cause=cause,
        message=message,
        attempts=job.attempt,
        path=job.case.path,
        series=job.case.series,
        stamp=stamp(job.case.path),
        config_sha256=job.config_sha256,
        options=job.case.options,
        finished=records.now(),
        segmate_version=__version__,
    )
    records.make_folder(job.folder)
    try:
        with locked(job.folder / records.LOCK_NAME, _LOCK_SECONDS):
            records.clear(job.folder)
            records.write(job.folder, record)
    except TakenError:  # another batch has taken the case up; its word counts
        return record
    return record


def write_tables(
    sources: Iterable[Path], folder: Path, suffix: str = "", parquet: bool = False
) -> Path:
    """Write ``cohort.csv`` and ``cases.csv`` of all records in output folders.

    Args:
        sources: Output folders; of a case in several, the first that succeeded counts.
        folder: Where the tables go.
        suffix: Put before ``.csv``, for a shard.
        parquet: Write ``cohort.parquet``, too.

    Returns:
        The cohort table's path.

    Raises:
        OutputError: They cannot be written.
    """
    cohort, cases = folder / f"cohort{suffix}.csv", folder / f"cases{suffix}.csv"
    with _table(cohort, COHORT_COLUMNS) as add_organ, _table(cases, CASE_COLUMNS) as add_case:
        for record in merged(list(sources)):
            add_case(case_row(record))
            for row in record.organs:
                add_organ({**row, "state": record.state})
    if parquet:
        write_parquet(cohort)
    return cohort


def case_row(record: Record) -> dict[str, Any]:
    """A case's row of ``cases.csv``."""
    content, labels = record.content, record.outputs.get("labels.nii.gz")
    return {
        **{name: getattr(record, name, None) for name in CASE_COLUMNS},
        "seconds": round(sum(record.seconds.values()), 3) or None,
        "peak_memory_mb": round(record.peak_memory_bytes / 1e6) or None,
        "input_sha256": content and content.sha256,
        "pixels_sha256": content and content.pixels_sha256,
        "labels_sha256": labels and labels.sha256,
    }


def retire(out: Path, taken: Iterable[tuple[str, str]], cases: Iterable[Case]) -> None:
    """Remove results under a name that a scan no longer has, now that they lie under its new one.

    Args:
        out: The output folder.
        taken: (old case, case that took over its results).
        cases: Of the input; results under their names stay.
    """
    pairs = list(taken)
    if not pairs:
        return
    names, paths = set(), set()
    for case in cases:
        names.add(case.case_id)
        paths.add(files.storable(case.path))
    for old, new in pairs:
        before, after = records.read(out / old), records.read(out / new)
        if old in names or before is None or after is None:
            continue
        # A path that is still there belongs to another batch, or has other cases now.
        if os.path.lexists(before.path) and before.path not in paths:
            continue
        if before.content == after.content and before.config_sha256 == after.config_sha256:
            records.clear(out / old)
            with suppress(OSError):  # files of somebody else's stay
                (out / old).rmdir()


def write_parquet(cohort: Path) -> Path:
    """The cohort table as Parquet, beside it.

    Raises:
        EngineMissingError: pyarrow is not installed.
    """
    check_parquet()
    import pyarrow
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    # Not by what the values look like: a case may be called 0012, NA or 1e5.
    types = {
        name: pyarrow.int64() if name in _WHOLE else pyarrow.float64() for name in _WHOLE + _NUMBERS
    }
    types |= dict.fromkeys(_YES_OR_NO, pyarrow.bool_())
    convert = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(COHORT_COLUMNS, pyarrow.string()) | types,
        null_values=[""],
        strings_can_be_null=True,
        true_values=["yes"],
        false_values=["no"],
    )
    table = arrow_csv.read_csv(cohort, convert_options=convert)
    target = cohort.with_suffix(".parquet")
    with files.write_atomically(target) as stream:
        parquet.write_table(table, stream)
    return target


def check_parquet() -> None:
    """Refuse to go on without what writes Parquet."""
    import importlib.util

    if importlib.util.find_spec("pyarrow") is None:
        raise EngineMissingError("Parquet needs pyarrow; pip install 'segmate-cli[parquet]'.")


def merged(sources: list[Path]) -> Iterator[Record]:
    """The records of output folders, a case once, by case; of several the first that succeeded."""
    if len(sources) == 1:
        yield from records.all_records(sources[0])
        return
    everything = (record for out in sources for record in records.all_records(out))
    found = sorted(everything, key=lambda each: each.case)
    for _, group in itertools.groupby(found, key=lambda each: each.case):
        same = list(group)
        yield next((each for each in same if each.succeeded), same[0])


@contextmanager
def _table(path: Path, columns: tuple[str, ...]) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A CSV file that is written row by row and appears when it is whole."""
    with files.write_atomically(path) as raw:
        stream = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        yield lambda row: _write_row(writer, row)
        stream.detach()


def _write_row(writer: csv.DictWriter[str], row: dict[str, Any]) -> None:
    writer.writerow({name: report.cell(value) for name, value in row.items()})
