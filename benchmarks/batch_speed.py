"""What a batch costs beside the network, what a second run costs, what a second worker gives."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.batch_common import Row, command, run

ROOT = Path(__file__).parent.parent


def overhead(folder: Path, count: int) -> list[Row]:
    """Seconds a case beyond those that the pipeline itself reports for it, model loaded once."""
    from conftest import write_bundle
    from mixed_scans import make_good

    (folder / "in").mkdir(exist_ok=True)
    make_good(folder / "in", count)
    run(command(folder / "in", folder / "out", write_bundle(folder / "model")))
    moments = [json.loads(line) for line in (folder / "out" / "events.jsonl").open()]
    begun = {each["case"]: each["time"] for each in moments if each["event"] == "case_started"}
    spans, own = [], []
    for each in moments:
        if each["event"] != "case_done":
            continue
        spans.append(_seconds(begun[each["case"]], each["time"]))
        own.append(sum(each["seconds"].values()))
    # The first case's span holds the loading of the model.
    extra = statistics.median(a - b for a, b in zip(spans[1:], own[1:], strict=True))
    measured = f"{extra:.3f} s (median of {len(spans) - 1}; a case took {spans[-1]:.3f} s)"
    return [Row("overhead a case, model loaded once", measured, "0.3 s", extra <= 0.3)]


def _seconds(start: str, end: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def jobs(folder: Path, count: int) -> list[Row]:
    """The bundled model with one worker and with two, same cap: runs by turns, medians."""
    (folder / "in").mkdir(exist_ok=True)
    for n in range(count):
        target = folder / "in" / f"phantom{n}.nii.gz"
        line = [sys.executable, str(ROOT / "examples" / "phantom.py"), "--seed", str(n)]
        subprocess.run([*line, "-o", str(target)], check=True, stdout=subprocess.DEVNULL)
    taken: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(3):
        for number in taken:
            out = folder / f"out{turn}-{number}"
            more = ("--jobs", number, "--memory-cap", "2GB")
            start = time.monotonic()
            run(command(folder / "in", out, Path("default"), *more))
            taken[number].append(time.monotonic() - start)
    one, two = (statistics.median(each) for each in taken.values())
    measured = f"{one / two:.2f} ({one:.1f} s and {two:.1f} s)"
    return [Row(f"throughput of --jobs 2 over 1, {count} phantoms", measured, "1.0", one >= two)]
