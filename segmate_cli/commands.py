"""The commands: each takes its parsed options, calls the library, prints, returns an exit code.

stdout carries results alone (paths, tables, JSON); everything else goes to stderr.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segmate_cli import __version__, console, files, memory
from segmate_cli.errors import ExitCode, UsageError
from segmate_cli.outputs import deliver, format_of
from segmate_cli.starting import Loading, engine_options, start_loading_of

if TYPE_CHECKING:
    from segmate_cli.dicom import SeriesInfo
    from segmate_cli.dicom.files import Place
    from segmate_cli.dicom.reference import SegOptions
    from segmate_cli.engines import LoadedModel, LoadingModel
    from segmate_cli.pipeline import PredictOptions
    from segmate_cli.volume import Scan


def predict(args: Namespace) -> ExitCode:
    """``segmate predict``."""
    path = _place(args.scan)
    # First of all: the network loads while the rest is imported.
    loading = start_loading_of(args)
    from segmate_cli import scans
    from segmate_cli.gating import gate_exit

    def find() -> Scan:
        _spare_pydicom(path)
        return scans.find_scan(path, series=args.series, assume_ras=args.assume_ras)

    files.ensure_temporary_folder(Path(args.output[0]).parent)
    if args.all_series:
        return _predict_each(args, path, loading)
    outputs = [Path(name) for name in args.output]
    _check_outputs(args, outputs, path)
    word = _predict_one(args, _set_up(args, loading, outputs, find), outputs, find)
    return gate_exit(args, [word])


def _predict_each(args: Namespace, path: Place, loading: Loading) -> ExitCode:
    """``segmate predict --all-series``."""
    from segmate_cli import dicom
    from segmate_cli.every_series import find_each, in_turn, output_of
    from segmate_cli.gating import gate_exit

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
    from segmate_cli.gating import rules_of

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
    from segmate_cli import pipeline, report, saving, sidecar
    from segmate_cli.flow import Stopwatch
    from segmate_cli.guard import MemoryGuard

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
            labels = pipeline.segment(scan, model, set_up.options, progress, guard)
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
        files.write_text(sidecar.itksnap_path(outputs[0]), report.itksnap_labels(labels.organs))
    _say(args, f"{model.manifest.title} ({labels.run['engine_description']})")
    for warning in (*labels.run["warnings"], *warnings):
        _say(args, f"warning: {warning}")
    doubt = labels.run["doubt"]
    for reason in doubt["reasons"]:
        _say(args, f"review: {reason}")
    return str(doubt["verdict"])


def plan(args: Namespace) -> ExitCode:
    """``segmate plan``."""
    from segmate_cli import pipeline, scans
    from segmate_cli.plan import as_text

    options = pipeline.PredictOptions(**engine_options(args))
    path = _place(args.scan)
    loading = start_loading_of(args)

    def find() -> Scan:
        _spare_pydicom(path)
        return scans.find_scan(path, series=args.series, assume_ras=args.assume_ras)

    model = loading.model(options, find).loaded()
    made = pipeline.plan_for(find(), model, options, loading.cap)
    if args.format == "json":
        print(json.dumps(made.as_dict(), indent=2))
    else:
        sys.stdout.write(as_text(made))
    if made.cap.warning:
        console.say(f"warning: {made.cap.warning}")
    return ExitCode.DONE


def batch(args: Namespace) -> int:
    """``segmate batch``."""
    from segmate_cli.batch import command

    return command.run(args)


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


def report(args: Namespace) -> ExitCode:
    """``segmate report``."""
    from segmate_cli import report as reports

    paths = [Path(name) for name in args.labels or _paths_from_stdin()]
    if args.ct and len(paths) > 1:
        raise UsageError("--ct goes with one label map; give its scan alone.")
    output = Path(args.output) if args.output else None
    if output:
        files.check_output(output, overwrite=args.overwrite, inputs=tuple(paths))
    args.format = format_of(output, args.format)
    if args.format == "dicom-sr":
        return _report_sr(args, paths, output)
    if (args.with_identity or args.viewer) and args.format != "html":
        raise UsageError("--with-identity and --viewer are about a page: -o report.html.")
    if args.format not in (*reports.FORMATS, "fhir"):
        from segmate_cli.look import command

        return command.write(args, paths, output)
    if args.uid_root or args.reference_dicom:
        raise UsageError(
            "--uid-root and --reference-dicom are about a DICOM SR; ask for one with "
            "--format dicom-sr."
        )
    from segmate_cli.gating import report_tables

    return report_tables(args, paths, output)


def _report_sr(args: Namespace, paths: list[Path], output: Path | None) -> ExitCode:
    from segmate_cli import saving

    if output is None or len(paths) != 1:
        raise UsageError("a DICOM SR is of one label map, and a file; give -o sr.dcm.")
    saving.check_writer("seg")
    from segmate_cli.structured_report import SrOptions, report_as_sr

    options = SrOptions(
        table=args.table,
        ct=Path(args.ct) if args.ct else None,
        series=args.series,
        organs=args.organs,
        reference=Path(args.reference_dicom) if args.reference_dicom else None,
        uid_root=args.uid_root,
    )
    warnings = report_as_sr(paths[0], output, options)
    print(output)
    for warning in warnings:
        console.say(f"warning: {warning}")
    return ExitCode.DONE


def schema(args: Namespace) -> ExitCode:
    """``segmate schema``."""
    from segmate_cli.schemas import json_schema

    print(json.dumps(json_schema(args.name), indent=2))
    return ExitCode.DONE


def evaluate(args: Namespace) -> ExitCode:
    """``segmate evaluate``."""
    from segmate_cli import evaluation
    from segmate_cli.score_report import render_scores

    output = Path(args.output) if args.output else None
    if output:
        files.check_output(output, overwrite=args.overwrite)
    pairs, alone = evaluation.find_pairs(Path(args.predictions), Path(args.references))
    if alone:
        _say(args, f"without a partner, so not scored: {', '.join(alone)}")
    scores: list[evaluation.OrganScore] = []
    left_out: dict[str, list[str]] = {}
    with console.progress("none" if args.quiet else args.progress) as progress:
        for n, pair in enumerate(pairs, 1):
            found, missing = evaluation.evaluate_case(
                pair, args.table, args.organs, count_absent=args.count_absent
            )
            scores += found
            if missing:
                left_out[pair.case] = missing
            progress("evaluate", n, len(pairs))
    for case, organs in left_out.items():
        _say(args, f"{case}: not labelled in the reference, left out: {', '.join(organs)}")
    summaries = evaluation.summarise(scores)
    deliver(render_scores(scores, summaries, left_out, args.format), output)
    return ExitCode.DONE


def compare(args: Namespace) -> ExitCode:
    """``segmate compare``."""
    from segmate_cli.look import command

    return command.compare(args)


def cohort(args: Namespace) -> ExitCode:
    """``segmate cohort``."""
    from segmate_cli.look import command

    return command.cohort(args)


def inspect(args: Namespace) -> ExitCode:
    """``segmate inspect``."""
    from segmate_cli import inspection

    found = inspection.inspect_path(_place(args.path))
    if args.format == "json":
        print(json.dumps(found.data, indent=2))
    else:
        sys.stdout.write(found.text)
    return ExitCode.DONE


def dicom(args: Namespace) -> ExitCode:
    """``segmate dicom``."""
    from segmate_cli.dicom.check import check_file

    source = Path(args.reference_dicom) if args.reference_dicom else None
    checked = [check_file(Path(name), source) for name in args.files]
    if args.format == "json":
        print(json.dumps([each.as_dict() for each in checked], indent=2))
    else:
        sys.stdout.write("\n".join(each.as_text() for each in checked))
    return ExitCode.DONE if all(each.clean for each in checked) else ExitCode.REVIEW


def gates(args: Namespace) -> ExitCode:
    """``segmate gates``."""
    from segmate_cli.gating import list_gates

    return list_gates(args)


def models(args: Namespace) -> ExitCode:
    """``segmate models``."""
    from segmate_cli import bundle

    if args.action == "list":
        for folder in bundle.bundled_folders():
            manifest = bundle.open_bundle(folder).manifest
            marks = f"{manifest.version}  {len(manifest.organs)} organs"
            print(f"{folder.name}  {manifest.name} {marks}  {manifest.provenance.licence}")
        return ExitCode.DONE
    opened = bundle.open_bundle(args.model or bundle.DEFAULT_MODEL)
    if args.action == "verify":
        for network_file in opened.manifest.network.files:
            opened.read_network(network_file)
            print(f"{opened.location}  {network_file.file}  {network_file.sha256}  ok")
        return ExitCode.DONE
    shown = {"location": str(opened.location), **opened.manifest.model_dump(mode="json")}
    print(json.dumps(shown, indent=2))
    return ExitCode.DONE


def convert(args: Namespace) -> ExitCode:
    """``segmate convert``."""
    from segmate_cli.convert import convert_checkpoint

    written = convert_checkpoint(
        Path(args.checkpoint),
        Path(args.output),
        to=args.to,
        recipe=Path(args.recipe) if args.recipe else None,
        encoder=args.encoder,
        precision=args.precision,
        name=args.name,
        overwrite=args.overwrite,
    )
    print(written)
    return ExitCode.DONE


def doctor(args: Namespace) -> ExitCode:
    """``segmate doctor``."""
    import platform

    from segmate_cli import bundle, engines, sidecar

    free = memory.available_bytes()
    lines = {
        "segmate": __version__,
        "python": f"{sys.version.split()[0]} on {platform.platform()}",
        "processors": str(engines.usable_cpus()),
        "memory free": memory.human(free) if free else "unknown",
        "packages": ", ".join(f"{name} {v}" for name, v in sidecar.package_versions().items()),
    }
    for engine, installed in engines.engines_installed().items():
        cuda = ", with CUDA" if installed and engines.cuda_reachable(engine) else ""
        lines[f"engine {engine}"] = f"installed{cuda}" if installed else "not installed"
    for folder in bundle.bundled_folders():
        opened = bundle.open_bundle(folder)
        for network_file in opened.manifest.network.files:
            opened.read_network(network_file)
        lines[f"model {folder.name}"] = (
            f"{opened.manifest.name} {opened.manifest.version}, hashes ok"
        )
    for name, value in lines.items():
        print(f"{name + ':':<20} {value}")
    return ExitCode.DONE


def completion(args: Namespace) -> ExitCode:
    """``segmate completion``."""
    import shtab

    from segmate_cli.cli import build_parser

    print(shtab.complete(build_parser(), shell=args.shell))
    return ExitCode.DONE


def _place(given: str) -> Place:
    """A path, or the files that stdin names, one a line, where ``-`` was given."""
    if given != "-":
        return Path(given)
    paths = tuple(map(Path, _paths_from_stdin("- means a list of files on stdin; pipe it in.")))
    if len(paths) == 1:
        return paths[0]
    from segmate_cli.dicom.files import FileList

    return FileList(paths, "the list of files on stdin")


def _paths_from_stdin(absent: str = "give label maps, or pipe their paths in.") -> list[str]:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(absent)
    paths = [line.strip() for line in sys.stdin if line.strip()]
    if not paths:
        raise UsageError("no path came in through the pipe; did the command before it fail?")
    return paths


def _spare_pydicom(path: Place) -> None:
    """Where the scan is NIfTI, read it without pydicom."""
    from segmate_cli import nifti

    if isinstance(path, Path) and nifti.is_nifti_name(path):
        nifti.import_reader()


def _say(args: Namespace, message: str) -> None:
    if not args.quiet:
        console.say(message, style=args.progress)
