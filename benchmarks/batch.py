"""What a batch must stand: kills, broken scans, many cases, a cluster whose workers die.

    python -m benchmarks.batch                    # every check, in its long form (about 25 minutes)
    python -m benchmarks.batch kills --kills 500
    python -m benchmarks.batch scale --cases 100000

Each check prints one row: what, measured, the bar, whether it is met; the exit code is 1 where one
is not. The networks are a threshold (a few milliseconds a scan) or a stub (1 ms), so that what is
measured is the batch. Needs a clone with the extras [cpu,dev,dask].
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "examples")]

from benchmarks import batch_kills, batch_scale, batch_speed  # noqa: E402
from benchmarks.batch_common import Row  # noqa: E402


@dataclass(frozen=True)
class Check:
    """A check and the option that says how long it is."""

    run: Callable[[Path, int], list[Row]]
    option: str
    long: int


CHECKS = {
    "kills": Check(batch_kills.kills, "kills", 50),
    "mixed": Check(batch_kills.mixed, "cases", 100),
    "dask": Check(batch_kills.dask, "seconds", 60),
    "overhead": Check(batch_speed.overhead, "cases", 12),
    "again": Check(batch_scale.again, "cases", 1000),
    "jobs": Check(batch_speed.jobs, "cases", 6),
    "memory": Check(batch_scale.memory, "cases", 10_000),
    "scale": Check(batch_scale.scale, "cases", 100_000),
    "tree": Check(batch_scale.tree, "files", 1_000_000),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checks", nargs="*", help=f"of {', '.join(CHECKS)}; default: all")
    for option in sorted({check.option for check in CHECKS.values()}):
        parser.add_argument(f"--{option}", type=int, help="how many, in place of the long form")
    parser.add_argument(
        "--folder", type=Path, help="work here, leave what was made, go on there (kills)"
    )
    args = parser.parse_args()
    print("| what | measured | bar | met |\n| --- | --- | --- | --- |", flush=True)
    met = True
    for name in args.checks or CHECKS:
        check = CHECKS[name]
        with tempfile.TemporaryDirectory() as temporary:
            folder = (args.folder or Path(temporary)) / name
            folder.mkdir(parents=True, exist_ok=True)
            for row in check.run(folder, getattr(args, check.option) or check.long):
                print(row.as_text(), flush=True)
                met &= row.met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
