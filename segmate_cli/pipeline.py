"""The one pipeline: HU on the model's grid, triplets, batches, logits, labels, back to the scan.

In memory are the scan (int16), the labels (uint8) and one batch of logits; never a float copy of
the scan and never all logits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segmate_cli import memory, organs
from segmate_cli.bundle import DEFAULT_MODEL, Bundle, Manifest, Preprocessing, open_bundle
from segmate_cli.clean_up import clean_up
from segmate_cli.console import Progress, no_progress
from segmate_cli.engines import EngineChoice, FloatArray, LoadedModel, load_model
from segmate_cli.errors import MemoryCapError, ModelError, UsageError
from segmate_cli.hounsfield import check_hu
from segmate_cli.resample import ModelGrid
from segmate_cli.volume import Labels, Volume

Uint8Array = npt.NDArray[np.uint8]

# Larger batches gain nothing on a CPU (measured: benchmarks/) and cost memory.
_CPU_BATCH = 4
_GPU_BATCH = 16


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """Choices of one run.

    Attributes:
        organs: Only these in the output, by key or alias; None for all the model has.
        engine: ``auto``, ``onnx``, ``torchscript`` or ``pt2``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: Slices a batch; None chooses, under the cap.
        threads: CPU threads of the engine; None takes all.
        memory_cap_bytes: What the process may use; None for what the machine leaves free.
        check_hu: Refuse voxels that are surely not Hounsfield units.
    """

    organs: tuple[str, ...] | None = None
    engine: EngineChoice = "auto"
    device: str = "auto"
    batch_size: int | None = None
    threads: int | None = None
    memory_cap_bytes: int | None = None
    check_hu: bool = True


@dataclass(slots=True)
class Stopwatch:
    """Seconds spent by stage, added up over however many visits."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def predict(
    volume: Volume,
    model: LoadedModel | Bundle | str | Path = DEFAULT_MODEL,
    options: PredictOptions | None = None,
    progress: Progress = no_progress,
) -> Labels:
    """Segment a scan.

    Args:
        volume: From ``load``.
        model: A loaded model, a bundle, or the name or path of one.
        options: See PredictOptions.
        progress: Called with (stage, done, total).

    Returns:
        Labels on the scan's own grid. Value n is the n-th organ of the model's manifest, whichever
        organs were asked for; ``run`` says how they were made.

    Raises:
        NotHounsfieldError: The voxels are surely no HU.
        ModelError, EngineMissingError: The model cannot be used here.
        UnknownOrganError: ``options.organs`` names an organ that the model does not have.
        MemoryCapError: The work does not fit under the cap.
    """
    options = options or PredictOptions()
    watch = Stopwatch()
    with watch.stage("load_model"):
        loaded = ensure_loaded(model, options)
    wanted = select_values(loaded.manifest, options.organs)
    with watch.stage("check_hu"):
        warnings = (*volume.warnings, *(check_hu(volume) if options.check_hu else ()))
    grid = ModelGrid.fit(volume.geometry, loaded.manifest.preprocessing)
    batch_size = choose_batch(loaded, grid, volume.geometry.shape, options)
    on_grid, position = _two_pass(volume, loaded, grid, batch_size, watch, progress)
    with watch.stage("clean_up"):
        clean_up(on_grid, loaded.manifest, grid.voxel_ml)
        on_grid[~np.isin(on_grid, wanted)] = 0
    with watch.stage("back"):
        values = grid.back(on_grid)
    table = loaded.manifest.organ_table()
    return Labels(
        values,
        volume.geometry,
        {value: table[value - 1] for value in wanted},
        volume.source,
        _run_record(loaded, options, batch_size, grid, position, watch, warnings),
    )


def ensure_loaded(model: LoadedModel | Bundle | str | Path, options: PredictOptions) -> LoadedModel:
    """Open and load a model as far as that is still to be done."""
    if isinstance(model, LoadedModel):
        return model
    bundle = model if isinstance(model, Bundle) else open_bundle(model)
    return load_model(bundle, engine=options.engine, device=options.device, threads=options.threads)


