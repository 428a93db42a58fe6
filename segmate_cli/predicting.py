"""``segmate predict``: from its options to the files it writes."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmate_cli import console, files, interrupts, memory
from segmate_cli.errors import ExitCode, UsageError
from segmate_cli.gate_options import gate_exit, rules_of
from segmate_cli.given import place_of, scan_finder
from segmate_cli.starting import Loading, engine_options, nothing_collected, start_loading_of

if TYPE_CHECKING:
    from segmate_cli.dicom import SeriesInfo
    from segmate_cli.dicom.files import Place
    from segmate_cli.dicom.reference import SegOptions
    from segmate_cli.engines import LoadedModel, LoadingModel
    from segmate_cli.pipeline import PredictOptions
    from segmate_cli.volume import Scan


def run(args: Namespace) -> ExitCode:
    """Segment what the options name, write it, print the outputs' paths; gives the exit code.

    Raises:
        SegmateError: What stands in the way; see ``scans``, ``pipeline`` and ``saving``.
    """
    path = place_of(args.scan)
    with nothing_collected():
        # First of all: the network loads while the rest is imported.
        loading = start_loading_of(args)
        find = scan_finder(args, path)
        files.ensure_temporary_folder(Path(args.output[0]).parent)
        if not args.all_series:
            outputs = [Path(name) for name in args.output]
            _check_outputs(args, outputs, path)
            set_up = _set_up(args, loading, outputs, find)
    if args.all_series:
        return _predict_each(args, path, loading)
    return gate_exit(args, [_predict_one(args, set_up, outputs, find)])


def _predict_each(args: Namespace, path: Place, loading: Loading) -> ExitCode:
    """``segmate predict --all-series``."""
    from segmate_cli import dicom
    from segmate_cli.every_series import find_each, in_turn, output_of

    if args.series:
        raise UsageError("--all-series and --series exclude each other; give one.")
    finding = find_each(path)
    outputs = {
        one.number: [output_of(name, one.number, args.format) for name in args.output]
        for one in finding.candidates
    }
    for names in outputs.values():
        _check_outputs(args, names, path)
    first = finding.candidates[0]
    set_up = _set_up(args, loading, outputs[first.number], lambda: dicom.as_scan(finding, first))
    set_up.model.loaded()  # else each series would fail of what is wrong with the model

    words: list[str] = []

    def run(series: SeriesInfo) -> None:
        _say(args, f"series {series.number}: {series.description or '(no description)'}")
        words.append(
            _predict_one(
                args, set_up, outputs[series.number], lambda: dicom.as_scan(finding, series)
            )
        )

    # A failure is told even if --quiet.
    code = in_turn(finding.candidates, run, lambda text: console.say(text, style=args.progress))
    return gate_exit(args, words) if code == ExitCode.DONE else code


def _check_outputs(args: Namespace, outputs: list[Path], path: Place) -> None:
    from segmate_cli import saving, sidecar

    inputs = (path,) if isinstance(path, Path) else path.paths
    saving.check_label_outputs(outputs, overwrite=args.overwrite, inputs=inputs, kind=args.format)
    if args.itksnap:
        files.check_output(sidecar.itksnap_path(outputs[0]), overwrite=args.overwrite)


@dataclass(frozen=True, slots=True)
class _SetUp:
    """What the series of one run share."""

    options: PredictOptions
    seg: SegOptions | None
    model: LoadedModel | LoadingModel
    cap: memory.Cap


def _set_up(
    args: Namespace, loading: Loading, outputs: list[Path], find: Callable[[], Scan]
) -> _SetUp:
    from segmate_cli import pipeline

    options = pipeline.PredictOptions(
        organs=args.organs,
        check_hu=not args.no_hu_check,
        fast=args.fast,
        uncertainty=args.uncertainty,
        keep_month=args.keep_month,
        rules=rules_of(args),
        temporary_folder=files.folder_for_large_ones(outputs[0].parent),
        **engine_options(args),
    )
    seg = _seg_options(args, outputs)
    model = loading.model(options, find)
    pipeline.select_values(model.manifest, options.organs)
    return _SetUp(options, seg, model, loading.cap)


def _predict_one(
    args: Namespace, set_up: _SetUp, outputs: list[Path], find: Callable[[], Scan]
) -> str:
    """Segment one scan, write it, print the outputs' paths; gives the verdict."""
    from segmate_cli import pipeline, saving
    from segmate_cli.flow import Stopwatch
    from segmate_cli.guard import MemoryGuard

    def tell(*event: Any) -> None:
        interrupts.check()
        progress(*event)

    interrupts.check()
    style: console.ProgressStyle = "none" if args.quiet else args.progress
    seg, model, cap = set_up.seg, set_up.model, set_up.cap
    watch = Stopwatch()
    written: list[Path] = []
    try:
        with MemoryGuard(cap) as guard, console.progress(style) as progress:
            with watch.stage("find"):
                scan = find()
                for note in scan.notes:
                    _say(args, note)
                warnings = saving.seg_reference(scan, seg, cap.size_bytes).warnings if seg else ()
            labels = pipeline.segment(scan, model, set_up.options, tell, guard)
            spent = watch.seconds
            for output in saving.save_all(
                labels, outputs, args.overwrite, seg=seg, seconds=spent, kind=args.format
            ):
                written.append(output)
            progress("write", 1, 1)
    finally:
        # Not before the progress bar is gone, which takes stdout for itself.
        for output in written:
            print(output)
    if args.itksnap:
        from segmate_cli import report, sidecar

        files.write_text(sidecar.itksnap_path(outputs[0]), report.itksnap_labels(labels.organs))
    _say(args, f"{model.manifest.title} ({labels.run['engine_description']})")
    return _tell_run(args, labels.run, warnings)


def _tell_run(args: Namespace, run: dict[str, Any], warnings: Sequence[str]) -> str:
    """Say what is odd about a run and its result; gives the verdict."""
    for warning in (*run["warnings"], *warnings):
        _say(args, f"warning: {warning}")
    doubt = run["doubt"]
    for reason in doubt["reasons"]:
        _say(args, f"review: {reason}")
    return str(doubt["verdict"])


def _seg_options(args: Namespace, outputs: list[Path]) -> SegOptions | None:
    """How DICOM objects are to be written; None where none is asked for."""
    from segmate_cli import saving

    given = (args.seg_type, args.seg_compress, args.reference_dicom, args.uid_root)
    kinds = {saving.kind_of(path, args.format) for path in outputs} - {"nifti"}
    if any(given if not kinds else given[:2] if "seg" not in kinds else ()):
        raise UsageError(
            "--seg-type, --seg-compress, --reference-dicom and --uid-root are about a DICOM SEG "
            "(the last two about an RTSTRUCT as well); ask for one with -o seg.dcm."
        )
    if not kinds:
        return None
    for kind in kinds:
        saving.check_writer(kind)
    from segmate_cli.dicom.reference import SegOptions
    from segmate_cli.dicom.uids import check_root

    check_root(args.uid_root)
    return SegOptions(
        seg_type=args.seg_type or "binary",
        compress=args.seg_compress,
        uid_root=args.uid_root,
        reference=Path(args.reference_dicom) if args.reference_dicom else None,
        series=args.series,
    )


def _say(args: Namespace, message: str) -> None:
    console.say(message, style=args.progress, quiet=args.quiet)
