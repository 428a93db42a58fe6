"""What a command is given to work on: a path, or files that stdin names."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from segmate_cli.errors import UsageError

if TYPE_CHECKING:
    from segmate_cli.dicom.files import Place
    from segmate_cli.volume import Scan


def place_of(given: str) -> Place:
    """A path, or the files that stdin names, one a line, where ``-`` was given.

    Raises:
        UsageError: As ``paths_from_stdin``.
    """
    if given != "-":
        return Path(given)
    paths = tuple(map(Path, paths_from_stdin("- means a list of files on stdin; pipe it in.")))
    if len(paths) == 1:
        return paths[0]
    from segmate_cli.dicom.files import FileList

    return FileList(paths, "the list of files on stdin")


def paths_from_stdin(absent: str = "give label maps, or pipe their paths in.") -> list[str]:
    """The paths that stdin names, one a line; `absent` says what to do where nothing is piped.

    Raises:
        UsageError: stdin is a terminal, or names no path.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(absent)
    paths = [line.strip() for line in sys.stdin if line.strip()]
    if not paths:
        raise UsageError("no path came in through the pipe; did the command before it fail?")
    return paths


def scan_finder(args: Namespace, path: Place) -> Callable[[], Scan]:
    """What finds the scan at a path, as the options say how; errors as ``scans.find_scan``."""
    from segmate_cli import nifti, scans

    if isinstance(path, Path) and nifti.is_nifti_name(path):
        nifti.import_reader()  # without pydicom

    def find() -> Scan:
        return scans.find_scan(path, series=args.series, assume_ras=args.assume_ras)

    return find
