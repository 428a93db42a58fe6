"""The one pipeline: HU on the model's grid, triplets, batches, logits, labels, back to the scan.

Slices flow: in memory are those in use, one batch of logits and the labels on the model's grid;
never a float copy of the scan and never all logits.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segmate_cli import memory, organs
from segmate_cli.bundle import DEFAULT_MODEL, Bundle, Manifest, open_bundle
from segmate_cli.clean_up import clean_up
from segmate_cli.console import Progress, no_progress
from segmate_cli.doubt.score_evidence import ScoreWatcher
from segmate_cli.engines import (
    EngineChoice,
    LoadedModel,
    LoadingModel,
    start_loading,
)
from segmate_cli.finishing import Finishing
from segmate_cli.flow import Ahead, Stopwatch, begin
from segmate_cli.geometry import Geometry
from segmate_cli.guard import Batches, MemoryGuard, ensure_guarded
from segmate_cli.hounsfield import check_hu
from segmate_cli.inputs import ScanTap, network_slices
from segmate_cli.memory import Cap, resolve_cap
from segmate_cli.organs import Organ
from segmate_cli.plan import SLICES_AHEAD, Plan, make_plan, slices_bytes
from segmate_cli.planes import PackedPlanes
from segmate_cli.resample import ModelGrid
from segmate_cli.runners import FloatArray
from segmate_cli.segmenter import Segmenter, SlicePosition
from segmate_cli.variants import (
    Overlap,
    no_interval_for,
    overlap,
    variants_of,
)
from segmate_cli.volume import Labels, LabelValues, Scan, Source, Volume

if TYPE_CHECKING:
    from segmate_cli.doubt.rules import Rule
    from segmate_cli.doubt.verdict import Judgement
    from segmate_cli.judging import Evidence

Model = LoadedModel | LoadingModel | Bundle | str | Path


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
        gpu_memory_cap_bytes: What the engine may take of a GPU's memory; None for no limit.
        check_hu: Refuse voxels that are surely not Hounsfield units.
        fast: Every second of the model's slices, with labels interpolated between them.
        uncertainty: Show the scan to the network in other ways, too, and give volumes intervals.
        keep_month: Whether the sidecar tells the month of a DICOM series, not its year alone.
        rules: Gates that the scan and its labels must pass; None for the built-in ones, unless the
            manifest says that these do not hold for the model.
        temporary_folder: For the temporary file of a scan stored coronally or sagittally; None
            takes the system's (TMPDIR).
    """

    organs: tuple[str, ...] | None = None
    engine: EngineChoice = "auto"
    device: str = "auto"
    batch_size: int | None = None
    threads: int | None = None
    memory_cap_bytes: int | None = None
    gpu_memory_cap_bytes: int | None = None
    check_hu: bool = True
    fast: bool = False
    uncertainty: bool = False
    keep_month: bool = False
    rules: tuple[Rule, ...] | None = None
    temporary_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class GridLabels:
    """Labels on the model's grid, and how they go back to the scan's; a ``LabelMap``.

    Attributes:
        on_grid: Labels on the model's grid, or on its rows and columns and the scan's slices,
            deflated plane by plane.
        grid: How that lies on the scan.
        geometry: The scan's.
        organs: Label value to organ.
        source: The scan.
        tell: Gives ``run``.
        judging: Gives ``judgement``.
    """

    on_grid: PackedPlanes
    grid: ModelGrid
    geometry: Geometry
    organs: dict[int, Organ]
    source: Source | None
    tell: Callable[[], dict[str, Any]]
    judging: Future[Judgement]

    @property
    def run(self) -> dict[str, Any]:
        """How the labels were made, as the sidecar says it; waits until they are judged."""
        return self.tell()

    @property
    def judgement(self) -> Judgement:
        """What the gates said of the scan and of all organs that the model knows; waits, too."""
        return self.judging.result()

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
    held = memory.resident_bytes() if isinstance(loading, LoadedModel) else None
    # Reading begins while the network loads.
    with ensure_guarded(guard, cap) as on_watch, _slices(tap, grid, manifest, watch) as slices:
        with watch.stage("wait_for_model"):
            loaded = loading.loaded()
        if guard:
            guard.limit_allocations()
        held = _held_without_slices(grid, manifest) if held is None else held
        plan = plan_for(scan, loaded, options, cap, held)
        batches = Batches(plan.batch_size, on_watch)
        watcher = _score_watcher(manifest, grid, options)
        network = Segmenter(loaded, grid, batches, watch, progress, _stride(options), watcher)
        finishing = Finishing(network.label_grid, scan.geometry, manifest, watch)
        # What judges the labels is imported while the first slices are in the network.
        begin(lambda: importlib.import_module("segmate_cli.judging"))
        position = _segmented(network, tap, slices, finishing)
        stayed, on_grid = finishing.clean_up(), finishing.labels
        overlaps = _overlaps(tap, network, on_grid, position) if options.uncertainty else ()
    grid = network.label_grid
    warnings = _warnings(cap, scan, tap, options, manifest)
    table = manifest.organ_table()
    from segmate_cli.judging import Evidence, judgement_record

    seen = Evidence(tap.evidence(), watcher.evidence(), stayed, overlaps)
    # While the labels are written.
    judging = begin(lambda: _judge(finishing, manifest, seen, options.rules, watch))

    @cache
    def run() -> dict[str, Any]:
        judged = judging.result()
        return {
            "pixels_sha256": tap.sha256,
            **_run_record(network, options, plan, position, warnings),
            "doubt": judgement_record(judged, {table[value - 1].key for value in wanted}),
        }

    organs_of = {value: table[value - 1] for value in wanted}
    kept = on_grid if len(wanted) == len(table) else _only(on_grid, wanted)
    return GridLabels(kept, grid, scan.geometry, organs_of, scan.source, run, judging)


