"""Where a result goes: to stdout, or into a file whose suffix may say what it is."""

from __future__ import annotations

import sys
from pathlib import Path

from segmate_cli import files

_SUFFIXES = ("html", "png", "glb", "stl", "csv", "tsv", "json")


def deliver(text: str, output: Path | None) -> None:
    """A result to stdout, or to a file whose path then goes to stdout."""
    if output:
        files.write_text(output, text)
        print(output)
    else:
        sys.stdout.write(text)


def format_of(output: Path | None) -> str:
    """What an output's suffix asks for, where ``--format`` does not say."""
    suffix = output.suffix.lower().lstrip(".") if output else ""
    return suffix if suffix in _SUFFIXES else "table"
