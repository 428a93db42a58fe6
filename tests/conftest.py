"""Shared makers: tiny networks as bundles, and analytic shapes as scans."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import settings

from segmate_cli import cli
from segmate_cli.bundle import Manifest
from segmate_cli.geometry import Geometry, ras_affine

# How long an example takes says nothing on a machine that is busy.
settings.register_profile("segmate", deadline=None)
settings.load_profile("segmate")

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT / "examples"))
sys.path.insert(0, str(ROOT / "tests"))

needs_shared = pytest.mark.skipif(
    not (SHARED / "ct").is_dir(), reason="needs the real CT of ../shared/ct, which is not here"
)


class _NeedsTorch(pytest.Module):
    """A test module that says why it is not run."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip("needs the extra [train] (torch, timm); CI runs it in a venv of its own")


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    """Skip tests/torch where torch is not installed, since its modules import it."""
    if module_path.parent.name == "torch" and not _has_torch():
        return _NeedsTorch.from_parent(parent, path=module_path)
    return None


def _has_torch() -> bool:
    spec = importlib.util.find_spec("torch")
    return spec is not None and spec.origin is not None  # tests/torch itself has no origin


def threshold_network(channels: int = 1, slices: int = 3) -> bytes:
    """An ONNX network whose logit in channel c is 10 * (middle slice) - 10 * c.

    With a window that maps HU -1000..400 to -1..1, channel 0 is "denser than -300 HU".
    """
    return linear_network([(10.0, -10.0 * channel) for channel in range(channels)], slices)


def linear_network(lines: Sequence[tuple[float, float]], slices: int = 3) -> bytes:
    """An ONNX network whose logits are slope * (middle slice) + offset, a channel each."""
    from onnx import TensorProto, helper, numpy_helper

    channels = len(lines)
    weight = np.zeros((channels, slices, 1, 1), np.float32)
    weight[:, slices // 2, 0, 0] = [slope for slope, _ in lines]
    bias = np.array([offset for _, offset in lines], np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["slices", "weight", "bias"], ["logits"])],
        "threshold",
        [helper.make_tensor_value_info("slices", TensorProto.FLOAT, ["n", slices, "h", "w"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", channels, "h", "w"])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def position_network() -> bytes:
    """As ``threshold_network(1)``, less 20 * slice_position where that is known (not negative)."""
    from onnx import TensorProto, helper, numpy_helper

    weight = np.zeros((1, 3, 1, 1), np.float32)
    weight[:, 1] = 10.0
    constants = {"weight": weight, "twenty": np.full(1, 20.0, np.float32)}
    constants["shape"] = np.array([-1, 1, 1, 1])
    nodes = [
        helper.make_node("Conv", ["slices", "weight"], ["plain"]),
        helper.make_node("Relu", ["slice_position"], ["known"]),
        helper.make_node("Mul", ["known", "twenty"], ["less"]),
        helper.make_node("Reshape", ["less", "shape"], ["less_4d"]),
        helper.make_node("Sub", ["plain", "less_4d"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "position",
        [
            helper.make_tensor_value_info("slices", TensorProto.FLOAT, ["n", 3, "h", "w"]),
            helper.make_tensor_value_info("slice_position", TensorProto.FLOAT, ["n"]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def manifest_dict(network: bytes, **changes: Any) -> dict[str, Any]:
    """A valid manifest for ``threshold_network(1)``; dotted names in ``changes`` replace parts."""
    manifest: dict[str, Any] = {
        "format": "segmate-bundle",
        "format_version": 1,
        "name": "tiny",
        "version": "1",
        "title": "A threshold",
        "gates": "none",  # a ball is no body
        "organs": [{"key": "liver", "channel": 0}],
        "preprocessing": {
            "grid": {"spacing_mm": [2.0, 2.0, 2.0], "directions": ["S", "P", "L"]},
            "window": {"low_hu": -1000, "high_hu": 400, "scale": 1 / 700, "offset": 3 / 7},
            "neighbours_mm": [-2.0, 0.0, 2.0],
            "padding": {"value": -1.0, "multiple": 8},
        },
        "provenance": {"licence": "Apache-2.0", "intended_use": "tests"},
        "network": {
            "architecture": "threshold",
            "encoder": "none",
            "channels": 1,
            "files": [
                {
                    "engine": "onnx",
                    "file": "model.onnx",
                    "sha256": hashlib.sha256(network).hexdigest(),
                }
            ],
        },
    }
    for name, value in changes.items():
        part = manifest
        *path, last = name.split("__")
        for step in path:
            part = part[step]
        part[last] = value
    return manifest


def two_organ_manifest(**clean_up: dict[str, object]) -> Manifest:
    """A liver and a spleen, value 1 and 2, cleaned by rules of their own."""
    raw = manifest_dict(
        threshold_network(),
        organs=[{"key": "liver", "channel": 0}, {"key": "spleen", "channel": 1}],
        network__channels=2,
        clean_up=clean_up,
    )
    return Manifest.model_validate_json(json.dumps(raw))


def write_bundle(folder: Path, network: bytes | None = None, **changes: Any) -> Path:
    """Write a bundle for tests; see ``manifest_dict``."""
    data = threshold_network() if network is None else network
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest_dict(data, **changes)))
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that labels everything denser than -300 HU as liver, on a 2 mm grid."""
    return write_bundle(tmp_path_factory.mktemp("models") / "tiny")


def asymmetric_shape(points_mm: np.ndarray) -> np.ndarray:
    """Inside test in LPS millimetres, (..., 3): three blobs with no symmetry of any kind."""
    centres = np.array([[0.0, 0.0, 0.0], [22.0, 6.0, 4.0], [4.0, -17.0, 20.0]])
    radii = np.array([16.0, 9.0, 8.0])
    distances = [
        np.linalg.norm(points_mm - c, axis=-1) - r for c, r in zip(centres, radii, strict=True)
    ]
    return np.min(distances, axis=0)


def voxel_centres_mm(geometry: Geometry) -> np.ndarray:
    """LPS millimetres of every voxel, (k, j, i, 3)."""
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)
    return geometry.to_lps_mm(index)


def save_nifti(path: Path, array: np.ndarray, geometry: Geometry, **header: Any) -> Path:
    """Write a (k, j, i) array as NIfTI with nibabel, independently of segmate's own writer."""
    image = nibabel.Nifti1Image(array.T, ras_affine(geometry))
    image.set_sform(ras_affine(geometry), code=1)
    image.set_qform(ras_affine(geometry), code=1)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def ball_scan(path: Path, size: int = 24, spacing_mm: float = 2.0) -> Path:
    """A small soft-tissue ball in air as a NIfTI scan."""
    affine = np.diag([spacing_mm] * 3 + [1.0])[[2, 1, 0, 3]]
    affine[:3, 3] = -spacing_mm * (size - 1) / 2
    geometry = Geometry(affine, (size, size, size))
    inside = np.linalg.norm(voxel_centres_mm(geometry), axis=-1) < spacing_mm * size / 3
    hu = np.where(inside, 40, -1000).astype(np.int16)
    hu[: size // 8] -= 5
    hu[0, 0, 0] = 900
    return save_nifti(path, hu, geometry)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the real command line in this process; gives (exit code, stdout, stderr)."""

    def call(*args: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(arg) for arg in args])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call