def _held_without_slices(grid: ModelGrid, manifest: Manifest) -> int:
    """What the process holds, but for the slices that were read while the network loaded."""
    return memory.resident_bytes() - slices_bytes(grid, manifest.preprocessing)


def _warnings(
    cap: Cap, scan: Scan, tap: ScanTap, options: PredictOptions, manifest: Manifest
) -> tuple[str, ...]:
    lacking = no_interval_for(manifest) if options.uncertainty else None
    single = [each for each in (cap.warning, lacking) if each is not None]
    return (*single, *scan.warnings, *(tap.verdict() if options.check_hu else ()))


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
        gpu_memory_cap_bytes=options.gpu_memory_cap_bytes,
    )


def plan_for(
    scan: Scan,
    model: LoadedModel | Bundle,
    options: PredictOptions,
    cap: Cap | None = None,
    held_bytes: int | None = None,
) -> Plan:
    """The plan of a run with these options; errors and ``held_bytes`` as ``make_plan``.

    ``cap`` is the one that the options ask for, where that has been resolved before.
    """
    return make_plan(
        scan,
        model,
        cap or resolve_cap(options.memory_cap_bytes),
        batch_size=options.batch_size,
        threads=options.threads,
        held_bytes=held_bytes,
        gpu_cap_bytes=options.gpu_memory_cap_bytes,
        variants=options.uncertainty,
    )


def select_values(manifest: Manifest, words: Sequence[str] | None) -> tuple[int, ...]:
    """Label values of the organs asked for, or of all; UnknownOrganError for others."""
    table = manifest.organ_table()
    chosen = table if words is None else organs.select(words, table)
    return tuple(sorted(table.index(organ) + 1 for organ in chosen))


def _segmented(
    network: Segmenter, tap: ScanTap, slices: Ahead[FloatArray], out: Finishing
) -> SlicePosition | None:
    """Make labels; where the organs begin and end where the network needs to know that first."""
    manifest = network.loaded.manifest
    if manifest.preprocessing.slice_position == "none":
        network.labels(slices, out)
        return None
    position = network.position(slices)
    with _slices(tap, network.grid, manifest, network.watch) as again:
        network.labels(again, out, position)
    return position


def _judge(
    finishing: Finishing,
    manifest: Manifest,
    seen: Evidence,
    rules: tuple[Rule, ...] | None,
    watch: Stopwatch,
) -> Judgement:
    from segmate_cli.judging import judge_labels

    with watch.stage("gates"):
        return judge_labels(finishing.survey(), manifest, seen, rules)


def _slices(
    tap: ScanTap, grid: ModelGrid, manifest: Manifest, watch: Stopwatch
) -> Ahead[FloatArray]:
    """A scan's slices for the network, made by a thread that runs ahead of it."""
    return Ahead(network_slices(tap, grid, manifest.preprocessing, watch), SLICES_AHEAD)


def _stride(options: PredictOptions) -> int:
    return 2 if options.fast else 1


def _score_watcher(manifest: Manifest, grid: ModelGrid, options: PredictOptions) -> ScoreWatcher:
    return ScoreWatcher(
        [entry.channel for entry in manifest.organs],
        manifest.threshold_logits(),
        grid.extents_mm(manifest.preprocessing.grid.spacing_mm, _stride(options)),
    )


def _overlaps(
    tap: ScanTap, network: Segmenter, base: PackedPlanes, position: SlicePosition | None
) -> tuple[Overlap, ...]:
    """Labels of the scan shown otherwise, beside those that it has got."""
    manifest = network.loaded.manifest
    found = []
    for variant in variants_of(manifest):
        grid = replace(network.grid, offset=variant.offset)
        shown = replace(network, grid=grid, scores=None, variant=variant)
        with _slices(tap, grid, manifest, network.watch) as slices:
            labels = PackedPlanes(shown.label_grid.shape)
            shown.labels(slices, labels, position)
        with network.watch.stage("clean_up"):
            clean_up(labels, manifest, shown.label_grid.voxel_ml)
        found.append(overlap(base, labels, len(manifest.organs)))
    return tuple(found)


def _only(on_grid: PackedPlanes, wanted: Sequence[int]) -> PackedPlanes:
    """The labels less those of organs that were not asked for."""
    kept = np.zeros(256, dtype=np.uint8)
    kept[list(wanted)] = wanted
    out = PackedPlanes(on_grid.shape)
    for n, plane in enumerate(on_grid):
        out[n] = kept[plane]
    return out


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
            "gpu_memory_cap_bytes": options.gpu_memory_cap_bytes,
            "check_hu": options.check_hu,
            "fast": options.fast,
            "uncertainty": options.uncertainty,
            "keep_month": options.keep_month,
        },
        "model_grid": {"shape": list(plan.grid_shape)},
        "slice_position": {"rule": rule, **ends},
        "plan": plan.as_dict(),
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "warnings": list(warnings),
    }
