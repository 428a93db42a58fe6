"""The standard streams, fit for names of files in any bytes and for callers that closed some."""

from __future__ import annotations

import codecs
import os
import sys
from io import TextIOWrapper

_ERRORS = "segmate-as-bytes"


def open_streams() -> None:
    """Have the three standard streams open, and stdin and stdout take every name that a file has.

    A file opened where a stream was closed would take its number, and then what is printed. Names
    that the streams' encoding lacks go in and out as the file system has them, so that what one
    command prints the next one finds.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    codecs.register_error(_ERRORS, _as_bytes)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors=_ERRORS)
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def _as_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return os.fsencode(error.object[error.start : error.end]), error.end
