"""Very many cases with a stub network: bookkeeping, memory of the driver, size of the state."""

from __future__ import annotations

import datetime
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.batch_common import Row

ROOT = Path(__file__).parent.parent
_SLICES = 100
_WORKERS = 4
_DRIVER = """
import functools, sys
sys.path[:0] = {paths!r}
import stub_worker
from segmate_cli import cli
from segmate_cli.batch import rounds
rounds.LocalCrew = functools.partial(rounds.LocalCrew, command=stub_worker.command)
sys.exit(cli.main(sys.argv[1:]))
"""


def scale(folder: Path, count: int) -> list[Row]:
    """The whole command with stub workers, from the tree to the tables.

    With ``--folder`` a run that was interrupted goes on; its time then is that of the rest.
    """
    make_tree(folder / "in", count, 1000)
    rows = []
    for what in ("first run", "again, nothing to do"):
        start, before, done = time.monotonic(), _children_cpu_s(), _size_of_log(folder / "out")
        memory = drive(folder, "--jobs", str(_WORKERS))
        taken, cpu_s = time.monotonic() - start, _children_cpu_s() - before
        measured = (
            f"{1000 * taken / count:.2f} ms a case ({1000 * cpu_s / count:.2f} ms of CPU), "
            f"driver {memory[0]:.0f} to {max(memory):.0f} MB{_pace(folder / 'out', done)}"
        )
        rows.append(
            Row(
                f"{count} cases, {_WORKERS} workers with a stub of 1 ms, {what}",
                measured,
                "-",
                True,
            )
        )
        print(rows[-1].as_text(), file=sys.stderr, flush=True)
    state = _size(folder / "out" / ".segmate") + _size_of_records(folder / "out")
    log = (folder / "out" / "events.jsonl").stat().st_size
    measured = f"{state / count / 1000:.2f} kB a case, and {log / count / 1000:.2f} kB of events"
    rows.append(Row(f"state of {count} cases", measured, "-", True))
    return rows


def _size_of_log(out: Path) -> int:
    log = out / "events.jsonl"
    return log.stat().st_size if log.exists() else 0


def _pace(out: Path, skip: int) -> str:
    """Time a case in the first and the last tenth of a run, by its events."""
    with (out / "events.jsonl").open() as log:
        log.seek(skip)
        told = (json.loads(line) for line in log if '"case_done"' in line)
        times = [datetime.datetime.fromisoformat(each["time"]) for each in told]
    tenth = len(times) // 10
    if tenth < 2:
        return ""
    first, last = (
        1000 * (part[-1] - part[0]).total_seconds() / (len(part) - 1)
        for part in (times[:tenth], times[-tenth:])
    )
    return f"; a case in the first tenth {first:.2f} ms, in the last {last:.2f} ms"


def again(folder: Path, count: int) -> list[Row]:
    """The same command once more, all cases done."""
    make_tree(folder / "in", count, 1000)
    drive(folder)
    start, before = time.monotonic(), _children_cpu_s()
    drive(folder)
    taken, cpu_s = time.monotonic() - start, _children_cpu_s() - before
    what = f"again, nothing to do, {count} done cases"
    return [Row(what, f"{taken:.2f} s ({cpu_s:.2f} s of CPU)", "10 s", taken <= 10)]


def memory(folder: Path, count: int) -> list[Row]:
    """How much more the driver holds at the end than when its first cases were done."""
    make_tree(folder / "in", count, 1000)
    seen = drive(folder)
    settled = seen[len(seen) // 10]
    grown = max(seen) - settled
    measured = f"+{grown:.1f} MB (from {settled:.0f} MB at a tenth of the run)"
    return [Row(f"driver's memory over {count} cases", measured, "+20 MB", grown <= 20)]


def tree(folder: Path, count: int) -> list[Row]:
    """How fast a tree is looked through: NIfTI files, and DICOM series of 100 files."""
    from dicom_maker import Recipe, make_series

    make_tree(folder / "nifti", count, 1000, empty=True)
    series = make_series(folder / "one", Recipe(shape=(_SLICES, 24, 24))).folder
    for n in range(count // 10 // _SLICES):
        place = folder / "dicom" / f"{n // 100:04}" / f"series{n:05}"
        place.mkdir(parents=True, exist_ok=True)
        for file in series.iterdir():
            if not (place / file.name).exists():
                (place / file.name).hardlink_to(file)
    looks = (("finding", "nifti", count), ("finding", "dicom", count // 10))
    return [_find(folder, *look) for look in (*looks, ("again, finding", "dicom", count // 10))]


def _find(folder: Path, what: str, kind: str, files: int) -> Row:
    from segmate_cli.batch.cases import find_cases
    from segmate_cli.batch.series_index import SeriesIndex

    index = SeriesIndex(folder / f"{kind}.json")
    before, start, cpu = _peak_mb(), time.monotonic(), time.process_time()
    found = len(find_cases([str(folder / kind)], index, folder / "none"))
    taken, cpu_s = time.monotonic() - start, time.process_time() - cpu
    index.save()
    measured = (
        f"{taken:.1f} s, {files / taken:.0f} files/s ({files / cpu_s:.0f} a second of CPU), "
        f"+{_peak_mb() - before:.0f} MB"
    )
    row = Row(f"{what} {found} scans among {files} {kind} files", measured, "-", True)
    print(row.as_text(), file=sys.stderr, flush=True)
    return row


def make_tree(root: Path, count: int, a_folder: int, *, empty: bool = False) -> None:
    """Files that look like scans by name, all different unless empty, so many a folder."""
    for n in range(count):
        folder = root / f"{n // a_folder:04}"
        if n % a_folder == 0:
            folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"scan{n:07}.nii"
        if not file.exists():
            file.write_text("" if empty else str(n))


def drive(folder: Path, *more: str) -> list[float]:
    """Run the command with stub workers; gives the driver's memory in MB, ten times a second."""
    script = folder / "driver.py"
    script.write_text(_DRIVER.format(paths=[str(ROOT), str(ROOT / "tests")]))
    line = [sys.executable, str(script), "batch", str(folder / "in"), "-o", str(folder / "out")]
    process = subprocess.Popen([*line, "--quiet", *more], stdout=subprocess.DEVNULL)
    seen: list[float] = []
    out = folder / "out" / "run.json"
    while process.poll() is None:
        if out.exists():
            seen.append(_resident_mb(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, line)
    return [each for each in seen if each] or [0.0]


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def _resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _size_of_records(out: Path) -> int:
    return sum(path.stat().st_size for path in out.glob("*/case.json"))
