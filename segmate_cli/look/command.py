"""``segmate report`` into files that people look at: by the output's suffix, or by ``--format``."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from segmate_cli import files
from segmate_cli.errors import UsageError
from segmate_cli.look.content import Content, Source, gather
from segmate_cli.look.tiles import check_libraries


def write(args: Namespace, paths: list[Path], output: Path | None, kind: str) -> Path:
    """Write what ``kind`` names of one label map; gives the file's path.

    Raises:
        UsageError: Several label maps, no output, or an option that does not fit.
        EngineMissingError: What draws is not installed.
        InputError: A file that cannot be read.
        OutputError: The output cannot be written.
    """
    if output is None or len(paths) != 1:
        raise UsageError(f"{kind} is of one label map, and a file; give -o report.{kind}.")
    check_libraries()
    content = gather(
        Source(
            labels=paths[0],
            table=args.table,
            ct=Path(args.ct) if args.ct else None,
            series=args.series,
            organs=args.organs,
        )
    )
    if kind == "png":
        from segmate_cli.look.montage import render_montage

        data = render_montage(content)
    else:
        from segmate_cli.look.page import render_page

        identity = _identity(content) if args.with_identity else []
        data = render_page(content, identity).encode()
    with files.write_atomically(output) as stream:
        stream.write(data)
    return output


def _identity(content: Content) -> list[tuple[str, str]]:
    from segmate_cli.volume import DicomSource

    if content.scan is None or not isinstance(content.scan.source, DicomSource):
        raise UsageError("--with-identity repeats what a DICOM series says; give it with --ct.")
    from segmate_cli.dicom.reference import SegOptions, reference_for
    from segmate_cli.dicom.subject import identity_of

    return identity_of(reference_for(content.geometry, content.scan.source, SegOptions()))
