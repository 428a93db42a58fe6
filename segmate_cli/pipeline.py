"""The one pipeline: HU on the model's grid, triplets, batches, logits, labels, back to the scan.

Slices flow: in memory are those in use, one batch of logits and the labels on the model's grid;
never a float copy of the scan and never all logits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segmate_cli import organs
from segmate_cli.bundle import DEFAULT_MODEL, Bundle, Manifest, open_bundle
from segmate_cli.clean_up import clean_up
from segmate_cli.console import Progress, no_progress
from segmate_cli.engines import (
    EngineChoice,
    FloatArray,
    LoadedModel,
    LoadingModel,
    start_loading,
)
from segmate_cli.errors import ModelError
from segmate_cli.flow import Ahead, Stopwatch, spread
from segmate_cli.geometry import Geometry
from segmate_cli.guard import Batches, MemoryGuard, ensure_guarded
from segmate_cli.hounsfield import check_hu
from segmate_cli.inputs import ScanTap, neighbour_stacks, network_slices
from segmate_cli.memory import Cap, resolve_cap
from segmate_cli.organs import Organ
from segmate_cli.plan import SLICES_AHEAD, Plan, make_plan
from segmate_cli.planes import PackedPlanes, Uint8Array
from segmate_cli.resample import ModelGrid
from segmate_cli.volume import Labels, LabelValues, Scan, Source, Volume

Model = LoadedModel | LoadingModel | Bundle | str | Path

# The model's slices by number, and what the network gets of them: (N, S, H, W).
Batch = tuple[list[int], FloatArray]


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """Choices of one run.

    Attributes:
        organs: Only these in the output, by key or alias; None for all the model has.
        engine: ``auto``, ``onnx``, ``torchscript`` or ``pt2``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: Slices a batch; None chooses, under the cap.
        threads: CPU threads of the engine; None takes all.
        memory_cap_bytes: What the process may use; None for 80 % of what is left free.
        check_hu: Refuse voxels that are surely not Hounsfield units.
        temporary_folder: For the temporary file of a scan stored coronally or sagittally; None
            takes the system's (TMPDIR).
    """

    organs: tuple[str, ...] | None = None
    engine: EngineChoice = "auto"
    device: str = "auto"
    batch_size: int | None = None
    threads: int | None = None
    memory_cap_bytes: int | None = None
    check_hu: bool = True
    temporary_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class GridLabels:
    """Labels on the model's grid, and how they go back to the scan's; a ``LabelMap``.

    Attributes:
        on_grid: Labels on the model's grid, deflated plane by plane.
        grid: How that lies on the scan.
        geometry: The scan's.
        organs: Label value to organ.
        source: The scan.
        run: How the labels were made, as the sidecar says it.
    """

    on_grid: PackedPlanes
    grid: ModelGrid
    geometry: Geometry
    organs: dict[int, Organ]
    source: Source | None
    run: dict[str, Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.on_grid.dtype

    def planes(self) -> Iterator[LabelValues]:
        """The scan's own slices, labelled, one after the other."""
        return self.grid.back_planes(self.on_grid)

    def labels(self) -> Labels:
        """The label map in memory."""
        values = self.grid.back(self.on_grid)
        return Labels(values, self.geometry, self.organs, self.source, self.run)


