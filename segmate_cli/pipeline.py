"""The one pipeline: HU on the model's grid, triplets, batches, logits, labels, back to the scan.

Slices flow: in memory are those in use, one batch of logits and the labels on the model's grid;
never a float copy of the scan and never all logits.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli import organs
from segmate_cli.bundle import DEFAULT_MODEL, Bundle, Manifest, Preprocessing, open_bundle
from segmate_cli.clean_up import clean_up
from segmate_cli.console import Progress, no_progress
from segmate_cli.engines import EngineChoice, FloatArray, LoadedModel, load_model
from segmate_cli.errors import ModelError
from segmate_cli.geometry import Geometry
from segmate_cli.guard import Batches, MemoryGuard, ensure_guarded
from segmate_cli.hounsfield import HuCensus, check_hu
from segmate_cli.memory import Cap, resolve_cap
from segmate_cli.organs import Organ
from segmate_cli.plan import Plan, make_plan, padded_shape
from segmate_cli.resample import ModelGrid
from segmate_cli.volume import Hounsfield, Labels, LabelValues, Scan, Source, Volume

Uint8Array = npt.NDArray[np.uint8]


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
    """Seconds spent by stage, added up over however many visits.

    A stage inside another counts for itself alone, so that all stages add up to the whole.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    _inside: list[float] = field(default_factory=list, repr=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        start = time.perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - self._inside.pop()
            if self._inside:
                self._inside[-1] += spent


@dataclass(frozen=True, slots=True)
class GridLabels:
    """Labels on the model's grid, and how they go back to the scan's; a ``LabelMap``.

    Attributes:
        on_grid: (slices, rows, columns) uint8 on the model's grid.
        grid: How that lies on the scan.
        geometry: The scan's.
        organs: Label value to organ.
        source: The scan.
        run: How the labels were made, as the sidecar says it.
    """

    on_grid: Uint8Array
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
    model: LoadedModel | Bundle | str | Path = DEFAULT_MODEL,
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
    model: LoadedModel | Bundle | str | Path = DEFAULT_MODEL,
    options: PredictOptions | None = None,
    progress: Progress = no_progress,
    guard: MemoryGuard | None = None,
) -> GridLabels:
    """Segment a scan as its slices come; arguments and errors as ``predict``.

    ``guard`` is one that already watches this process; without it there is one for this call.

    In memory are the slices in use, one batch, and the labels on the model's grid. A scan whose
    stored slices lie across the model's (coronal or sagittal storage) is read as a whole first.
    """
    options = options or PredictOptions()
    watch = Stopwatch()
    with watch.stage("load_model"):
        loaded = ensure_loaded(model, options)
    wanted = select_values(loaded.manifest, options.organs)
    grid = ModelGrid.fit(scan.geometry, loaded.manifest.preprocessing)
    plan = plan_for(scan, loaded, options, guard.cap if guard else None)
    tap = ScanTap(scan, grid, watch)
    with ensure_guarded(guard, plan.cap) as on_watch:
        batches = Batches(plan.batch_size, on_watch)
        on_grid, position = _two_pass(tap, loaded, grid, batches, watch, progress)
    cap_warning = () if plan.cap.warning is None else (plan.cap.warning,)
    warnings = (*cap_warning, *scan.warnings, *(tap.verdict() if options.check_hu else ()))
    with watch.stage("clean_up"):
        clean_up(on_grid, loaded.manifest, grid.voxel_ml)
        _drop_others(on_grid, wanted)
    table = loaded.manifest.organ_table()
    run = {
        "pixels_sha256": tap.sha256,
        **_run_record(loaded, options, plan, position, watch, warnings),
    }
    organs_of = {value: table[value - 1] for value in wanted}
    return GridLabels(on_grid, grid, scan.geometry, organs_of, scan.source, run)


class ScanTap:
    """A scan's slices for the network, hashed and counted as they pass for the first time."""

    def __init__(self, scan: Scan, grid: ModelGrid, watch: Stopwatch) -> None:
        self._scan = scan
        self._grid = grid
        self._watch = watch
        self._digest = hashlib.sha256()
        self._census = HuCensus(scan.geometry.shape[0])
        self.sha256: str | None = None

    def planes(self) -> Iterator[Hounsfield]:
        """Slices in the model's axes, in the order that ``ModelGrid.slices`` wants."""
        stored = self._stored()
        if self._grid.streams:
            return (self._grid.turn_plane(plane) for plane in stored)
        hu = np.empty(self._scan.geometry.shape, dtype=np.int16)
        for k, plane in enumerate(stored):
            hu[k] = plane
        return iter(self._grid.turn.view(hu))

    def verdict(self) -> tuple[str, ...]:
        """What the HU look like, once all slices have passed; see ``HuCensus.verdict``."""
        source = self._scan.source
        return self._census.verdict(str(source.path) if source else "")

    def _stored(self) -> Iterator[Hounsfield]:
        planes = self._scan.planes()
        for _ in range(self._scan.geometry.shape[0]):
            with self._watch.stage("read"):
                plane = next(planes)
            if self.sha256 is None:
                with self._watch.stage("hash"):
                    self._digest.update(np.ascontiguousarray(plane, dtype="<i2").data)
                with self._watch.stage("check_hu"):
                    self._census.add(plane)
            yield plane
        with self._watch.stage("read"):  # whatever is wrong at the end of the file shows here
            next(planes, None)
        self.sha256 = self._digest.hexdigest()


