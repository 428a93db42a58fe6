"""The network's own time: as many slices as a scan has on the model's grid, and nothing else.

    python -m benchmarks.network SLICES ROWS COLUMNS

The network is loaded and warm; the slices go through it as ``segmate predict`` would send them.
Prints seconds.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from segmate_cli.bundle import open_bundle
from segmate_cli.engines import load_model
from segmate_cli.flow import spread


def main() -> None:
    slices, rows, columns = map(int, sys.argv[1:])
    model = load_model(open_bundle())
    multiple = model.manifest.preprocessing.padding.multiple
    shape = (1, len(model.manifest.preprocessing.neighbours_mm))
    shape += tuple(-(-side // multiple) * multiple for side in (rows, columns))
    stack = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)

    def run(_: int) -> None:
        model.runner.run(stack, None)

    list(spread(run, range(2 * model.workers), model.workers))
    start = time.perf_counter()
    list(spread(run, range(slices), model.workers))
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
