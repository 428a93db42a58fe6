"""Output folders as ``segmate batch`` leaves them, with records of made-up numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from segmate_cli.batch import records
from segmate_cli.batch.records import Record

MEANS = {"liver": (1500.0, 60.0), "spleen": (200.0, 50.0), "kidney_left": (160.0, 35.0)}


def row(organ: str, volume_ml: float | None, mean_hu: float | None, **more: Any) -> dict[str, Any]:
    empty = {"status": "not_found" if volume_ml is None else "complete", "is_lower_bound": False}
    return {"organ": organ, "volume_ml": volume_ml, "mean_hu": mean_hu, **empty, **more}


def record(case: str, rows: list[dict[str, Any]], **more: Any) -> Record:
    plain = {"state": "done", "exit_code": 0, "path": f"scans/{case}.nii.gz", "config_sha256": "c"}
    return Record(**{**plain, "case": case, "organs": tuple(rows), **more})


def make_cohort(
    count: int = 40, scale: float = 1.0, seed: int = 0, **changes: Record
) -> list[Record]:
    """Records of a batch; ``changes`` replace or add cases by name."""
    rng = np.random.default_rng(seed)
    made = {}
    for n in range(count):
        case = f"case{n:03d}"
        # Without tails, so that nobody is an outlier by chance.
        deviates = np.clip(rng.normal(size=(len(MEANS), 2)), -2, 2)
        rows = [
            row(organ, scale * ml * float(np.exp(0.15 * a)), hu + float(8 * b))
            for (organ, (ml, hu)), (a, b) in zip(MEANS.items(), deviates, strict=True)
        ]
        made[case] = record(case, rows)
    return list({**made, **changes}.values())


def write_cohort(out: Path, *args: Any, **kwargs: Any) -> Path:
    """As a batch's output."""
    return write_records(out, make_cohort(*args, **kwargs))


def write_records(out: Path, made: list[Record]) -> Path:
    """A batch's output of these records."""
    for each in made:
        folder = out / each.case
        folder.mkdir(parents=True)
        records.write(folder, each)
    return out


def of_scanners(count: int = 48, scale: float = 1.0) -> list[Record]:
    """Of two scanners, over four months; volumes of the second scanner are scaled."""
    makers = ({"manufacturer": "ACME", "model": "One"}, {"manufacturer": "Other", "kernel": "B30f"})
    plain, scaled = make_cohort(count), make_cohort(count, scale)
    return [
        (plain, scaled)[n % 2][n].model_copy(
            update={"scanner": {**makers[n % 2], "month": f"2025-0{1 + n // 2 % 4}"}}
        )
        for n in range(count)
    ]


def odd_cases() -> dict[str, Record]:
    """One of each kind that somebody should look at, and one that is cut."""
    usual = [row("spleen", 200.0, 50.0), row("kidney_left", 160.0, 35.0)]
    failed = {"state": "failed", "exit_code": 6, "cause": "input"}
    return {
        "broken": record("broken", [], message="cut short in slice 3.", **failed),
        "doubtful": record("doubtful", usual, state="review", message="the liver is missing."),
        "huge": record("huge", [row("liver", 9000.0, 60.0), *usual]),
        "dense": record("dense", [row("liver", 1500.0, 400.0), *usual]),
        "lost": record("lost", [row("liver", None, None), *usual]),
        "cut": record(
            "cut", [row("liver", 100.0, 60.0, status="truncated", is_lower_bound=True), *usual]
        ),
    }
