"""An NVIDIA GPU's memory under a cap: what the engines are told, and how many slices fit.

The cap counts what the engine itself takes, weights and buffers; CUDA's own context (hundreds of
MB, the same for every program) comes on top and cannot be limited. Written without a GPU at hand:
tests show what the engines are asked for, no measurement what they then do.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

from segmate_cli import memory
from segmate_cli.errors import MemoryCapError

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_WEIGHT_BYTES = 4


def onnx_providers(device: str, cap_bytes: int | None = None) -> list[Any]:
    """ONNX Runtime's providers for a device, ``cpu`` or ``cuda:N``, with their options."""
    if device == "cpu":
        return [_CPU]
    options = {
        "device_id": device.partition(":")[2],
        # The search that is the default tries every algorithm with as much workspace as there is,
        # for each shape of slice anew.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Else the arena takes the next power of two.
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",  # see ``prepare_torch``
    }
    if cap_bytes is not None:
        options["gpu_mem_limit"] = str(cap_bytes)
        options["cudnn_conv_use_max_workspace"] = "0"
    return [(_CUDA, options)]


def preload_cuda(onnxruntime: Any) -> None:
    """Let ONNX Runtime find CUDA and cuDNN in NVIDIA's Python packages, where these hold them."""
    preload = getattr(onnxruntime, "preload_dlls", None)  # from 1.21 on
    if preload is None:
        return
    # What it does not find it prints, to where results go; the session then says what is missing.
    with contextlib.redirect_stdout(io.StringIO()):
        preload()


def prepare_torch(torch: Any, device: str, cap_bytes: int | None) -> None:
    """Let PyTorch compute in full float32, and its allocator refuse what goes over a cap.

    By default convolutions on a GPU round what they multiply to 10 bits (TF32), with which more
    voxels would get another label than on the CPU.
    """
    if device == "cpu":
        return
    torch.backends.cudnn.allow_tf32 = False
    if cap_bytes is None:
        return
    number = int(device.partition(":")[2])
    total = torch.cuda.get_device_properties(number).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap_bytes / total), number)


def batch_that_fits(wanted: int, slice_bytes: int, parameters: int, cap_bytes: int) -> int:
    """The most slices a batch, up to those wanted, that a cap leaves room for.

    Args:
        wanted: Slices a batch.
        slice_bytes: What each takes in the network.
        parameters: Of the network.
        cap_bytes: Of the GPU's memory.

    Raises:
        MemoryCapError: Not even one fits; the message names the least cap that would do.
    """
    weights = _WEIGHT_BYTES * parameters
    fits = (cap_bytes - weights) // slice_bytes
    if fits < 1:
        raise MemoryCapError(
            f"--gpu-memory-cap {memory.human(cap_bytes)} is too small for this scan: at least "
            f"{memory.human(weights + slice_bytes)} is needed for one slice in the network."
        )
    return min(wanted, fits)
