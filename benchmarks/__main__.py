"""Time, memory and stages of ``segmate predict``, each run in a process of its own.

    python -m benchmarks                       # the shapes of README's table
    python -m benchmarks --shapes 128x128x40   # a small one, as CI does

Every scan is a phantom of examples/. Figures of one table come from one run on one machine;
quote ratios between its rows rather than single seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Columns x rows x slices, and millimetres a voxel.
SHAPES = {
    "256x256x140": (1.5, 1.5, 3.0),
    "512x512x100": (0.8, 0.8, 5.0),
    "512x512x400": (0.8, 0.8, 1.25),
    "512x512x531": (0.8, 0.8, 1.0),
    "512x512x1600": (0.8, 0.8, 0.4),
}
# "write" is the way back to the scan's grid, deflating and the disk.
_STAGES = ("read", "hash", "resample", "network", "labels", "clean_up", "write")


@dataclass(frozen=True)
class Measurement:
    """One run of ``segmate predict``.

    Attributes:
        wall_s: From start to end of the process.
        cpu_s: User and system seconds.
        peak_mb: Largest resident set.
        stages_s: Seconds by stage, from the sidecar.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    stages_s: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default=",".join(SHAPES), help="columns x rows x slices, ...")
    parser.add_argument("--runs", type=int, default=3, help="runs a shape; the median is shown")
    parser.add_argument("--folder", type=Path, help="keep the scans here for the next time")
    parser.add_argument("-o", "--out", type=Path, help="write the table here, too")
    parser.add_argument("options", nargs="*", help="after --: options for segmate predict")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            (shape, median([measure(make_scan(shape, folder), args.options)
                            for _ in range(args.runs)]))
            for shape in args.shapes.split(",")
        ]  # fmt: skip
    text = table(rows)
    print(text)
    if args.out:
        args.out.write_text(text)


def make_scan(shape: str, folder: Path) -> Path:
    """The phantom at this size, made once."""
    path = folder / f"phantom_{shape}.nii.gz"
    if not path.exists():
        spacing = SHAPES.get(shape, (2.0, 2.0, 3.0))
        command = [sys.executable, str(ROOT / "examples" / "phantom.py"), "-o", str(path)]
        command += ["--size", *shape.split("x"), "--spacing", *map(str, spacing)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def measure(scan: Path, options: list[str]) -> Measurement:
    """Run ``segmate predict`` once."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "labels.nii.gz"
        command = [sys.executable, "-m", "segmate_cli", "predict", str(scan), "-o", str(out)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.monotonic()
        subprocess.run([*command, "--quiet", *options], check=True, stdout=subprocess.DEVNULL)
        wall_s = time.monotonic() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        sidecar: dict[str, Any] = json.loads((Path(folder) / "labels.json").read_text())
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measurement(wall_s, cpu_s, sidecar["peak_memory_bytes"] / 1e6, sidecar["seconds"])


def median(runs: list[Measurement]) -> Measurement:
    """The run with the median wall time."""
    middle = statistics.median_low(run.wall_s for run in runs)
    return next(run for run in runs if run.wall_s == middle)


def table(rows: list[tuple[str, Measurement]]) -> str:
    """Markdown, with a line on the machine."""
    head = ["scan", "wall s", "CPU s", "peak MB", *(f"{name} %" for name in _STAGES), "other %"]
    lines = [head, ["---"] * len(head)]
    for shape, run in rows:
        shares = [100 * run.stages_s.get(name, 0.0) / run.wall_s for name in _STAGES]
        cells = [shape, f"{run.wall_s:.1f}", f"{run.cpu_s:.1f}", f"{run.peak_mb:.0f}"]
        cells += [f"{share:.0f}" for share in [*shares, 100 - sum(shares)]]
        lines.append(cells)
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    when = time.strftime("%Y-%m-%d")
    return f"{text}\n\n{os.cpu_count()} cores, {platform.machine()}, Linux, {when}.\n"


if __name__ == "__main__":
    main()
