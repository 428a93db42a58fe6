"""Exports a network to ONNX, TorchScript or torch.export, and proves what was written.

Import lazily: needs torch, and onnx with onnxruntime for ONNX.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from segmate_cli.bundle import Engine, Window
from segmate_cli.errors import ModelError
from segmate_cli.network import InferenceNetwork, SegMate
from segmate_cli.onnx_padding import fold_padding

FloatArray = NDArray[np.float32]
Run = Callable[[FloatArray, FloatArray | None], FloatArray]
Precision = Literal["fp32", "fp16"]

OPSET = 18
FILE_NAMES: dict[Engine, str] = {
    "onnx": "model.onnx",
    "torchscript": "model.torchscript.pt",
    "pt2": "model.pt2",
}

#: Largest difference from PyTorch that a bundle may have, over the logits' standard deviation.
PARITY_LIMITS: dict[Precision, float] = {"fp32": 1e-3, "fp16": 1e-2}

#: Tensors with fewer values stay float32: they weigh 3 % and carry half of the rounding's effect.
#: The slice fusion, which sees a narrow range far from 0, is always among them.
HALF_FROM_VALUES = 16_384

# What torch.export's guards want of each side.
_LEAST_SIDE = 64
# Batch, rows and columns of the proofs: for fewer values than these PyTorch itself changes to a
# convolution that rounds differently.
_PROOF_SIZES = ((1, 96, 128), (3, 97, 75), (2, 131, 160))


@dataclass(frozen=True, slots=True)
class Source:
    """A network to export, and what it is fed.

    Attributes:
        network: As it came from the checkpoint, in evaluation mode.
        window: HU to network input.
        mean: Subtracted from the input inside the exported graph, and
        deviation: What it is divided by there.
        multiple: What rows and columns are padded to a multiple of.
    """

    network: SegMate
    window: Window
    mean: float = 0.0
    deviation: float = 1.0
    multiple: int = 1

    def reference(self, slices: FloatArray, position: FloatArray | None) -> FloatArray:
        """Logits of the network itself, before any preparation for export."""
        x = (torch.from_numpy(slices) - self.mean) / self.deviation
        where = None if position is None else torch.from_numpy(position)
        with torch.no_grad():
            return _array(self.network.segmentation(x, where))


def export_and_prove(source: Source, engine: Engine, path: Path, precision: Precision) -> float:
    """Write the network for one engine and compare the written file with its source.

    Returns:
        Largest difference over the logits' standard deviation.

    Raises:
        ModelError: The exporter gave up, or the file differs by more than `PARITY_LIMITS`.
    """
    prepared = InferenceNetwork(source.network, source.mean, source.deviation, source.multiple)
    try:
        with _quiet():
            if engine == "pt2":
                _write_pt2(prepared, path, precision, source.multiple)
            else:
                writer = {"onnx": _write_onnx, "torchscript": _write_torchscript}[engine]
                writer(prepared, path, precision)
            parity = prove(source, _OPENERS[engine](path))
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise ModelError(
            f"Cannot export this network to {engine} ({first}); choose another format by --to."
        ) from error
    if not parity <= PARITY_LIMITS[precision]:
        raise ModelError(
            f"The {engine} export differs from PyTorch by {parity:.2g} of the logits' standard "
            f"deviation, over the limit of {PARITY_LIMITS[precision]:g} for {precision}; no bundle "
            "was written. Try --precision fp32 or another format."
        )
    return parity


def prove(source: Source, run: Run) -> float:
    """Largest difference between `run` and the source network, over the logits' deviation.

    Several batch sizes, heights and widths; with FiLM, slice positions known and unknown.
    """
    worst = 0.0
    for number, (batch, *sides) in enumerate(_PROOF_SIZES):
        rows, columns = (-(-side // source.multiple) * source.multiple for side in sides)
        shape = (batch, source.network.config.slices, rows, columns)
        slices, position = example_inputs(source, shape, seed=number)
        expected = source.reference(slices, position).astype(np.float64)
        difference = np.abs(run(slices, position) - expected).max()
        worst = float(np.maximum(worst, difference / expected.std()))  # keeps a NaN
    return worst


def example_inputs(
    source: Source, shape: tuple[int, int, int, int], seed: int
) -> tuple[FloatArray, FloatArray | None]:
    """Network inputs (N, S, H, W) made of a noisy body with lungs and spine, and positions (N,)."""
    batch, slices, rows, columns = shape
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    hu = np.full(shape, -1000.0)
    for index in np.ndindex(batch, slices):
        shift = 0.3 * rng.random() + 0.02 * index[1]
        body = (x / 0.9) ** 2 + (y / 0.7) ** 2 < 1
        lungs = ((np.abs(x) - 0.4) / 0.25) ** 2 + ((y + shift) / 0.4) ** 2 < 1
        spine = x**2 + (y - 0.5) ** 2 < 0.015
        hu[index] = np.select([spine, body & lungs, body], [400.0, -850.0, 45.0], -1000.0)
    window = source.window
    hu = np.clip(hu + rng.normal(0.0, 20.0, shape), window.low_hu, window.high_hu)
    position = None
    if source.network.config.film:
        position = np.linspace(0.7, 0.2, batch, dtype=np.float32)
        position[1::2] = -1.0
    return (hu * window.scale + window.offset).astype(np.float32), position


def open_onnx(path: Path) -> Run:
    """An ONNX file as a function, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)

    def run(slices: FloatArray, position: FloatArray | None) -> FloatArray:
        feed = {"slices": slices}
        if position is not None:
            feed["slice_position"] = position
        output: FloatArray = session.run(["logits"], feed)[0]
        return output

    return run


