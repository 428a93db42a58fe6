"""``--dry-run``: what a batch would do, why, and what it will cost in time and memory."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from segmate_cli import files, pipeline, scans
from segmate_cli.batch import outlook
from segmate_cli.batch.cases import Case
from segmate_cli.batch.driver import Plan
from segmate_cli.batch.making import predict_options
from segmate_cli.batch.settings import Settings
from segmate_cli.bundle import Bundle
from segmate_cli.engines import LoadedModel
from segmate_cli.errors import AmbiguousSeriesError, InputError, MemoryCapError

COLUMNS = (
    *("case", "action", "why", "slices", "rows", "columns", "batch_size"),
    *("peak_memory_mb", "seconds", "path"),
)
# The network takes about this part of a case's time; see README's table.
_NETWORK_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Cost:
    """What a case would take, or the sentence why it would fail.

    Attributes:
        shape: The scan's slices, rows and columns.
        batch_size: Slices a batch.
        peak_bytes: Expected peak of the worker.
        seconds: About.
    """

    shape: tuple[int, int, int]
    batch_size: int
    peak_bytes: int
    seconds: float


def show(cases: Sequence[Case], plan: Plan, bundle: Bundle, stream: TextIO) -> str:
    """Write a row a case, tab-separated; gives the sum in one sentence.

    Errors are those of loading the model; a scan that cannot be used has them in its row.
    """
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    pace = None
    todo, seconds, most = 0, 0.0, 0
    for case, why, _ in outlook.with_reasons(cases, plan):
        path = files.storable(case.path)
        if not why:
            writer.writerow([case.case_id, "keep", "done before", *[""] * 6, path])
            continue
        todo += 1
        if why == outlook.ONLY_JUDGED:
            writer.writerow([case.case_id, "judge", why, *[""] * 6, path])
            continue
        pace = pace or _Pace(plan.settings, bundle)
        cost = pace.of(case)
        if isinstance(cost, str):
            writer.writerow([case.case_id, "fail", files.storable(cost), *[""] * 6, path])
            continue
        seconds, most = seconds + cost.seconds, max(most, cost.peak_bytes)
        numbers = [*cost.shape, cost.batch_size, round(cost.peak_bytes / 1e6)]
        writer.writerow([case.case_id, "do", why, *numbers, f"{cost.seconds:.1f}", path])
    return (
        f"{len(cases)} cases: {todo} to do, {len(cases) - todo} done before; about "
        f"{seconds / plan.jobs / 60:.1f} min with {plan.jobs} at a time, each up to "
        f"{most / 1e6:.0f} MB."
    )


class _Pace:
    """The model, loaded, and how fast it is here."""

    def __init__(self, settings: Settings, bundle: Bundle) -> None:
        self._settings = settings
        self._options = predict_options(settings)
        self._model = pipeline.ensure_loading(bundle, self._options).loaded()
        pipeline.select_values(self._model.manifest, settings.organs)
        self._seconds_a_pixel = 0.0

    def of(self, case: Case) -> Cost | str:
        """A case's cost; of a scan that cannot be used the reason."""
        settings = self._settings.for_case(case.options)
        try:
            scan = scans.find_scan(
                Path(case.path), series=case.series, assume_ras=settings.assume_ras
            )
            plan = pipeline.plan_for(scan, self._model, self._options)
        except (InputError, AmbiguousSeriesError, MemoryCapError) as error:
            return str(error)
        slices, rows, columns = plan.grid_shape
        if not self._seconds_a_pixel:
            self._seconds_a_pixel = _measure(self._model, rows, columns) / (rows * columns)
        network_s = self._seconds_a_pixel * slices * rows * columns
        return Cost(
            plan.scan_shape, plan.batch_size, plan.expected_peak_bytes, network_s / _NETWORK_SHARE
        )


def _measure(model: LoadedModel, rows: int, columns: int) -> float:
    """Seconds that the network takes for a slice of this size, all threads at work."""
    manifest = model.manifest
    multiple = manifest.preprocessing.padding.multiple
    height, width = (-(-size // multiple) * multiple for size in (rows, columns))
    shape = (1, len(manifest.preprocessing.neighbours_mm), height, width)
    slices = np.full(shape, manifest.preprocessing.padding.value, np.float32)
    positions = np.full(1, -1.0, np.float32) if manifest.network.takes_slice_position else None
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        model.runner.run(slices, positions)
        taken.append(time.perf_counter() - start)
    return min(taken) / model.workers
