"""The commands: each takes its parsed options, calls the library, prints, returns an exit code.

stdout carries results alone (paths, tables, JSON); everything else goes to stderr.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

from segmate_cli import __version__, console, files, memory
from segmate_cli.errors import ExitCode, InputError, UsageError
from segmate_cli.given import paths_from_stdin, place_of, scan_finder
from segmate_cli.outputs import deliver, format_of, style_of
from segmate_cli.starting import engine_options, start_loading_of


def predict(args: Namespace) -> ExitCode:
    """``segmate predict``."""
    from segmate_cli import predicting

    return predicting.run(args)


def plan(args: Namespace) -> ExitCode:
    """``segmate plan``."""
    from segmate_cli import pipeline
    from segmate_cli.plan import as_text

    options = pipeline.PredictOptions(**engine_options(args))
    path = place_of(args.scan)
    loading = start_loading_of(args)
    find = scan_finder(args, path)
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


def report(args: Namespace) -> ExitCode:
    """``segmate report``."""
    from segmate_cli import report as reports

    names = args.labels if args.labels not in ([], ["-"]) else paths_from_stdin()
    paths = [Path(name) for name in names]
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

    tell = partial(console.say, style=args.progress)
    say = partial(tell, quiet=args.quiet)
    output = Path(args.output) if args.output else None
    if output:
        files.check_output(output, overwrite=args.overwrite)
    style = style_of(output, args.format)
    pairs, alone = evaluation.find_pairs(Path(args.predictions), Path(args.references))
    if alone:
        say(f"without a partner, so not scored: {', '.join(alone)}")
    scores: list[evaluation.OrganScore] = []
    left_out: dict[str, list[str]] = {}

    def score(pair: evaluation.CasePair) -> None:
        found, missing = evaluation.evaluate_case(
            pair, args.table, args.organs, count_absent=args.count_absent
        )
        scores.extend(found)
        if missing:
            left_out[pair.case] = missing

    with console.progress("none" if args.quiet else args.progress) as progress:
        done, code = evaluation.in_turn(pairs, score, tell, partial(progress, "evaluate"))
    if not done:
        return code
    for case, organs in left_out.items():
        say(f"{case}: not labelled in the reference, left out: {', '.join(organs)}")
    if not scores:
        raise InputError("nothing to score: no organ of a prediction is labelled in its reference.")
    summaries = evaluation.summarise(scores)
    deliver(render_scores(scores, summaries, left_out, style), output)
    return code


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

    found = inspection.inspect_path(place_of(args.path))
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

    from segmate_cli import bundle, engines, sessions, sidecar

    free = memory.available_bytes()
    lines = {
        "segmate": __version__,
        "python": f"{sys.version.split()[0]} on {platform.platform()}",
        "processors": str(sessions.usable_cpus()),
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

    from segmate_cli.options import build_parser

    print(shtab.complete(build_parser(), shell=args.shell))
    return ExitCode.DONE