def ensure_loaded(model: LoadedModel | Bundle | str | Path, options: PredictOptions) -> LoadedModel:
    """Open and load a model as far as that is still to be done."""
    if isinstance(model, LoadedModel):
        return model
    bundle = model if isinstance(model, Bundle) else open_bundle(model)
    return load_model(bundle, engine=options.engine, device=options.device, threads=options.threads)


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
    tap: ScanTap,
    loaded: LoadedModel,
    grid: ModelGrid,
    batches: Batches,
    watch: Stopwatch,
    progress: Progress,
) -> tuple[Uint8Array, dict[str, object]]:
    """Labels on the model's grid, and how the slice position was known."""
    rule = loaded.manifest.preprocessing.slice_position
    unknown = np.full(grid.shape[0], -1.0, dtype=np.float32)
    labels = _one_pass(tap, loaded, grid, batches, unknown, watch, progress)
    if rule == "none":
        return labels, {"rule": rule}
    least_ml = loaded.manifest.preprocessing.slice_position_min_ml
    voxels = np.count_nonzero(labels.reshape(labels.shape[0], -1), axis=1)
    found = np.flatnonzero(voxels * grid.voxel_ml >= least_ml)
    if found.size < 2:
        return labels, {"rule": rule, "first": None, "last": None}
    first, last = int(found[0]), int(found[-1])
    known = np.clip((np.arange(grid.shape[0]) - first) / (last - first), 0.0, 1.0)
    labels = _one_pass(tap, loaded, grid, batches, known.astype(np.float32), watch, progress)
    return labels, {"rule": rule, "first": first, "last": last}


def _one_pass(
    tap: ScanTap,
    loaded: LoadedModel,
    grid: ModelGrid,
    batches: Batches,
    positions: FloatArray,
    watch: Stopwatch,
    progress: Progress,
) -> Uint8Array:
    manifest = loaded.manifest
    out = np.zeros(grid.shape, dtype=np.uint8)
    takes_position = manifest.network.takes_slice_position
    steps = manifest.preprocessing.neighbour_steps()
    if grid.descending:  # the neighbour above comes first
        steps = tuple(-step for step in steps)
    inputs = _inputs(tap, grid, manifest.preprocessing, watch)
    stacks = zip(grid.order(), neighbour_stacks(inputs, steps), strict=True)
    done = 0
    while batch := list(itertools.islice(stacks, batches.size)):
        slices = [n for n, _ in batch]
        at = positions[slices] if takes_position else None
        with watch.stage("network"):
            runs = batches.run(loaded.runner, np.stack([stack for _, stack in batch]), at)
            for part, logits in runs:
                with watch.stage("labels"):
                    out[slices[part]] = _labels_of(logits, grid, manifest)
        done += len(batch)
        progress("segment", done, grid.shape[0])
    return out


def _labels_of(logits: FloatArray, grid: ModelGrid, manifest: Manifest) -> Uint8Array:
    if not np.isfinite(logits).all():
        raise ModelError("the network gave values that are no numbers for this scan.")
    return decide(logits[:, :, : grid.shape[1], : grid.shape[2]], manifest)


def _inputs(
    tap: ScanTap, grid: ModelGrid, preprocessing: Preprocessing, watch: Stopwatch
) -> Iterator[FloatArray]:
    """Windowed, padded slices as the network wants them."""
    window, padding = preprocessing.window, preprocessing.padding
    slices = grid.slices(tap.planes())
    while True:
        with watch.stage("resample"):  # less what the tap counts as reading, hashing, checking
            hu = next(slices, None)
        if hu is None:
            return
        with watch.stage("window"):
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


def _drop_others(on_grid: Uint8Array, wanted: Sequence[int]) -> None:
    """Set labels of organs that were not asked for to background, in place."""
    kept = np.zeros(256, dtype=np.uint8)
    kept[list(wanted)] = wanted
    for plane in on_grid:
        plane[:] = kept[plane]


def _run_record(
    loaded: LoadedModel,
    options: PredictOptions,
    plan: Plan,
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
            "batch_size": plan.batch_size,
            "threads": loaded.threads,
            "memory_cap_bytes": plan.cap.size_bytes,
            "check_hu": options.check_hu,
        },
        "model_grid": {"shape": list(plan.grid_shape)},
        "slice_position": position,
        "plan": plan.as_dict(),
        "seconds": {name: round(value, 4) for name, value in watch.seconds.items()},
        "warnings": list(warnings),
    }
