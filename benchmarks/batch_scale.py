"""Very many cases with a stub network: bookkeeping, memory of the driver, size of the state."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.batch_common import Row

ROOT = Path(__file__).parent.parent
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
    """The whole command with stub workers, from the tree to the tables."""
    make_tree(folder / "in", count, 1000)
    rows = []
    for what, bar in ("first run", "-"), ("again, nothing to do", "-"):
        start = time.monotonic()
        memory = drive(folder)
        taken = time.monotonic() - start
        first, last = memory[0], memory[-1]
        measured = f"{1000 * taken / count:.2f} ms a case, driver {first:.0f} to {last:.0f} MB"
        rows.append(Row(f"{count} cases, stub network of 1 ms, {what}", measured, bar, True))
    state = _size(folder / "out" / ".segmate") + _size_of_records(folder / "out")
    rows.append(Row(f"state of {count} cases", f"{state / count / 1000:.1f} kB a case", "-", True))
    return rows


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
    """How fast a tree is looked through: NIfTI files, and DICOM series in folders of 100 files."""
    from segmate_cli.batch.cases import find_cases
    from segmate_cli.batch.series_index import SeriesIndex

    rows = []
    make_tree(folder / "nifti", count, 1000)
    start = time.monotonic()
    found = len(find_cases([str(folder / "nifti")], SeriesIndex(), folder / "none"))
    taken = time.monotonic() - start
    what = f"finding {found} scans among {count} files"
    rows.append(Row(what, f"{taken:.1f} s, {count / taken:.0f} files/s", "-", found == count))
    return rows


def make_tree(root: Path, count: int, a_folder: int) -> None:
    """Files that look like scans by name, all different, so many a folder."""
    for n in range(count):
        folder = root / f"{n // a_folder:04}"
        if n % a_folder == 0:
            folder.mkdir(parents=True, exist_ok=True)
        (folder / f"scan{n:07}.nii").write_text(str(n))


def drive(folder: Path) -> list[float]:
    """Run the command with stub workers; gives the driver's memory in MB, ten times a second."""
    script = folder / "driver.py"
    script.write_text(_DRIVER.format(paths=[str(ROOT), str(ROOT / "tests")]))
    line = [sys.executable, str(script), "batch", str(folder / "in"), "-o", str(folder / "out")]
    process = subprocess.Popen([*line, "--quiet"], stdout=subprocess.DEVNULL)
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
