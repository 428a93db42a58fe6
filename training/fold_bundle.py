"""Folds the padding of a bundle's ONNX network that was exported before ``segmate convert`` did so.

    python -m training.fold_bundle weights/default

The logits stay the same to the last bit, which is checked; the manifest gets the new sha256
and the memory that a slice takes.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from segmate_cli.bundle import MANIFEST_NAME, open_bundle
from segmate_cli.convert import measure_footprint
from segmate_cli.onnx_padding import fold_padding

# Rows and columns at which logits are compared, in the network's multiples.
_PARTS = ((2, 3), (7, 5), (9, 9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="its folder, changed in place")
    args = parser.parse_args()
    bundle = open_bundle(args.bundle)
    entry = bundle.network_file("onnx")
    if entry is None:
        parser.error(f"{args.bundle}: there is no ONNX network in it")
    before = bundle.read_network(entry)
    model = onnx.load_from_string(before)
    folded = fold_padding(model)
    onnx.checker.check_model(model, full_check=True)
    after = model.SerializeToString()
    multiple = bundle.manifest.preprocessing.padding.multiple
    slices = len(bundle.manifest.preprocessing.neighbours_mm)
    for rows, columns in _PARTS:
        shape = (2, slices, rows * multiple, columns * multiple)
        given = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        if not np.array_equal(_logits(before, given), _logits(after, given)):
            parser.error(f"logits of {rows * multiple} x {columns * multiple} are not the same")
    (args.bundle / entry.file).write_bytes(after)
    manifest = args.bundle / MANIFEST_NAME
    text = manifest.read_text(encoding="utf-8")
    text = text.replace(entry.sha256, hashlib.sha256(after).hexdigest())
    size = measure_footprint(args.bundle / entry.file, slices)
    have = f'"bytes_per_pixel": {bundle.manifest.network.bytes_per_pixel}'
    manifest.write_text(text.replace(have, f'"bytes_per_pixel": {size}'), encoding="utf-8")
    print(f"{args.bundle}: {folded} nodes folded, {size} bytes a pixel")


def _logits(network: bytes, slices: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["logits"], {"slices": slices})[0]
    return found


if __name__ == "__main__":
    main()
