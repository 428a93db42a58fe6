"""The stand-ins for published checkpoints in ../shared/upstream, for the torch tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
UPSTREAM = ROOT.parent / "shared" / "upstream"
STARTER = ROOT.parent / "shared" / "starter" / "starter.pth"
NAMES = ("fastvit_t8", "mambaout_femto", "tf_efficientnetv2_b0", "tf_efficientnetv2_b0_nofilm")

needs_upstream = pytest.mark.skipif(
    not UPSTREAM.is_dir(), reason="needs the fixtures of ../shared/upstream, which are not here"
)
needs_starter = pytest.mark.skipif(
    not STARTER.is_file(), reason="needs ../shared/starter/starter.pth, which is not here"
)


def write_checkpoint(name: str, path: Path) -> Path:
    """The very file that make_checkpoint.py writes for one of ``NAMES``."""
    spec = importlib.util.spec_from_file_location(
        "make_checkpoint", UPSTREAM / "make_checkpoint.py"
    )
    maker = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(maker)
    finally:
        sys.dont_write_bytecode = before
    tensors = {f"module.{k}": torch.from_numpy(v) for k, v in maker.state_dict(name).items()}
    torch.save({"model_state": tensors, "epoch": 0}, path)
    return path


def expected(name: str) -> dict[str, np.ndarray]:
    with np.load(UPSTREAM / f"expected_{name}.npz") as arrays:
        return dict(arrays)


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference over the standard deviation of what is wanted."""
    # Boundaries are stored as float16, whose own rounding is not the network's.
    rounding = 2.0**-11 * np.abs(wanted.astype(np.float64)) if wanted.dtype == np.float16 else 0.0
    wanted = wanted.astype(np.float64)
    return float((np.abs(found - wanted) - rounding).max() / wanted.std())
