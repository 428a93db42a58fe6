"""Sessions of ONNX Runtime: how they are asked for, and the one that is begun before all else.

Imports no more than a session needs, so that loading, half of the time before the first slice, goes
on while the rest of a run is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmate_cli import bundle_files, gpu, memory
from segmate_cli.errors import EngineMissingError, ModelError, one_line
from segmate_cli.flow import begin
from segmate_cli.runners import onnx_errors

REMEDY = {
    "onnxruntime": "pip install 'segmate-cli[cpu]' (or [gpu])",
    "torch": "pip install 'segmate-cli[torch]'",
}
# More calls at once than this are not worth their memory; further threads work within a slice.
_MOST_WORKERS = 8
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
_CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What makes one session another.

    Attributes:
        location: The bundle, for messages.
        sha256: Of the network's file.
        device: ``cpu`` or ``cuda:N``.
        threads_a_call: Threads that work on one call.
        workers: How many calls go on at once.
        gpu_memory_cap_bytes: What the engine may take of a GPU's memory.
    """

    location: Path
    sha256: str
    device: str
    threads_a_call: int
    workers: int
    gpu_memory_cap_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """A session that a thread is opening.

    Attributes:
        request: What it will be.
        read: Done once the network's file is read and is the one that the manifest names.
        future: The session.
    """

    request: SessionRequest
    read: Future[None]
    future: Future[Any]


def open_session(request: SessionRequest, data: bytes) -> Any:
    """A session for a network's bytes.

    Raises:
        EngineMissingError: ONNX Runtime or the device cannot be had.
        ModelError: It is no network that may be loaded, or can.
    """
    onnxruntime = import_engine("onnxruntime")
    where, device = request.location, request.device
    if _has_external_data(data):
        raise ModelError(f"{where}: the ONNX file keeps weights outside itself; refused.")
    no_cuda = (
        f"--device {device}: ONNX Runtime could not start CUDA there (no such device, or "
        "driver, CUDA or cuDNN missing); run 'segmate doctor', or choose --device cpu."
    )
    if device != "cpu":
        gpu.preload_cuda(onnxruntime)
    try:
        with _without_warnings(device):  # of a missing provider: asked for below
            # Its own fallback to the CPU would be silent but for words on stdout.
            session = onnxruntime.InferenceSession(
                data,
                _options(onnxruntime, request),
                providers=gpu.onnx_providers(device, request.gpu_memory_cap_bytes),
                enable_fallback=0,
            )
    except onnx_errors() as error:
        if device != "cpu" and "CUDA" in str(error):
            raise EngineMissingError(no_cuda) from error
        raise ModelError(
            f"{where}: ONNX Runtime cannot load the network ({one_line(error)})."
        ) from error
    if device != "cpu" and _CUDA not in session.get_providers():
        raise EngineMissingError(no_cuda)
    session._model_bytes = None  # else it holds the file to the end, to start itself again from
    return session


def begin_early(
    model: str | Path,
    cap: memory.Cap,
    *,
    engine: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    **_: Any,
) -> Begun | None:
    """Begin the session that a model will surely get, if that is one on the CPU.

    The manifest is not checked yet, but for the network's sha256: ``start_loading`` takes the
    session if that is what the manifest asks for. None wherever more must be known first, or
    something is wrong that others say better; arguments as ``start_loading``.
    """
    wanted = engine in ("auto", "onnx") and device in ("auto", "cpu")
    if not wanted or not has_package("onnxruntime") or (threads is not None and threads < 1):
        return None
    try:
        location = bundle_files.locate(model, bundle_files.bundled_folders())
        network = bundle_files.onnx_network(location)
        if network is None or not memory.fits_to_load(network.parameters, cap):
            return None
        if device == "auto" and (not network.alone or cuda_in_onnxruntime()):
            return None
        import_engine("onnxruntime")
    except (ModelError, EngineMissingError):
        return None
    threads = threads or usable_cpus()
    workers = workers_for("onnx", "cpu", threads, batch_size)
    request = SessionRequest(location, network.sha256, "cpu", threads // workers, workers)

    read: Future[None] = Future()

    def open_it() -> Any:
        try:
            data = bundle_files.read_network(location, network.name, network.sha256)
        except ModelError as error:
            read.set_exception(error)
            raise
        read.set_result(None)
        return open_session(request, data)

    return Begun(request, read, begin(open_it, "segmate-load"))


def workers_for(engine: str, device: str, threads: int, batch_size: int | None = None) -> int:
    """How many calls share out the threads, none of them needing more than one slice.

    Two slices in two threads are faster than one after the other in both, and no thread spins
    while it waits for another: 0.58 of the time in all beside other programs.
    """
    if engine != "onnx" or device != "cpu":
        return 1  # PyTorch and CUDA share out one batch by themselves
    most = min(batch_size or _MOST_WORKERS, _MOST_WORKERS)
    threads_a_call = -(-threads // most)
    return threads // threads_a_call


def usable_cpus() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cuda_in_onnxruntime() -> bool:
    """Whether the installed ONNX Runtime was built for CUDA; EngineMissingError if it is broken."""
    return _CUDA in import_engine("onnxruntime").get_available_providers()


def has_package(package: str) -> bool:
    """Whether a package is installed, without importing it."""
    spec = importlib.util.find_spec(package)
    # A folder that happens to have the package's name is found too, but has no origin.
    return spec is not None and spec.origin is not None


def import_engine(package: str) -> Any:
    """Import an engine's package; EngineMissingError where it is installed and yet broken."""
    try:
        return importlib.import_module(package)
    except (ImportError, OSError) as error:
        raise EngineMissingError(
            f"{package} is installed but cannot be imported ({one_line(error)}); "
            f"install it again: {REMEDY[package]}."
        ) from error


def _options(onnxruntime: Any, request: SessionRequest) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request.threads_a_call
    options.inter_op_num_threads = 1
    # A plan of each shape's buffers costs as much memory again as the buffers, and saves no time:
    # 281 MB with it and 188 MB without at 4 slices of 224 x 224 (measured with the bundled model).
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # its warnings are about its own optimiser
    # Without this ONNX Runtime looks for external weights in the current folder.
    options.add_session_config_entry(_EXTERNAL_FOLDER, os.devnull)
    if request.workers > 1:  # a thread that waits in a loop takes the core of another worker
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
