"""Networks that are loaded and ready, each behind its engine's own calls and errors."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from segmate_cli.errors import MemoryCapError, ModelError, one_line

FloatArray = npt.NDArray[np.float32]


class Runner(Protocol):
    """A network that is loaded and ready."""

    @property
    def description(self) -> str:
        """Engine, device and threads, for people."""

    def run(self, slices: FloatArray, positions: FloatArray | None) -> FloatArray:
        """Logits of a batch. Raises MemoryCapError when memory runs out."""


class OnnxRunner:
    """A session of ONNX Runtime."""

    def __init__(self, session: Any, description: str) -> None:
        self._session = session
        self.description = description

    def run(self, slices: FloatArray, positions: FloatArray | None) -> FloatArray:
        """See ``Runner``."""
        feed = {"slices": slices}
        if positions is not None:
            feed["slice_position"] = positions
        try:
            (logits,) = self._session.run(["logits"], feed)
            return np.asarray(logits, dtype=np.float32)
        except onnx_errors() as error:
            raise run_error(error) from error


def onnx_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: Python's errors, and its own, which share no base but Exception."""
    module = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    found = (value for value in vars(module).values() if isinstance(value, type))
    own = (kind for kind in found if issubclass(kind, Exception))
    return (RuntimeError, ValueError, TypeError, *own)


class TorchRunner:
    """A module of PyTorch on a device."""

    def __init__(self, call: Callable[..., Any], torch: Any, device: str, description: str) -> None:
        self._call = call
        self._torch = torch
        self._device = device
        self.description = description

    def run(self, slices: FloatArray, positions: FloatArray | None) -> FloatArray:
        """See ``Runner``."""
        torch = self._torch
        inputs = [slices] if positions is None else [slices, positions]
        tensors = [torch.from_numpy(np.ascontiguousarray(each)) for each in inputs]
        try:
            with torch.inference_mode():
                logits = self._call(*(tensor.to(self._device) for tensor in tensors)).float()
                # Page-locked memory takes what a GPU sends several times as fast.
                host = logits
                if self._device != "cpu":
                    host = torch.empty(logits.shape, dtype=torch.float32, pin_memory=True)
                    host.copy_(logits)
        # An AssertionError is a torch.export file's word for a size that it was not made for.
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise run_error(error) from error
        return np.asarray(host.numpy(), dtype=np.float32)


def unoptimised(torch: Any, module: Any) -> Callable[..., Any]:
    """A TorchScript module without PyTorch's own compiler.

    That watches the first runs of each shape and then compiles kernels for it, which takes longer
    than a scan does.
    """

    def call(*inputs: Any) -> Any:
        with torch.jit.optimized_execution(False):
            return module(*inputs)

    return call


def run_error(error: Exception) -> MemoryCapError | ModelError:
    """What an engine's own error is here."""
    text = one_line(error)
    if any(sign in text.lower() for sign in ("alloc", "out of memory", "bad_alloc")):
        return MemoryCapError(
            f"the engine ran out of memory ({text}); give a smaller --batch-size or --memory-cap."
        )
    return ModelError(f"the engine failed ({text}).")
