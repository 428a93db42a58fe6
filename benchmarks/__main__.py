"""Time, memory and stages of ``segmate predict``, each run in a process of its own.

    python -m benchmarks                       # the shapes of README's table
    python -m benchmarks --shapes 128x128x40   # a small one, as CI does
    python -m benchmarks --scan ct.nii.gz --shapes "" -- --fast
    python -m benchmarks --shapes 512x512x400 --totalsegmentator VENV --runs 1

Every scan is a phantom of examples/, a real CT resampled to that shape ("real:512x512x400", among
the default shapes where ../shared/ct is there), or a file of your own. Figures of one table come
from one run on one machine; quote ratios between its rows and columns rather than single seconds.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Measurement, measure, median

ROOT = Path(__file__).parent.parent
# Columns x rows x slices, and millimetres a voxel.
SHAPES = {
    "256x256x140": (1.5, 1.5, 3.0),
    "512x512x100": (0.8, 0.8, 5.0),
    "512x512x400": (0.8, 0.8, 1.25),
    "512x512x531": (0.8, 0.8, 1.0),
    "512x512x1600": (0.8, 0.8, 0.4),
}
_REAL = "real:512x512x400"
# "write" is the way back to the scan's grid, deflating and the disk.
_STAGES = ("read", "hash", "resample", "network", "labels", "clean_up", "write")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", help="columns x rows x slices, ... or real: before them")
    parser.add_argument("--scan", type=Path, action="append", default=[], help="measure this, too")
    parser.add_argument("--runs", type=int, default=3, help="runs a scan; the median is shown")
    parser.add_argument("--folder", type=Path, help="keep the phantoms here for the next time")
    parser.add_argument("--totalsegmentator", type=Path, metavar="VENV", help="compare with it")
    parser.add_argument("-o", "--out", type=Path, help="write the table here, too")
    parser.add_argument("--plot", type=Path, help="draw a picture (.svg, .png; needs matplotlib)")
    parser.add_argument("options", nargs="*", help="after --: options for segmate predict")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        shapes = default_shapes() if args.shapes is None else args.shapes.split(",")
        scans = {shape: make_scan(shape, folder) for shape in shapes if shape}
        scans |= {path.name: path for path in args.scan}
        runs: dict[str, list[Measurement]] = {name: [] for name in scans}
        for _ in range(args.runs):  # by turns: what else the machine does meets all alike
            for name, path in scans.items():
                runs[name].append(measure(path, args.options, args.totalsegmentator))
    rows = [(name, median(each)) for name, each in runs.items()]
    text = table(rows)
    print(text)
    if args.out:
        args.out.write_text(text)
    if args.plot:
        from benchmarks.plot import draw

        draw(rows, args.plot)


def default_shapes() -> list[str]:
    """Those of README's table, and a real CT where there is one."""
    from benchmarks import real

    return [*SHAPES, *([_REAL] if real.source() else [])]


def make_scan(shape: str, folder: Path) -> Path:
    """The phantom, or the real CT, at this size, made once."""
    if shape.startswith("real:"):
        return make_real(shape.removeprefix("real:"), folder)
    path = folder / f"phantom_{shape}.nii.gz"
    if not path.exists():
        spacing = SHAPES.get(shape, (2.0, 2.0, 3.0))
        command = [sys.executable, str(ROOT / "examples" / "phantom.py"), "-o", str(path)]
        command += ["--size", *shape.split("x"), "--spacing", *map(str, spacing)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def make_real(shape: str, folder: Path) -> Path:
    """A real CT resampled to this size, made once."""
    from benchmarks import real

    path, case = folder / f"real_{shape}.nii.gz", real.source()
    if case is None:
        sys.exit(f"real:{shape} needs the scans of ../shared/ct, which are not there.")
    if not path.exists():
        columns, rows, slices = map(int, shape.split("x"))
        real.write(case, path, (columns, rows, slices), SHAPES.get(shape, (2.0, 2.0, 3.0)))
    return path


def table(rows: list[tuple[str, Measurement]]) -> str:
    """Markdown, with a line on the machine; shares are of the threads' seconds."""
    head = ["scan", "wall s", "network alone s", "ratio", "first slice s", "CPU s", "peak MB"]
    head += [f"{name} %" for name in _STAGES]
    lines = [head, ["---"] * len(head)]
    for name, run in rows:
        cost, all_s = run.cost, sum(run.stages_s.values())
        cells = [name, f"{cost.wall_s:.2f}", f"{run.network_s:.2f}"]
        cells += [f"{cost.wall_s / run.network_s:.2f}", f"{cost.first_s or 0:.2f}"]
        cells += [f"{cost.cpu_s:.1f}", f"{cost.peak_mb:.0f}"]
        cells += [f"{100 * run.stages_s.get(stage, 0.0) / all_s:.0f}" for stage in _STAGES]
        lines.append(cells)
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return "\n\n".join([text, *(beside(*row) for row in rows if row[1].peer), machine()]) + "\n"


def machine() -> str:
    """Where and when, in a line."""
    when = time.strftime("%Y-%m-%d")
    return f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, {when}."


def beside(name: str, run: Measurement) -> str:
    """TotalSegmentator's figures, and how many times segmate's they are."""
    peer, own = run.peer, run.cost
    if peer is None:
        return ""
    return (
        f"TotalSegmentator --fast --ml, {name}: "
        f"{peer.wall_s:.1f} s ({peer.wall_s / own.wall_s:.1f} times), "
        f"{peer.cpu_s:.1f} CPU s ({peer.cpu_s / own.cpu_s:.1f} times), "
        # Its processes share pages that they have not written, which no sum tells apart.
        f"its largest process {peer.largest_mb:.0f} MB ({peer.largest_mb / own.peak_mb:.1f} times)."
    )


if __name__ == "__main__":
    main()
