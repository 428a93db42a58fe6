"""One scan: segmate, the network alone for the same slices, and, if asked for, TotalSegmentator."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import Cost, run


@dataclass(frozen=True)
class Measurement:
    """One run of ``segmate predict``, and what ran beside it.

    Attributes:
        cost: Of the whole process.
        stages_s: Seconds by stage, from the sidecar, of all threads together.
        network_s: Wall seconds of the network alone for the same slices, right after.
        peer: Of TotalSegmentator on the same scan, right after that.
    """

    cost: Cost
    stages_s: dict[str, float]
    network_s: float
    peer: Cost | None = None


def measure(scan: Path, options: list[str], peer_venv: Path | None = None) -> Measurement:
    """Run all that is compared once, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "labels.nii.gz"
        command = [sys.executable, "-m", "segmate_cli", "predict", str(scan), "-o", str(out)]
        # A small phantom may want a review; what it costs is the question here.
        cost = run([*command, "--no-gate-exit", "--progress", "json", *options])
        sidecar: dict[str, Any] = json.loads((Path(folder) / "labels.json").read_text())
        network_s = network_alone(sidecar)
        peer = total_segmentator(scan, Path(folder), peer_venv) if peer_venv else None
    return Measurement(cost, sidecar["seconds"], network_s, peer)


def network_alone(sidecar: dict[str, Any]) -> float:
    """Seconds of the network for as many slices as a run had."""
    slices, *sides = sidecar["model_grid"]["shape"]
    if sidecar["options"]["fast"]:
        slices = -(-slices // 2)
    command = [sys.executable, "-m", "benchmarks.network", *map(str, (slices, *sides))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def total_segmentator(scan: Path, folder: Path, venv: Path) -> Cost:
    """TotalSegmentator's 3 mm network on the CPU, one label map out; HOME must hold its weights."""
    command = [str(venv / "bin" / "TotalSegmentator"), "-i", str(scan), "--fast", "--ml"]
    return run([*command, "-o", str(folder / "peer.nii.gz"), "-d", "cpu"])


def median(runs: list[Measurement]) -> Measurement:
    """The run with the median wall time."""
    middle = statistics.median_low(each.cost.wall_s for each in runs)
    return next(each for each in runs if each.cost.wall_s == middle)
