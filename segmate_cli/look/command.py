"""Commands whose results people look at: ``report`` into pages, ``compare``, ``cohort``."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path

from segmate_cli import console, files
from segmate_cli.errors import ExitCode, InputError, UsageError
from segmate_cli.gate_options import rules_of
from segmate_cli.gating import tell
from segmate_cli.look.content import Content, Source, gather, look_at
from segmate_cli.look.tiles import check_libraries
from segmate_cli.outputs import deliver, style_of


def write(args: Namespace, paths: list[Path], output: Path | None) -> ExitCode:
    """Write what ``args.format`` names of one label map, print its path, tell the verdict.

    Raises:
        UsageError: Several label maps, no output, or an option that does not fit.
        EngineMissingError: What draws is not installed.
        InputError: A file that cannot be read.
        OutputError: The output cannot be written.
    """
    kind = args.format
    if output is None or len(paths) != 1:
        raise UsageError(f"{kind} is of one label map, and a file; give -o report.{kind}.")
    source = Source(
        labels=paths[0],
        table=args.table,
        ct=Path(args.ct) if args.ct else None,
        series=args.series,
        organs=args.organs,
        rules=rules_of(args),
        solid=args.viewer,
    )
    if kind in ("glb", "stl"):
        _write_meshes(source, output, kind)
        return ExitCode.DONE
    check_libraries()
    content = gather(source)
    if kind == "png":
        from segmate_cli.look.montage import render_montage

        data = render_montage(content)
    else:
        from segmate_cli.look.page import render_page

        data = render_page(content, _identity(content) if args.with_identity else []).encode()
    _write(output, data)
    verdict = content.found.measured.verdict
    return tell(args, {str(paths[0]): verdict} if verdict else {})


def _write(output: Path, data: bytes) -> None:
    with files.write_atomically(output) as stream:
        stream.write(data)
    print(output)


def _write_meshes(source: Source, output: Path, kind: str) -> None:
    from segmate_cli.look import meshes

    meshes.check_libraries()
    labels, found = look_at(source)
    _write(output, meshes.as_file(meshes.make_meshes(labels, found), kind))


def _identity(content: Content) -> list[tuple[str, str]]:
    from segmate_cli.volume import DicomSource

    if content.scan is None or not isinstance(content.scan.source, DicomSource):
        raise UsageError("--with-identity repeats what a DICOM series says; give it with --ct.")
    from segmate_cli.dicom.reference import SegOptions, reference_for
    from segmate_cli.dicom.subject import identity_of

    return identity_of(reference_for(content.geometry, content.scan.source, SegOptions()))


def compare(args: Namespace) -> ExitCode:
    """``segmate compare``."""
    from segmate_cli import comparison, evaluation
    from segmate_cli.comparison_report import render_comparison

    output = Path(args.output) if args.output else None
    if output:
        files.check_output(output, overwrite=args.overwrite)
    style = style_of(output, args.format)
    pairs, alone = evaluation.find_pairs(Path(args.a), Path(args.b))
    tell = partial(console.say, style=args.progress)
    if alone:
        tell(f"in one of them alone, so not compared: {', '.join(alone)}", quiet=args.quiet)
    work = partial(comparison.compare_case, table=args.table, wanted=args.organs)
    with console.progress("none" if args.quiet else args.progress) as progress:
        found, code = evaluation.in_turn(pairs, work, tell, partial(progress, "compare"))
    if found:
        deliver(render_comparison(found, style), output)
    return code


def cohort(args: Namespace) -> ExitCode:
    """``segmate cohort``."""
    from segmate_cli import cohort as cohorts
    from segmate_cli.batch import records
    from segmate_cli.cohort_report import render_cohort

    output = Path(args.output) if args.output else None
    if output:
        files.check_output(output, overwrite=args.overwrite)
    style = style_of(output, args.format, "html")
    if style == "html" and output is None:
        raise UsageError("a page is a file; give -o cohort.html.")
    given = [Path(name) for name in (args.out, args.reference) if name]
    for folder in given:
        if not any(True for _ in records.all_records(folder)):
            raise InputError(f"{folder}: no case of a batch lies there; give batch's -o folder.")
    found = cohorts.summarise(*(records.all_records(folder) for folder in given))
    if style == "html" and output is not None:
        from segmate_cli.look.cohort_page import render_cohort_page

        check_libraries()
        reference = given[1] if len(given) > 1 else None
        deliver(render_cohort_page(found, given[0], output, reference), output)
    else:
        deliver(render_cohort(found, style), output)
    return ExitCode.DONE