def open_torchscript(path: Path) -> Run:
    """A TorchScript file as a function, on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, its files are still in use
        return _torch_run(torch.jit.load(str(path), map_location="cpu"))


def open_pt2(path: Path) -> Run:
    """A torch.export file as a function, on the CPU."""
    return _torch_run(torch.export.load(str(path)).module())


_OPENERS: dict[Engine, Callable[[Path], Run]] = {
    "onnx": open_onnx,
    "torchscript": open_torchscript,
    "pt2": open_pt2,
}


def _torch_run(module: Callable[..., Tensor]) -> Run:
    def run(slices: FloatArray, position: FloatArray | None) -> FloatArray:
        arrays = (slices,) if position is None else (slices, position)
        with torch.no_grad():
            return _array(module(*map(torch.from_numpy, arrays)))

    return run


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.numpy()
    return array


def _example(prepared: InferenceNetwork) -> tuple[Tensor, ...]:
    config = prepared.network.config
    slices = torch.zeros(2, config.slices, 64, 96)
    return (slices, torch.tensor([0.5, -1.0])) if config.film else (slices,)


def _write_onnx(prepared: InferenceNetwork, path: Path, precision: Precision) -> None:
    import onnx

    arguments = _example(prepared)
    sizes = {0: "batch", 2: "height", 3: "width"}
    # Batch norms are folded into convolutions, but not before weights are rounded to float16:
    # weights that were trained or stored as such then lose nothing.
    mode = torch.onnx.TrainingMode
    torch.onnx.export(
        prepared,
        arguments,
        str(path),
        input_names=["slices", "slice_position"][: len(arguments)],
        output_names=["logits"],
        dynamic_axes={"slices": sizes, "logits": sizes, "slice_position": {0: "batch"}},
        opset_version=OPSET,
        training=mode.EVAL if precision == "fp32" else mode.PRESERVE,
        dynamo=False,
    )
    model = onnx.load(str(path))
    fold_padding(model)
    if precision == "fp16":
        _halve_initializers(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))


def _halve_initializers(model: object) -> None:
    """Store large weights as float16, each followed by a Cast that runtimes fold at load."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph  # type: ignore[attr-defined]
    casts = []
    for tensor in graph.initializer:
        large = len(tensor.dims) >= 2 and int(np.prod(tensor.dims)) >= HALF_FROM_VALUES
        if tensor.data_type != TensorProto.FLOAT or not large:
            continue
        name, stored = tensor.name, f"{tensor.name}.fp16"
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, stored))
        casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


class _ToFloat(nn.Module):  # type: ignore[misc,unused-ignore]
    def forward(self, stored: Tensor) -> Tensor:
        return stored.float()


def _stored(prepared: InferenceNetwork, precision: Precision) -> InferenceNetwork:
    """A copy whose large weights are float16, cast to float32 where they are used."""
    stored = copy.deepcopy(prepared)
    for module in list(stored.modules()) if precision == "fp16" else ():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.ndim >= 2 and weight.numel() >= HALF_FROM_VALUES:
                weight.data = weight.data.half()
                parametrize.register_parametrization(module, name, _ToFloat(), unsafe=True)
    stored.eval().requires_grad_(False)
    return stored


def _write_torchscript(prepared: InferenceNetwork, path: Path, precision: Precision) -> None:
    arguments = _example(prepared)
    with torch.no_grad():
        traced = torch.jit.trace(_stored(prepared, precision), arguments, check_trace=False)
    traced.save(str(path))


def _write_pt2(prepared: InferenceNetwork, path: Path, precision: Precision, multiple: int) -> None:
    arguments = _example(prepared)
    batch = torch.export.Dim("batch")
    height, width = (_dimension(name, multiple) for name in ("height", "width"))
    shapes: tuple[dict[int, object], ...] = ({0: batch, 2: height, 3: width}, {0: batch})
    program = torch.export.export(
        _stored(prepared, precision), arguments, dynamic_shapes=shapes[: len(arguments)]
    )
    torch.export.save(program, str(path))


def _dimension(name: str, multiple: int) -> object:
    """Rows or columns; where they are always multiples, so are the sizes that follow from them."""
    if multiple == 1:
        return torch.export.Dim(name, min=_LEAST_SIDE)
    return multiple * torch.export.Dim(f"{name}_parts", min=-(-_LEAST_SIDE // multiple))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress and deprecation talk from the user."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