def select_values(manifest: Manifest, words: Sequence[str] | None) -> tuple[int, ...]:
    """Label values of the organs asked for, or of all; UnknownOrganError for others."""
    table = manifest.organ_table()
    chosen = table if words is None else organs.select(words, table)
    return tuple(sorted(table.index(organ) + 1 for organ in chosen))


def choose_batch(
    loaded: LoadedModel,
    grid: ModelGrid,
    shape: tuple[int, int, int],
    options: PredictOptions,
    still_to_read_bytes: int = 0,
) -> int:
    """Slices a batch: what was asked for, or the most that is useful and fits under the cap.

    Args:
        loaded: The model.
        grid: The model's grid on the scan.
        shape: The scan's shape.
        options: Batch size and cap.
        still_to_read_bytes: Size of the scan, where it is not in memory yet.

    Raises:
        MemoryCapError: Not even one slice a batch fits; the message names the least cap that does.
        UsageError: The batch size asked for is not positive.
    """
    if options.batch_size is not None and options.batch_size < 1:
        raise UsageError(f"--batch-size {options.batch_size} must be at least 1.")
    best = _CPU_BATCH if loaded.device == "cpu" else _GPU_BATCH
    wanted = min(options.batch_size or best, grid.shape[0])
    cap = options.memory_cap_bytes
    if cap is None or loaded.device != "cpu":
        return wanted
    fixed = memory.resident_bytes() + memory.fixed_need(shape, grid.shape) + still_to_read_bytes
    for size in range(wanted, 0, -1):
        need = fixed + size * _slice_bytes(loaded.manifest, grid)
        if need <= cap and (size == wanted or options.batch_size is None):
            return size
        if options.batch_size is not None:
            break
    raise MemoryCapError(
        f"a memory cap of {memory.human(cap)} is too small for this scan: at least "
        f"{memory.human(need)} is needed with a batch of {size}."
    )


