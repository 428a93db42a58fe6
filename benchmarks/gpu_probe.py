"""One engine on a GPU in a process of its own, for ``benchmarks.gpu``; a line of JSON a row.

python -m benchmarks.gpu_probe sweep BUNDLE ENGINE DEVICE SIDE BATCHES [tf32]
python -m benchmarks.gpu_probe predict CALLS-AT-ONCE OPTIONS-OF-SEGMATE-PREDICT...
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.gpu_meter import Meter

# Before the first of them: the engine chooses its algorithms, and sets up what it keeps.
_WARM_RUNS = 3
_MEASURED_S = 0.25


def main() -> None:
    kind, *rest = sys.argv[1:]
    with Meter() as meter:
        for name, row in sweep(meter, *rest) if kind == "sweep" else predict(meter, *rest):
            beside = {"context_mb": meter.context_bytes / 1e6, "peak_gpu_mb": meter.peak_mb}
            print(json.dumps({"row": name, **row, **beside, **_torch()}), flush=True)


def predict(meter: Meter, calls: str, *options: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """``segmate predict`` in this process, its batch in so many calls of the engine at once."""
    from segmate_cli import cli, engines, memory

    if calls != "1":
        engines.workers_for = lambda *_: int(calls)
    start = time.perf_counter()
    code = cli.main(["predict", *options, "--quiet", "--no-gate-exit"])
    wall_s = time.perf_counter() - start
    yield "run", {"code": code, "wall_s": wall_s, "peak_rss_mb": memory.peak_bytes() / 1e6}


def sweep(
    meter: Meter, folder: str, engine: str, device: str, side: str, batches: str, *how: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Slices a second, batch by batch, the smallest first: so each row's peak is its own."""
    from segmate_cli import gpu
    from segmate_cli.bundle import open_bundle
    from segmate_cli.engines import load_model

    if "tf32" in how:
        _allow_tf32(gpu)
    start = time.perf_counter()
    model = load_model(open_bundle(folder), engine=engine, device=device)  # type: ignore[arg-type]
    yield "loaded", {"load_s": time.perf_counter() - start, "runner": model.runner.description}
    channels = len(model.manifest.preprocessing.neighbours_mm)
    rng = np.random.default_rng(0)
    for batch in map(int, batches.split(",")):
        stack = rng.uniform(-1, 1, (batch, channels, int(side), int(side))).astype(np.float32)

        def whole(stack: Any = stack) -> None:
            model.runner.run(stack, None)

        inner = _inside(model.runner, stack)
        whole_s, inner_s = _seconds(whole), _seconds(inner) if inner else None
        yield (
            f"batch {batch}",
            {
                "slices_per_s": batch / whole_s,
                "left_on_gpu_slices_per_s": batch / inner_s if inner_s else None,
            },
        )


def _seconds(call: Callable[[], None]) -> float:
    """Of one call, once it is warm."""
    for _ in range(_WARM_RUNS):
        call()
    start, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < _MEASURED_S:
        call()
        count += 1
    return spent / count


def _inside(runner: Any, stack: Any) -> Callable[[], None] | None:
    """The same batch with all that comes back left on the GPU: what no copy could be faster than.

    By way of the runners' own parts, which is why None is an answer, too.
    """
    device = getattr(runner, "_device", None)
    if device and device != "cpu":
        import torch

        def call() -> None:
            with torch.inference_mode():
                runner._call(torch.from_numpy(stack).to(device))
            torch.cuda.synchronize()

        return call
    session = getattr(runner, "_session", None)
    if session is None or "CUDAExecutionProvider" not in session.get_providers():
        return None
    binding = session.io_binding()

    def bound() -> None:
        binding.bind_cpu_input("slices", stack)
        binding.bind_output("logits", "cuda")
        session.run_with_iobinding(binding)

    return bound


def _torch() -> dict[str, float]:
    """What PyTorch's allocator says, where PyTorch ran on a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {
        "torch_reserved_mb": torch.cuda.max_memory_reserved() / 1e6,
        "torch_allocated_mb": torch.cuda.max_memory_allocated() / 1e6,
    }


def _allow_tf32(gpu: Any) -> None:
    providers, prepare = gpu.onnx_providers, gpu.prepare_torch

    def onnx_providers(*given: Any) -> Any:
        found = providers(*given)
        for each in found:
            if not isinstance(each, str):
                each[1]["use_tf32"] = "1"
        return found

    def prepare_torch(torch: Any, *given: Any) -> None:
        prepare(torch, *given)
        torch.backends.cudnn.allow_tf32 = True

    gpu.onnx_providers, gpu.prepare_torch = onnx_providers, prepare_torch


if __name__ == "__main__":
    main()
