"""Does int8 pay? A bundle's ONNX network with 8-bit weights and activations, timed against it.

    python -m benchmarks.int8 BUNDLE OUT --calibrate ct.nii.gz other.nii.gz
    python -m training.score_bundle CONFIG DATA OUT int8.json      # its Dice, beside the bundle's

OUT is a bundle that ``segmate predict --model OUT`` runs. It is worth shipping where the gain is
over 1.3 times and the mean Dice falls by less than 0.003. Activations are scaled by what a few
slices of each scan reach (needs onnx; real scans, since a phantom's slices reach less).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime import quantization

from segmate_cli.bundle import Manifest, open_bundle
from segmate_cli.flow import Stopwatch
from segmate_cli.inputs import ScanTap, neighbour_stacks, network_slices
from segmate_cli.resample import ModelGrid
from segmate_cli.scans import find_scan

_GAIN = 1.3
_SLICES_A_SCAN = 6
_CROP = 160  # histograms want all slices to have one size
_ROUNDS = 9
_SIDES = (224, 288)


class _Slices(quantization.CalibrationDataReader):
    """Stacks for the network, spread over the middle of each scan."""

    def __init__(self, scans: list[Path], manifest: Manifest) -> None:
        self._stacks = itertools.chain.from_iterable(_stacks(scan, manifest) for scan in scans)

    def get_next(self) -> dict[str, Any] | None:
        stack = next(self._stacks, None)
        if stack is None:
            return None
        top, left = ((side - _CROP) // 2 for side in stack.shape[1:])
        return {"slices": stack[None, :, top : top + _CROP, left : left + _CROP]}


def _stacks(path: Path, manifest: Manifest) -> Iterator[np.ndarray]:
    scan, watch = find_scan(path), Stopwatch()
    rules = manifest.preprocessing
    grid = ModelGrid.fit(scan.geometry, rules)
    slices = network_slices(ScanTap(scan, grid, watch), grid, rules, watch)
    step = max(1, grid.shape[0] // _SLICES_A_SCAN)
    return itertools.islice(
        neighbour_stacks(slices, rules.neighbour_steps()), step // 2, None, step
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("output", type=Path, help="folder of the new bundle")
    parser.add_argument("--calibrate", type=Path, nargs="+", required=True, help="scans")
    args = parser.parse_args()
    quantise(args.bundle, args.output, args.calibrate)
    gains = [gain(args.bundle, args.output, side) for side in _SIDES]
    worth = "worth scoring" if min(gains) > _GAIN else "does not pay"
    print(f"{worth}: the bar is {_GAIN} times")


def quantise(bundle: Path, output: Path, scans: list[Path]) -> None:
    """Write the bundle with an int8 network."""
    manifest = open_bundle(bundle).manifest
    shutil.copytree(bundle, output)
    network = output / "model.onnx"
    with tempfile.TemporaryDirectory() as folder:
        # Batch norm and half-precision weights are folded first: int8 takes what is left.
        folded = Path(folder) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
        quantization.quantize_static(
            folded,
            network,
            _Slices(scans, manifest),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.Percentile,
        )
    path = output / "manifest.json"
    content = json.loads(path.read_text())
    content["name"] += "-int8"
    files = [each for each in content["network"]["files"] if each["engine"] == "onnx"]
    files[0]["sha256"] = hashlib.sha256(network.read_bytes()).hexdigest()
    content["network"]["files"] = files
    path.write_text(json.dumps(content, indent=2) + "\n")


def gain(bundle: Path, other: Path, side: int) -> float:
    """How many times faster the other is, a slice at a time in one thread, by turns."""
    sessions = [_session(each / "model.onnx") for each in (bundle, other)]
    neighbours = sessions[0].get_inputs()[0].shape[1]
    shape = (1, neighbours, side, side)
    feed = {"slices": np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)}
    seconds: list[list[float]] = [[], []]
    for _ in range(_ROUNDS + 1):
        for taken, session in zip(seconds, sessions, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            taken.append(time.perf_counter() - start)
    before, after = (1000 * statistics.median(each[1:]) for each in seconds)
    print(f"{side} x {side}: {before:.1f} ms, int8 {after:.1f} ms: {before / after:.2f} times")
    return before / after


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