def predict(
    volume: Volume,
    model: Model = DEFAULT_MODEL,
    options: PredictOptions | None = None,
    progress: Progress = no_progress,
) -> Labels:
    """Segment a scan in memory; ``segment`` does it slice by slice.

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
    if options.check_hu:
        check_hu(volume)  # before the network; ``segment`` knows only once it has seen all slices
    return segment(volume.as_scan(), model, options, progress).labels()


def segment(
    scan: Scan,
    model: Model = DEFAULT_MODEL,
    options: PredictOptions | None = None,
    progress: Progress = no_progress,
    guard: MemoryGuard | None = None,
) -> GridLabels:
    """Segment a scan as its slices come; arguments and errors as ``predict``.

    ``guard`` is one that already watches this process; without it there is one for this call.

    In memory are the slices in use, one batch, and the labels on the model's grid, deflated. A scan
    whose stored slices lie across the model's (coronal or sagittal storage) is turned first, by way
    of a temporary file.
    """
    options = options or PredictOptions()
    watch = Stopwatch()
    loading = ensure_loading(model, options)
    manifest = loading.manifest
    wanted = select_values(manifest, options.organs)
    grid = ModelGrid.fit(scan.geometry, manifest.preprocessing)
    tap = ScanTap(scan, grid, watch, options.temporary_folder)
    cap = guard.cap if guard else resolve_cap(options.memory_cap_bytes)
    # Reading begins while the network loads.
    with ensure_guarded(guard, cap) as on_watch, _slices(tap, grid, manifest, watch) as slices:
        with watch.stage("wait_for_model"):
            loaded = loading.loaded()
        if guard:
            guard.limit_allocations()
        plan = plan_for(scan, loaded, options, cap)
        batches = Batches(plan.batch_size, on_watch)
        network = Segmenter(loaded, grid, batches, watch, progress)
        on_grid = network.labels(slices)
        position = network.position_of(on_grid)
        if position:
            with _slices(tap, grid, manifest, watch) as again:
                on_grid = network.labels(again, position)
    cap_warning = () if cap.warning is None else (cap.warning,)
    warnings = (*cap_warning, *scan.warnings, *(tap.verdict() if options.check_hu else ()))
    with watch.stage("clean_up"):
        clean_up(on_grid, manifest, grid.voxel_ml)
        _drop_others(on_grid, wanted)
    table = manifest.organ_table()
    run = {
        "pixels_sha256": tap.sha256,
        **_run_record(network, options, plan, position, warnings),
    }
    organs_of = {value: table[value - 1] for value in wanted}
    return GridLabels(on_grid, grid, scan.geometry, organs_of, scan.source, run)


def ensure_loading(model: Model, options: PredictOptions) -> LoadingModel | LoadedModel:
    """Open a model and start to load it, as far as that is still to be done."""
    if isinstance(model, LoadedModel | LoadingModel):
        return model
    return start_loading(
        model if isinstance(model, Bundle) else open_bundle(model),
        engine=options.engine,
        device=options.device,
        threads=options.threads,
        batch_size=options.batch_size,
    )


def plan_for(
    scan: Scan, model: LoadedModel | Bundle, options: PredictOptions, cap: Cap | None = None
) -> Plan:
    """The plan of a run with these options; errors as ``make_plan``.

    ``cap`` is the one that the options ask for, where that has been resolved before.
    """
    cap = cap or resolve_cap(options.memory_cap_bytes)
    return make_plan(scan, model, cap, batch_size=options.batch_size, threads=options.threads)


def select_values(manifest: Manifest, words: Sequence[str] | None) -> tuple[int, ...]:
    """Label values of the organs asked for, or of all; UnknownOrganError for others."""
    table = manifest.organ_table()
    chosen = table if words is None else organs.select(words, table)
    return tuple(sorted(table.index(organ) + 1 for organ in chosen))


def decide(logits: FloatArray, manifest: Manifest) -> Uint8Array:
    """Labels (N, H, W) of logits (N, channels, H, W): the one place where overlaps are settled.

    An organ passes where its logit is over its threshold; where several pass, the largest logit
    wins; where none does, the voxel is background.
    """
    best = np.full((logits.shape[0], *logits.shape[2:]), -np.inf, dtype=np.float32)
    labels = np.zeros(best.shape, dtype=np.uint8)
    thresholds = manifest.threshold_logits()
    for value, (entry, threshold) in enumerate(zip(manifest.organs, thresholds, strict=True), 1):
        logit = logits[:, entry.channel]
        wins = logit > np.maximum(best, np.float32(threshold))
        np.putmask(labels, wins, value)
        np.copyto(best, logit, where=wins)
    return labels


@dataclass(frozen=True, slots=True)
class Segmenter:
    """A loaded network at work on one scan.

    Attributes:
        loaded: The network.
        grid: How the model's grid lies on the scan.
        batches: Slices in the network at once, over all workers.
        watch: Counts ``network`` and ``labels``.
        progress: Called with (stage, done, total).
    """

    loaded: LoadedModel
    grid: ModelGrid
    batches: Batches
    watch: Stopwatch
    progress: Progress

    def labels(
        self, slices: Iterable[FloatArray], position: SlicePosition | None = None
    ) -> PackedPlanes:
        """Labels on the model's grid.

        Args:
            slices: From ``network_slices``.
            position: Where the organs begin and end; None if that is not known.
        """
        out = PackedPlanes(self.grid.shape)
        workers = min(self.loaded.workers, self.batches.size)
        parts = self._stacks(slices, -(-self.batches.size // workers))
        done, total = 0, self.grid.shape[0]
        self.progress("segment", done, total)
        for numbers, found in spread(lambda part: self._label(part, position), parts, workers):
            for number, plane in zip(numbers, found, strict=True):
                out[number] = plane
            done += len(numbers)
            self.progress("segment", done, total)
        return out

    def _stacks(self, slices: Iterable[FloatArray], size: int) -> Iterator[Batch]:
        steps = self.loaded.manifest.preprocessing.neighbour_steps()
        if self.grid.descending:  # the neighbour above comes first
            steps = tuple(-step for step in steps)
        stacks = zip(self.grid.order(), neighbour_stacks(slices, steps), strict=True)
        while batch := list(itertools.islice(stacks, size)):
            yield [number for number, _ in batch], np.stack([stack for _, stack in batch])

    def _label(self, batch: Batch, position: SlicePosition | None) -> tuple[list[int], Uint8Array]:
        numbers, stacks = batch
        manifest = self.loaded.manifest
        at: FloatArray | None = None
        if manifest.network.takes_slice_position:
            at = position.of(numbers) if position else np.full(len(numbers), -1.0, np.float32)
        _, rows, columns = self.grid.shape
        labels = []
        with self.watch.stage("network"):
            for logits in self.batches.run(self.loaded.runner, stacks, at):
                with self.watch.stage("labels"):
                    if not np.isfinite(logits).all():
                        raise ModelError(
                            "the network gave values that are no numbers for this scan."
                        )
                    labels.append(decide(logits[:, :, :rows, :columns], manifest))
        return numbers, np.concatenate(labels)

    def position_of(self, on_grid: PackedPlanes) -> SlicePosition | None:
        """Where the organs begin and end, if the model wants to know and it can be said."""
        preprocessing = self.loaded.manifest.preprocessing
        if preprocessing.slice_position == "none":
            return None
        return SlicePosition.estimate(
            on_grid, preprocessing.slice_position_min_ml / self.grid.voxel_ml
        )


def _checked(logits: FloatArray) -> FloatArray:
    if not np.isfinite(logits).all():
        raise ModelError("the network gave values that are no numbers for this scan.")
    return logits


@dataclass(frozen=True, slots=True)
class SlicePosition:
    """The first and the last of the model's slices with organs."""

    first: int
    last: int

    @classmethod
    def estimate(cls, on_grid: PackedPlanes, least_voxels: float) -> SlicePosition | None:
        """Of labels that were made without; None where fewer than two slices have organs."""
        voxels = np.array([np.count_nonzero(plane) for plane in on_grid])
        found = np.flatnonzero(voxels >= least_voxels)
        return cls(int(found[0]), int(found[-1])) if found.size >= 2 else None

    def of(self, numbers: list[int]) -> FloatArray:
        """0 to 1 for each slice."""
        part = (np.array(numbers) - self.first) / (self.last - self.first)
        return np.asarray(np.clip(part, 0.0, 1.0), dtype=np.float32)


