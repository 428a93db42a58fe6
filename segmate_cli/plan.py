"""What a run will need before it is started: stages, buffers, batch and the expected peak.

``predict`` and ``segmate plan`` make the same plan, from a scan's header and the model alone. The
constants are measured; docs/memory.md sets plan against measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from segmate_cli import gpu, memory
from segmate_cli.bundle import Bundle, Engine, Manifest, Preprocessing
from segmate_cli.doubt.survey import small_geometry
from segmate_cli.engines import LoadedModel
from segmate_cli.errors import MemoryCapError, UsageError
from segmate_cli.memory import Cap
from segmate_cli.resample import ModelGrid
from segmate_cli.sessions import usable_cpus, workers_for
from segmate_cli.spool import SLAB_BYTES
from segmate_cli.volume import Scan

# Slices read and resampled that may wait for the network.
SLICES_AHEAD = 16
# On the CPU a slice for each worker, or this where the engine shares out a batch by itself.
_CPU_BATCH = 2
_GPU_BATCH = 16
# The engine packs its buffers now better, now worse (204 to 373 bytes a pixel over 15 sizes and
# numbers of workers, where the manifest says 310); a cap must hold for the worst.
_ENGINE_MARGIN = 0.2
# The peaks of more than two slices in the network seldom meet, and of a short scan those of two
# do not always: a share at first, all after so many slices. But they may.
_FURTHER = 0.55
_MET_AT_FIRST, _SURELY_MET = 0.5, 60
_RUNTIME_BYTES: dict[Engine, int] = {
    "onnx": memory.ONNX_RUNTIME_BYTES,
    "torchscript": 330 * 10**6,
    "pt2": 500 * 10**6,
}
# What is imported, and allocated to read the scan, while the network loads.
_READER_BYTES = 5 * 10**6
# A loaded network keeps its weights packed for the processor, and some of them as given, too.
_BYTES_A_PARAMETER = 5
# The first run of an engine sets up its threads and scratch space.
_ENGINE_BYTES = 2 * 10**6
# Compression buffers, tables and what the allocator keeps.
_SLACK_BYTES = 4 * 10**6
# HU and labels of every n-th voxel, and places of labelled ones while the gates look at them.
_GATES_BYTES_A_VOXEL = 6
# Planes of labels that are numbered at once while components are found.
_PARTS_BYTES_A_PIXEL = 80
# A slab of slices stored across the model's, turned, and what the allocator keeps of them.
_SLABS = 3
# Lines of all of the model's slices, from which such slices are made: to be judged and written.
_LINE_BYTES = 2 * 3 * 16
# Beside those just made, the scores of two slices wait to be mixed, two more to be looked at
# beside their neighbours, and one result more.
_SCORED_SLICES = 5
# Planes of the scan: as stored, two as int16 to be mixed, and float32 while resampling.
_PLANE_BYTES_A_PIXEL = 14


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory that one thing takes.

    Attributes:
        name: What it is, for people.
        size_bytes: How much.
        spare_bytes: How much more at worst, which a cap must hold, too.
    """

    name: str
    size_bytes: int
    spare_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the run, with the buffers that are held in it."""

    name: str
    buffers: tuple[Buffer, ...]

    @property
    def size_bytes(self) -> int:
        """What the process holds in this stage."""
        return sum(buffer.size_bytes for buffer in self.buffers)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a scan will be segmented, and in how much memory.

    Attributes:
        cap: What the process may use.
        scan_shape: The scan's slices, rows and columns as stored.
        grid_shape: Slices, rows and columns on the model's grid.
        batch_size: Slices a batch.
        threads: CPU threads of the engine.
        device: ``cpu`` or ``cuda:N``; GPU memory is not counted here.
        stages: In their order.
        temporary_file_bytes: Size of the temporary file (0: none is needed).
        least_cap_bytes: The smallest cap under which the scan can be segmented.
    """

    cap: Cap
    scan_shape: tuple[int, int, int]
    grid_shape: tuple[int, int, int]
    batch_size: int
    threads: int
    device: str
    stages: tuple[Stage, ...]
    temporary_file_bytes: int
    least_cap_bytes: int

    @property
    def expected_peak_bytes(self) -> int:
        """The most that the process will hold at once."""
        return max(stage.size_bytes for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON: the sidecar's ``plan``, and what ``segmate plan`` prints."""
        return {
            "memory_cap_bytes": self.cap.size_bytes,
            "memory_cap_origin": self.cap.origin,
            "expected_peak_bytes": self.expected_peak_bytes,
            "least_cap_bytes": self.least_cap_bytes,
            "temporary_file_bytes": self.temporary_file_bytes,
            "scan_shape_kji": list(self.scan_shape),
            "model_grid_shape": list(self.grid_shape),
            "batch_size": self.batch_size,
            "threads": self.threads,
            "device": self.device,
            "stages": [{**asdict(each), "size_bytes": each.size_bytes} for each in self.stages],
        }


def make_plan(
    scan: Scan,
    model: LoadedModel | Bundle,
    cap: Cap,
    *,
    batch_size: int | None = None,
    threads: int | None = None,
    held_bytes: int | None = None,
    gpu_cap_bytes: int | None = None,
    variants: bool = False,
) -> Plan:
    """Plan a run from a scan's header; no voxel is read.

    Args:
        scan: From ``find_scan``.
        model: A loaded model, in the process that will run it, whose memory is then measured; or
            a bundle, for which it is estimated.
        cap: From ``memory.resolve_cap``.
        batch_size: Slices a batch; None chooses the largest useful one that fits.
        threads: Of the engine; None takes the loaded model's, or all.
        held_bytes: What the process holds, with the model and without the scan's slices; None
            measures it where the model is loaded, and estimates it for a bundle.
        gpu_cap_bytes: What the engine may take of a GPU's memory, where the model is on one.
        variants: Whether the scan is shown in other ways, too (``--uncertainty``).

    Raises:
        MemoryCapError: It does not fit under the cap; the message names the least cap that does.
        UsageError: The batch size is not positive.
    """
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size {batch_size} must be at least 1.")
    grid = ModelGrid.fit(scan.geometry, model.manifest.preprocessing)
    device = model.device if isinstance(model, LoadedModel) else "cpu"
    best = min(batch_size or _best_batch(model, threads), grid.shape[0])
    if device != "cpu" and gpu_cap_bytes is not None:
        slice_bytes = _slice_bytes(model.manifest, grid)
        parameters = model.manifest.network.parameters or 0
        best = gpu.batch_that_fits(best, slice_bytes, parameters, gpu_cap_bytes)
    smallest = best if batch_size else 1
    held = _held_bytes(model) if held_bytes is None else held_bytes
    sizes = range(best, smallest - 1, -1)
    plans = {size: _stages(scan, model, grid, size, held, variants) for size in sizes}
    needs = {size: _cap_for(stages) for size, stages in plans.items()}
    chosen = _largest_that_fits(needs, cap)
    return Plan(
        cap=cap,
        scan_shape=scan.geometry.shape,
        grid_shape=grid.shape,
        batch_size=chosen,
        threads=threads or (model.threads if isinstance(model, LoadedModel) else usable_cpus()),
        device=device,
        stages=plans[chosen],
        temporary_file_bytes=0 if grid.streams else 2 * math.prod(grid.source_shape),
        least_cap_bytes=needs[smallest],
    )


def _largest_that_fits(needs: Mapping[int, int], cap: Cap) -> int:
    """The first batch size, the largest being first, whose least cap is no more than the cap."""
    for size, need_bytes in needs.items():
        if cap.size_bytes is None or need_bytes <= cap.size_bytes:
            return size
    smallest = min(needs)
    raise MemoryCapError(
        f"a memory cap of {memory.human(cap.size_bytes or 0)} ({cap.origin}) is too small for "
        f"this scan: at least {memory.human(needs[smallest])} is needed with a batch of "
        f"{smallest}."
    )


def fits_to_load(bundle: Bundle, cap: Cap) -> bool:
    """Whether a cap lets the network be loaded; to know before that is tried."""
    parameters = bundle.manifest.network.parameters or 0
    return memory.fits_to_load(parameters, cap, _RUNTIME_BYTES[_engine(bundle)])


def padded_shape(grid: ModelGrid, preprocessing: Preprocessing) -> tuple[int, int]:
    """Rows and columns that the network sees."""
    multiple = preprocessing.padding.multiple
    rows, columns = (-(-n // multiple) * multiple for n in grid.shape[1:])
    return rows, columns


def as_text(plan: Plan) -> str:
    """The plan for people."""
    slices, rows, columns = plan.scan_shape
    cap = "none" if plan.cap.size_bytes is None else memory.human(plan.cap.size_bytes)
    lines = {
        "scan": f"{columns} x {rows} x {slices}",
        "on the model's grid": " x ".join(map(str, plan.grid_shape[::-1])),
        "slices a batch": f"{plan.batch_size}",
        "engine": f"{plan.threads} threads on {plan.device}",
        "memory cap": f"{cap} ({plan.cap.origin})",
        "expected peak": memory.human(plan.expected_peak_bytes),
        "smallest cap": memory.human(plan.least_cap_bytes),
        "temporary file": memory.human(plan.temporary_file_bytes),
    }
    head = [f"{name + ':':<22} {value}" for name, value in lines.items()]
    rows_of = [f"{'stage':<12} {'buffer':<34} {'MB':>6}"]
    for stage in plan.stages:
        names = [stage.name, *[""] * len(stage.buffers)]
        held = [*stage.buffers, Buffer("together", stage.size_bytes)]
        rows_of += [
            f"{name:<12} {buffer.name:<34} {buffer.size_bytes / 1e6:>6.1f}"
            for name, buffer in zip(names, held, strict=True)
        ]
    return "\n".join([*head, "", *rows_of]) + "\n"


def _cap_for(stages: tuple[Stage, ...]) -> int:
    worst = (
        memory.MARGIN * stage.size_bytes + sum(buffer.spare_bytes for buffer in stage.buffers)
        for stage in stages
    )
    return math.ceil(max(worst))


def _loading(bundle: Bundle, *slices: Buffer) -> Stage:
    parameters = bundle.manifest.network.parameters or 0
    return Stage(
        "load model",
        (
            Buffer("Python and libraries", _RUNTIME_BYTES[_engine(bundle)]),
            Buffer("network while it loads", memory.LOADING_BYTES_A_PARAMETER * parameters),
            *slices,
        ),
    )


def _engine(bundle: Bundle) -> Engine:
    engines = [each.engine for each in bundle.manifest.network.files]
    return "onnx" if "onnx" in engines else engines[0]


def _held_bytes(model: LoadedModel | Bundle) -> int:
    """What the process holds before the scan is read: now, or as expected."""
    if isinstance(model, LoadedModel):
        return memory.resident_bytes()
    parameters = model.manifest.network.parameters or 0
    return _RUNTIME_BYTES[_engine(model)] + _READER_BYTES + _BYTES_A_PARAMETER * parameters


def _slice_bytes(manifest: Manifest, grid: ModelGrid) -> int:
    """What a slice takes in the network."""
    pixels = math.prod(padded_shape(grid, manifest.preprocessing))
    return pixels * manifest.network.bytes_per_pixel


def _best_batch(model: LoadedModel | Bundle, threads: int | None) -> int:
    if not isinstance(model, LoadedModel):
        return max(_CPU_BATCH, workers_for(_engine(model), "cpu", threads or usable_cpus()))
    return max(_CPU_BATCH, model.workers) if model.device == "cpu" else _GPU_BATCH


def slices_bytes(grid: ModelGrid, preprocessing: Preprocessing) -> int:
    """What is held while a scan is read: planes of the scan, and slices that wait."""
    plane = grid.source_shape[1] * grid.source_shape[2]
    return _PLANE_BYTES_A_PIXEL * plane + 4 * SLICES_AHEAD * math.prod(
        padded_shape(grid, preprocessing)
    )


def _stages(
    scan: Scan,
    model: LoadedModel | Bundle,
    grid: ModelGrid,
    batch_size: int,
    held_bytes: int,
    variants: bool,
) -> tuple[Stage, ...]:
    manifest = model.manifest
    rows, columns = padded_shape(grid, manifest.preprocessing)
    on_cpu = not isinstance(model, LoadedModel) or model.device == "cpu"
    a_slice = _slice_bytes(manifest, grid) if on_cpu else 0
    beside = min(1, batch_size - 1) + _FURTHER * max(0, batch_size - 2)
    met = min(1.0, _MET_AT_FIRST + (1 - _MET_AT_FIRST) * grid.shape[0] / _SURELY_MET)
    network = math.ceil(a_slice * (1 + met * beside))
    # Between the model's slices where the scan's lie closer and labels are interpolated.
    label_shape = [max(both) for both in zip(grid.shape, grid.at_scan_slices().shape, strict=True)]
    voxels = math.prod(label_shape)
    scored = batch_size + _SCORED_SLICES
    slices = Buffer("slices in use", slices_bytes(grid, manifest.preprocessing))
    small = math.prod(small_geometry(scan.geometry).shape)
    helpers = Buffer("processes that decode", scan.helper_bytes)
    # They start when the network is mostly there; but they may be earlier.
    early = Buffer("processes that decode", 0, scan.helper_bytes)
    held = (
        Buffer("Python, libraries and network", held_bytes),
        # Deflated; a plane of background takes next to nothing, one of noise more.
        Buffer("labels on the model's grid", (2 if variants else 1) * voxels // 20),
        # Kept by the engine for the next batch, and by the allocator, to the end.
        Buffer(
            f"batch of {batch_size} in the network",
            _ENGINE_BYTES + network,
            math.ceil((1 + _ENGINE_MARGIN) * a_slice * batch_size) - network,
        ),
        Buffer("scores", 4 * scored * manifest.network.channels * rows * columns),
        Buffer("allocator and tables", _SLACK_BYTES),
        slices,
        Buffer("small copy for the gates", _GATES_BYTES_A_VOXEL * small),
    )
    # Some planes are numbered at once, in 2 bytes a voxel, or 4 where that is not enough.
    pixels = max(rows * columns, math.prod(label_shape[1:]))
    parts = Buffer("components of organs", _PARTS_BYTES_A_PIXEL * pixels)
    turned = Buffer("slices to be turned", 0 if grid.streams else _SLABS * SLAB_BYTES)
    lines = 0 if grid.streams else _LINE_BYTES * label_shape[0] * label_shape[3 - grid.across]
    bundle = model.bundle if isinstance(model, LoadedModel) else model
    return (
        _loading(bundle, slices, early),
        Stage("segment", (*held, turned, helpers)),
        Stage("clean up", (*held, parts)),
        Stage("write", (*held, Buffer("lines of labels", lines))),
    )
