"""Inference engines: ONNX Runtime, TorchScript and torch.export, picked best first.

An engine takes slices (N, S, H, W) float32 and, where the network wants it, slice positions (N,)
float32, and returns logits (N, channels, H, W) float32 in host memory.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import re
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from segmate_cli import gpu, memory
from segmate_cli.bundle import Bundle, Engine, Manifest, NetworkFile
from segmate_cli.errors import EngineMissingError, ModelError, UsageError, one_line
from segmate_cli.runners import (
    OnnxRunner,
    Runner,
    TorchRunner,
    onnx_errors,
    unoptimised,
)

EngineChoice = Literal["auto", "onnx", "torchscript", "pt2"]

# Best first.
_PACKAGES: dict[Engine, str] = {"onnx": "onnxruntime", "torchscript": "torch", "pt2": "torch"}
_REMEDY = {
    "onnxruntime": "pip install 'segmate-cli[cpu]' (or [gpu])",
    "torch": "pip install 'segmate-cli[torch]'",
}
# More calls at once than this are not worth their memory; further threads work within a slice.
_MOST_WORKERS = 8
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A bundle with its network loaded.

    Attributes:
        bundle: Manifest and files.
        network_file: The file that was loaded.
        engine: Name of the engine.
        device: ``cpu`` or ``cuda:N``.
        threads: Threads of the engine on the CPU.
        workers: How many calls of the runner may go on at once, to good use.
        load_s: Seconds that loading took.
        runner: The loaded network.
    """

    bundle: Bundle
    network_file: NetworkFile
    engine: Engine
    device: str
    threads: int
    workers: int
    load_s: float
    runner: Runner

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    def loaded(self) -> LoadedModel:
        """Itself; see ``LoadingModel``."""
        return self


@dataclass(frozen=True, slots=True)
class LoadingModel:
    """A model whose network is being loaded by a thread."""

    bundle: Bundle
    future: Future[LoadedModel]

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    def loaded(self) -> LoadedModel:
        """Wait for the network; raises what ``load_model`` does."""
        return self.future.result()