def padded_shape(grid: ModelGrid, preprocessing: Preprocessing) -> tuple[int, int]:
    """Rows and columns that the network sees."""
    multiple = preprocessing.padding.multiple
    rows, columns = (-(-n // multiple) * multiple for n in grid.shape[1:])
    return rows, columns


def decide(logits: FloatArray, manifest: Manifest) -> Uint8Array:
    """Labels (N, H, W) of logits (N, channels, H, W): the one place where overlaps are settled.

    An organ passes where its logit is over its threshold; where several pass, the largest logit
    wins; where none does, the voxel is background.
    """
    best = np.zeros((logits.shape[0], *logits.shape[2:]), dtype=np.float32)
    labels = np.zeros(best.shape, dtype=np.uint8)
    thresholds = manifest.threshold_logits()
    for value, (entry, threshold) in enumerate(zip(manifest.organs, thresholds, strict=True), 1):
        logit = logits[:, entry.channel]
        wins = (logit > threshold) & ((logit > best) | (labels == 0))
        labels[wins] = value
        np.copyto(best, logit, where=wins)
    return labels


def _two_pass(
    volume: Volume,
    loaded: LoadedModel,
    grid: ModelGrid,
    batch_size: int,
    watch: Stopwatch,
    progress: Progress,
) -> tuple[Uint8Array, dict[str, object]]:
    """Labels on the model's grid, and how the slice position was known."""
    rule = loaded.manifest.preprocessing.slice_position
    unknown = np.full(grid.shape[0], -1.0, dtype=np.float32)
    labels = _one_pass(volume, loaded, grid, batch_size, unknown, watch, progress)
    if rule == "none":
        return labels, {"rule": rule}
    least_ml = loaded.manifest.preprocessing.slice_position_min_ml
    voxels = np.count_nonzero(labels.reshape(labels.shape[0], -1), axis=1)
    found = np.flatnonzero(voxels * grid.voxel_ml >= least_ml)
    if found.size < 2:
        return labels, {"rule": rule, "first": None, "last": None}
    first, last = int(found[0]), int(found[-1])
    known = np.clip((np.arange(grid.shape[0]) - first) / (last - first), 0.0, 1.0)
    labels = _one_pass(volume, loaded, grid, batch_size, known.astype(np.float32), watch, progress)
    return labels, {"rule": rule, "first": first, "last": last}


def _one_pass(
    volume: Volume,
    loaded: LoadedModel,
    grid: ModelGrid,
    batch_size: int,
    positions: FloatArray,
    watch: Stopwatch,
    progress: Progress,
) -> Uint8Array:
    manifest = loaded.manifest
    out = np.zeros(grid.shape, dtype=np.uint8)
    takes_position = manifest.network.takes_slice_position
    stacks = neighbour_stacks(
        _inputs(volume, grid, manifest.preprocessing, watch),
        manifest.preprocessing.neighbour_steps(),
    )
    for start in range(0, grid.shape[0], batch_size):
        count = min(batch_size, grid.shape[0] - start)
        batch = np.stack([next(stacks) for _ in range(count)])
        with watch.stage("network"):
            at = positions[start : start + count] if takes_position else None
            logits = loaded.runner.run(batch, at)
        with watch.stage("labels"):
            if not np.isfinite(logits).all():
                raise ModelError("the network gave values that are no numbers for this scan.")
            cropped = logits[:, :, : grid.shape[1], : grid.shape[2]]
            out[start : start + count] = decide(cropped, manifest)
        progress("segment", start + count, grid.shape[0])
    return out


def _inputs(
    volume: Volume, grid: ModelGrid, preprocessing: Preprocessing, watch: Stopwatch
) -> Iterator[FloatArray]:
    """Windowed, padded slices as the network wants them."""
    window, padding = preprocessing.window, preprocessing.padding
    slices = grid.slices(volume.hu)
    for _ in range(grid.shape[0]):
        with watch.stage("resample"):
            hu = next(slices)
            padded = np.full(padded_shape(grid, preprocessing), padding.value, dtype=np.float32)
            inside = padded[: grid.shape[1], : grid.shape[2]]
            np.clip(hu, window.low_hu, window.high_hu, out=inside)
            inside *= np.float32(window.scale)
            inside += np.float32(window.offset)
        yield padded


def neighbour_stacks(slices: Iterable[FloatArray], steps: Sequence[int]) -> Iterator[FloatArray]:
    """Yield each slice with its neighbours at ``steps``, the ends repeated, as (S, H, W)."""
    behind, ahead = max(0, -min(steps)), max(0, max(steps))
    ring: deque[FloatArray] = deque(maxlen=behind + ahead + 1)
    source = iter(slices)
    for first in source:
        ring.extend([first] * (behind + 1))
        break
    left = 0  # how often the last slice has been repeated
    for _ in range(ahead):
        following = next(source, None)
        left += following is None
        ring.append(ring[-1] if following is None else following)
    while left <= ahead and ring:
        yield np.stack([ring[behind + step] for step in steps])
        following = next(source, None)
        left += following is None
        ring.append(ring[-1] if following is None else following)


def _slice_bytes(manifest: Manifest, grid: ModelGrid) -> int:
    rows, columns = padded_shape(grid, manifest.preprocessing)
    return rows * columns * manifest.network.bytes_per_pixel


def _run_record(
    loaded: LoadedModel,
    options: PredictOptions,
    batch_size: int,
    grid: ModelGrid,
    position: dict[str, object],
    watch: Stopwatch,
    warnings: tuple[str, ...],
) -> dict[str, object]:
    manifest = loaded.manifest
    return {
        "model": {
            "name": manifest.name,
            "version": manifest.version,
            "licence": manifest.provenance.licence,
            "intended_use": manifest.provenance.intended_use,
            "weights_sha256": loaded.network_file.sha256,
        },
        "engine": loaded.engine,
        "device": loaded.device,
        "engine_description": loaded.runner.description,
        "options": {
            "organs": None if options.organs is None else list(options.organs),
            "batch_size": batch_size,
            "threads": loaded.threads,
            "memory_cap_bytes": options.memory_cap_bytes,
            "check_hu": options.check_hu,
        },
        "model_grid": {"shape": list(grid.shape)},
        "slice_position": position,
        "seconds": {name: round(value, 4) for name, value in watch.seconds.items()},
        "warnings": list(warnings),
    }
