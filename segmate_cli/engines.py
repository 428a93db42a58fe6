"""Inference engines: ONNX Runtime, TorchScript and torch.export, picked best first.

An engine takes slices (N, S, H, W) float32 and, where the network wants it, slice positions (N,)
float32, and returns logits (N, channels, H, W) float32 in host memory.
"""

from __future__ import annotations

import io
import re
import time
import warnings
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from segmate_cli import gpu, memory, sessions
from segmate_cli.errors import EngineMissingError, ModelError, UsageError, one_line
from segmate_cli.flow import begin
from segmate_cli.runners import OnnxRunner, Runner, TorchRunner, unoptimised
from segmate_cli.sessions import (
    REMEDY,
    Begun,
    SessionRequest,
    has_package,
    import_engine,
    usable_cpus,
    workers_for,
)

if TYPE_CHECKING:
    from segmate_cli.bundle import Bundle, Engine, Manifest, NetworkFile

EngineChoice = Literal["auto", "onnx", "torchscript", "pt2"]

# Best first.
_PACKAGES: dict[Engine, str] = {"onnx": "onnxruntime", "torchscript": "torch", "pt2": "torch"}


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
    begun: Begun | None = None,
) -> LoadingModel:
    """Check what can be checked at once, then load in a thread; the rest as ``load_model``.

    With ``batch_size``, the slices that will be in the network at once, threads beyond them work
    within a slice. ``gpu_memory_cap_bytes`` is what the engine may take of a GPU's memory.
    ``begun`` is a session that has been begun before, and is taken if it is the one.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads: there must be at least 1.")
    network_file, where = _choose(bundle, engine, device)
    job = _Job(
        bundle=bundle,
        network_file=network_file,
        data=b"",
        device=where,
        else_cpu=device == "auto" and where != "cpu",
        threads=threads or usable_cpus(),
        batch_size=batch_size,
        gpu_memory_cap_bytes=gpu_memory_cap_bytes,
    )
    if begun is not None and job.engine == "onnx" and begun.request == job.request:
        begun.read.result()
        job = replace(job, begun=begun)
    else:
        job = replace(job, data=bundle.read_network(network_file))
    return LoadingModel(bundle, begin(lambda: _load(job), "segmate-load"))


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be loaded, and where.

    Attributes:
        data: The network's bytes; none where its session was ``begun``.
        else_cpu: Whether the CPU will do, too.
    """

    bundle: Bundle
    network_file: NetworkFile
    data: bytes
    device: str
    else_cpu: bool
    threads: int
    batch_size: int | None
    gpu_memory_cap_bytes: int | None
    begun: Begun | None = None

    @property
    def request(self) -> SessionRequest:
        return SessionRequest(
            self.bundle.location,
            self.network_file.sha256,
            self.device,
            self.threads // self.workers,
            self.workers,
            None if self.device == "cpu" else self.gpu_memory_cap_bytes,
        )

    @property
    def engine(self) -> Engine:
        return self.network_file.engine

    @property
    def workers(self) -> int:
        return workers_for(self.engine, self.device, self.threads, self.batch_size)


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


def engines_installed() -> dict[Engine, bool]:
    """Which engines have their package, without importing it."""
    return {name: has_package(package) for name, package in _PACKAGES.items()}


def cuda_reachable(engine: Engine) -> bool:
    """Whether an installed engine can use a CUDA device here."""
    if not has_package(_PACKAGES[engine]):
        return False
    if engine == "onnx":
        return sessions.cuda_in_onnxruntime()
    return bool(import_engine("torch").cuda.is_available())


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
    reach = [each for each in there if has_package(_PACKAGES[each.engine])]
    if not reach:
        names = " or ".join(each.engine for each in there)
        how = " or ".join(dict.fromkeys(REMEDY[_PACKAGES[each.engine]] for each in there))
        raise EngineMissingError(f"no engine for {names} networks is installed; {how}.")
    return reach


def _load_onnx(job: _Job) -> Runner:
    if job.begun:
        session = job.begun.future.result()
    else:
        session = sessions.open_session(job.request, job.data)
    _check_onnx_inputs(job.bundle, session)
    version = import_engine("onnxruntime").__version__
    return OnnxRunner(session, f"ONNX Runtime {version} on {job.device}, {job.threads} threads")


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
    torch = import_engine("torch")
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