def load_model(
    bundle: Bundle,
    *,
    engine: EngineChoice = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> LoadedModel:
    """Load a bundle's network in the best engine that is in reach.

    Args:
        bundle: From ``open_bundle``.
        engine: ``auto`` takes CUDA before the CPU and ONNX before the torch forms.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. CUDA is never silently replaced.
        threads: CPU threads; by default as many as this process may use.

    Raises:
        EngineMissingError: The engine or device is not installed or cannot be reached.
        ModelError: The file is damaged, or its inputs and outputs do not fit the manifest.
    """
    return start_loading(bundle, engine=engine, device=device, threads=threads).loaded()


def start_loading(
    bundle: Bundle,
    *,
    engine: EngineChoice = "auto",
    device: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    gpu_memory_cap_bytes: int | None = None,
) -> LoadingModel:
    """Check what can be checked at once, then load in a thread; the rest as ``load_model``.

    With ``batch_size``, the slices that will be in the network at once, threads beyond them work
    within a slice. ``gpu_memory_cap_bytes`` is what the engine may take of a GPU's memory.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads: there must be at least 1.")
    network_file, where = _choose(bundle, engine, device)
    job = _Job(
        bundle=bundle,
        network_file=network_file,
        data=bundle.read_network(network_file),
        device=where,
        else_cpu=device == "auto" and where != "cpu",
        threads=threads or usable_cpus(),
        batch_size=batch_size,
        gpu_memory_cap_bytes=gpu_memory_cap_bytes,
    )
    pool = ThreadPoolExecutor(1, "segmate-load")
    try:
        return LoadingModel(bundle, pool.submit(_load, job))
    finally:
        pool.shutdown(wait=False)


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be loaded, and where; ``else_cpu`` says that the CPU will do, too."""

    bundle: Bundle
    network_file: NetworkFile
    data: bytes
    device: str
    else_cpu: bool
    threads: int
    batch_size: int | None
    gpu_memory_cap_bytes: int | None

    @property
    def engine(self) -> Engine:
        return self.network_file.engine

    @property
    def workers(self) -> int:
        return workers_for(self.engine, self.device, self.threads, self.batch_size)


def workers_for(engine: Engine, device: str, threads: int, batch_size: int | None = None) -> int:
    """How many calls share out the threads, none of them needing more than one slice.

    Two slices in two threads are faster than one after the other in both, and no thread spins
    while it waits for another: 0.58 of the time in all beside other programs.
    """
    if engine != "onnx" or device != "cpu":
        return 1  # PyTorch and CUDA share out one batch by themselves
    most = min(batch_size or _MOST_WORKERS, _MOST_WORKERS)
    threads_a_call = -(-threads // most)
    return threads // threads_a_call


def _load(job: _Job) -> LoadedModel:
    start = time.perf_counter()
    build = _load_onnx if job.engine == "onnx" else _load_torch
    try:
        runner = build(job)
    except EngineMissingError:
        if not job.else_cpu:
            raise
        # An engine built for CUDA offers it on machines without a driver, too.
        job = replace(job, device="cpu")
        runner = build(job)
    memory.give_back_free_pages()
    model = LoadedModel(
        bundle=job.bundle,
        network_file=job.network_file,
        engine=job.engine,
        device=job.device,
        threads=job.threads,
        workers=job.workers,
        load_s=time.perf_counter() - start,
        runner=runner,
    )
    _try_out(model)
    return model


def usable_cpus() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def engines_installed() -> dict[Engine, bool]:
    """Which engines have their package, without importing it."""
    return {name: _has(package) for name, package in _PACKAGES.items()}


def cuda_reachable(engine: Engine) -> bool:
    """Whether an installed engine can use a CUDA device here."""
    if not _has(_PACKAGES[engine]):
        return False
    if engine == "onnx":
        return "CUDAExecutionProvider" in _import("onnxruntime").get_available_providers()
    return bool(_import("torch").cuda.is_available())


def _has(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    # A folder that happens to have the package's name is found too, but has no origin.
    return spec is not None and spec.origin is not None


def _import(package: str) -> Any:
    """Import an engine's package, which may be installed and yet broken."""
    try:
        return importlib.import_module(package)
    except (ImportError, OSError) as error:
        raise EngineMissingError(
            f"{package} is installed but cannot be imported ({one_line(error)}); "
            f"install it again: {_REMEDY[package]}."
        ) from error


def _choose(bundle: Bundle, engine: EngineChoice, device: str) -> tuple[NetworkFile, str]:
    """The network file and the device, ``cpu`` or ``cuda:N``."""
    if re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", device) is None:
        raise UsageError(f"unknown device '{device}'; use auto, cpu, cuda or cuda:N.")
    reach = _within_reach(bundle, engine)
    if device != "cpu":
        with_cuda = [each for each in reach if cuda_reachable(each.engine)]
        if with_cuda:
            return with_cuda[0], f"cuda:{int(device.partition(':')[2] or 0)}"
    if device.startswith("cuda"):
        raise EngineMissingError(
            f"--device {device}: no CUDA device is reachable with "
            f"{', '.join(each.engine for each in reach)}; install 'segmate-cli[gpu]' in place of "
            "[cpu] on a machine with an NVIDIA driver, or choose --device cpu."
        )
    return reach[0], "cpu"


def _within_reach(bundle: Bundle, engine: EngineChoice) -> list[NetworkFile]:
    """The bundle's files of the engine asked for whose package is installed, best first."""
    if engine != "auto" and engine not in _PACKAGES:
        raise UsageError(f"unknown engine '{engine}'; use auto, {', '.join(_PACKAGES)}.")
    files = [bundle.network_file(name) for name in _PACKAGES if engine in ("auto", name)]
    there = [each for each in files if each is not None]
    if not there:
        have = ", ".join(each.engine for each in bundle.manifest.network.files)
        raise EngineMissingError(
            f"{bundle.location}: the bundle has no network for {engine}, only for {have}; "
            "choose that engine, or convert the checkpoint again."
        )
    reach = [each for each in there if _has(_PACKAGES[each.engine])]
    if not reach:
        names = " or ".join(each.engine for each in there)
        how = " or ".join(dict.fromkeys(_REMEDY[_PACKAGES[each.engine]] for each in there))
        raise EngineMissingError(f"no engine for {names} networks is installed; {how}.")
    return reach


def _load_onnx(job: _Job) -> Runner:
    onnxruntime = _import("onnxruntime")
    where = job.bundle.location
    if _has_external_data(job.data):
        raise ModelError(f"{where}: the ONNX file keeps weights outside itself; refused.")
    no_cuda = (
        f"--device {job.device}: ONNX Runtime could not start CUDA there (no such device, or "
        "driver, CUDA or cuDNN missing); run 'segmate doctor', or choose --device cpu."
    )
    if job.device != "cpu":
        gpu.preload_cuda(onnxruntime)
    try:
        with _without_warnings(job.device):  # of a missing provider: asked for below
            # Its own fallback to the CPU would be silent but for words on stdout.
            session = onnxruntime.InferenceSession(
                job.data,
                _onnx_options(onnxruntime, job),
                providers=gpu.onnx_providers(job.device, job.gpu_memory_cap_bytes),
                enable_fallback=0,
            )
    except onnx_errors() as error:
        if job.device != "cpu" and "CUDA" in str(error):
            raise EngineMissingError(no_cuda) from error
        raise ModelError(
            f"{where}: ONNX Runtime cannot load the network ({one_line(error)})."
        ) from error
    if job.device != "cpu" and "CUDAExecutionProvider" not in session.get_providers():
        raise EngineMissingError(no_cuda)
    _check_onnx_inputs(job.bundle, session)
    version = onnxruntime.__version__
    return OnnxRunner(session, f"ONNX Runtime {version} on {job.device}, {job.threads} threads")


def _onnx_options(onnxruntime: Any, job: _Job) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads // job.workers
    options.inter_op_num_threads = 1
    # A plan of each shape's buffers costs as much memory again as the buffers, and saves no time:
    # 281 MB with it and 188 MB without at 4 slices of 224 x 224 (measured with the bundled model).
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # its warnings are about its own optimiser
    # Without this ONNX Runtime looks for external weights in the current folder.
    options.add_session_config_entry(_EXTERNAL_FOLDER, os.devnull)
    if job.workers > 1:  # a thread that waits in a loop takes the core of another worker
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


@contextmanager
def _without_warnings(device: str) -> Iterator[None]:
    """Python's filter of warnings is one for all threads: left alone where nothing is expected."""
    if device == "cpu":
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _has_external_data(data: bytes) -> bool:
    # The key (field 1 of a StringStringEntry) under which TensorProto.external_data names a file;
    # its value may stand before or after it.
    return b"\x0a\x08location" in data


def _check_onnx_inputs(bundle: Bundle, session: Any) -> None:
    want = {"slices", "slice_position"} if _wants_position(bundle.manifest) else {"slices"}
    have = {each.name for each in session.get_inputs()}
    outputs = [each.name for each in session.get_outputs()]
    if have != want or "logits" not in outputs:
        raise ModelError(
            f"{bundle.location}: the network takes {sorted(have)} and gives {outputs}; the "
            f"manifest needs {sorted(want)} and ['logits']."
        )


def _load_torch(job: _Job) -> Runner:
    torch = _import("torch")
    if job.device != "cpu" and int(job.device.partition(":")[2]) >= torch.cuda.device_count():
        raise EngineMissingError(
            f"--device {job.device}: torch sees {torch.cuda.device_count()} CUDA devices, counted "
            "from 0; choose one of them, or --device cpu."
        )
    torch.set_num_threads(job.threads)
    gpu.prepare_torch(torch, job.device, job.gpu_memory_cap_bytes)
    data = io.BytesIO(job.data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated but still what users have
            if job.engine == "torchscript":
                call = unoptimised(torch, torch.jit.load(data, map_location=job.device).eval())
            else:
                call = torch.export.load(data).module().to(job.device)
    except (RuntimeError, ValueError, OSError, KeyError, EOFError) as error:
        raise ModelError(
            f"{job.bundle.location}: torch cannot load the network ({one_line(error)})."
        ) from error
    where = f"{job.device}, {job.threads} threads"
    return TorchRunner(
        call, torch, job.device, f"{job.engine}, torch {torch.__version__} on {where}"
    )


def _wants_position(manifest: Manifest) -> bool:
    return manifest.network.takes_slice_position


def _try_out(model: LoadedModel) -> None:
    """Run a small batch, so that a network that does not fit fails before a scan is read.

    Two slices that are no squares: a network exported for one size or batch must not pass. None of
    less than 64 pixels, which is what a torch.export file needs.
    """
    manifest = model.manifest
    multiple = manifest.preprocessing.padding.multiple
    rows = -(-64 // multiple) * multiple
    shape = (2, len(manifest.preprocessing.neighbours_mm), rows, rows + multiple)
    slices = np.full(shape, manifest.preprocessing.padding.value, np.float32)
    positions = np.full(2, -1.0, np.float32) if _wants_position(manifest) else None
    try:
        logits = model.runner.run(slices, positions)
    except ModelError as error:
        raise ModelError(
            f"{model.bundle.location}: the network does not take what its manifest says: {error}"
        ) from error
    want = (2, manifest.network.channels, *shape[2:])
    if logits.shape != want:
        raise ModelError(
            f"{model.bundle.location}: the network gives {logits.shape} where its manifest says "
            f"{want}."
        )