def _slices(
    tap: ScanTap, grid: ModelGrid, manifest: Manifest, watch: Stopwatch
) -> Ahead[FloatArray]:
    """A scan's slices for the network, made by a thread that runs ahead of it."""
    return Ahead(network_slices(tap, grid, manifest.preprocessing, watch), SLICES_AHEAD)


def _drop_others(on_grid: PackedPlanes, wanted: Sequence[int]) -> None:
    """Set labels of organs that were not asked for to background, in place."""
    kept = np.zeros(256, dtype=np.uint8)
    kept[list(wanted)] = wanted
    for n, plane in enumerate(on_grid):
        on_grid[n] = kept[plane]


def _run_record(
    network: Segmenter,
    options: PredictOptions,
    plan: Plan,
    position: SlicePosition | None,
    warnings: tuple[str, ...],
) -> dict[str, object]:
    loaded, manifest = network.loaded, network.loaded.manifest
    seconds = {"load_model": loaded.load_s, **network.watch.seconds}
    rule = manifest.preprocessing.slice_position
    ends: dict[str, int | None] = {} if rule == "none" else {"first": None, "last": None}
    if position:
        ends = {"first": position.first, "last": position.last}
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
            "batch_size": plan.batch_size,
            "threads": loaded.threads,
            "memory_cap_bytes": plan.cap.size_bytes,
            "check_hu": options.check_hu,
        },
        "model_grid": {"shape": list(plan.grid_shape)},
        "slice_position": {"rule": rule, **ends},
        "plan": plan.as_dict(),
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "warnings": list(warnings),
    }
