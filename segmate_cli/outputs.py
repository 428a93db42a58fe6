"""Where a result goes: to stdout, or into a file whose suffix may say what it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from segmate_cli import files
from segmate_cli.errors import UsageError

_SUFFIXES = ("html", "png", "glb", "stl", "csv", "tsv", "json")
# No text: who gives one of these wants something that is not made of this, or has to be asked for.
_FOREIGN = ("dcm", "nii", "gz", "xlsx", "xls", "parquet", "jpg", "jpeg", "svg", "docx")
_OTHERS = "-o with .csv, .tsv or .json, or no suffix for a table"


def deliver(text: str, output: Path | None) -> None:
    """A result to stdout, or to a file whose path then goes to stdout."""
    if output:
        files.write_text(output, text)
        print(output)
    else:
        sys.stdout.write(text)


def format_of(output: Path | None, given: str | None = None, *, pages: bool = True) -> str:
    """What is to be written: as ``--format`` says, else as the output's suffix does.

    Args:
        output: The file; None for stdout.
        given: Of ``--format``.
        pages: Whether there is a page of this that could be printed.

    Raises:
        UsageError: A suffix that would promise what is not written.
    """
    suffix = output.suffix.lower().lstrip(".") if output else ""
    if output and suffix == "pdf":
        page = output.with_suffix(".html").name
        remedy = (
            f"write a page, -o {page}, and print it, from a browser or by 'chromium --headless "
            f"--no-pdf-header-footer --print-to-pdf={output.name} {page}'"
        )
        raise UsageError(f"{output}: segmate writes no PDF; {remedy if pages else _OTHERS}.")
    if given:
        return given
    if suffix in _FOREIGN:
        raise UsageError(
            f"{output}: the suffix says something else than what would be written, a table; say "
            "with --format what it is to be, or give another name."
        )
    return suffix if suffix in _SUFFIXES else "table"


def style_of(output: Path | None, given: str | None, *more: str) -> Any:
    """As ``format_of``, where a table can be had, or one of some more formats.

    Raises:
        UsageError: Another format, as the output's suffix says.
    """
    from segmate_cli.report import FORMATS  # numpy: not for --help

    style = format_of(output, given, pages="html" in more)
    there = (*FORMATS, *more)
    if style not in there:
        raise UsageError(f"no {style} is made of this; there is {', '.join(there)}.")
    return style
