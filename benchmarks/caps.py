"""Is a memory cap kept? ``segmate predict`` under caps drawn at random, each measured from outside.

    python -m benchmarks.caps
    python -m benchmarks.caps --runs 100 --seed 7 --scan ct.nii.gz

Caps lie between 0.8 and 1.5 times the smallest that ``segmate plan`` names. A cap is kept where the
run ends well and never held more, or where it is refused with exit code 5.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.__main__ import machine, make_scan
from benchmarks.processes import run

_SHAPE = "256x256x140"
_MEMORY = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scan", type=Path, help="by default a phantom")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="default")
    parser.add_argument("--folder", type=Path, help="keep the phantom here for the next time")
    args = parser.parse_args()
    segmate = [sys.executable, "-m", "segmate_cli"]
    draw = random.Random(args.seed)
    kept = refused = 0
    with tempfile.TemporaryDirectory() as temporary:
        scan = args.scan or make_scan(_SHAPE, args.folder or Path(temporary))
        options = [str(scan), "--model", args.model]
        plan = [*segmate, "plan", *options, "--format", "json"]
        done = subprocess.run(plan, check=True, stdout=subprocess.PIPE, text=True)
        least = json.loads(done.stdout)["least_cap_bytes"]
        print(f"smallest cap {least / 1e6:.0f} MB")
        for n in range(args.runs):
            cap = int(least * draw.uniform(0.8, 1.5))
            out = ["-o", str(Path(temporary) / f"{n}.nii.gz"), "--memory-cap", str(cap)]
            cost = run(
                [*segmate, "predict", *options, *out, "--quiet", "--no-gate-exit"], (0, _MEMORY)
            )
            good = cost.code == _MEMORY or cost.peak_mb <= cap / 1e6
            kept += good
            refused += cost.code == _MEMORY
            end = "refused" if cost.code else f"held {cost.peak_mb:.0f} MB"
            print(f"cap {cap / 1e6:.0f} MB: {end}{'' if good else ', NOT KEPT'}", flush=True)
    print(f"kept {kept} of {args.runs}, {refused} of them by refusing. {machine()}")


if __name__ == "__main__":
    main()
