"""Files: written so that nobody ever meets half of one, hashed, and found below a folder."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from segmate_cli.errors import OutputError, OutputExistsError

_CHUNK = 1 << 20


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; a name too long for the system is simply not."""
    return os.path.exists(path)  # pathlib raises where the name is too long


def files_below(folder: Path | str) -> Iterator[str]:
    """Paths of all files below a folder, in a fixed order; follows links, each folder once."""
    seen: set[tuple[int, int]] = set()
    for here, below, names in os.walk(folder, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen and status.st_ino != 0:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below.sort()
        for name in sorted(names):
            yield os.path.join(here, name)


def folder_for_large_ones(results: Path) -> Path | None:
    """Where large temporary files go: beside the results, or where TMPDIR says (None).

    The system's own folder is often small, or in memory.
    """
    return None if os.environ.get("TMPDIR") else results


def ensure_temporary_folder(folder: Path) -> None:
    """Have temporary files go to a folder where the system has no place for them.

    In a container with a read-only root the folder of the results may be all that can be written
    to. Processes started later know, too.
    """
    import tempfile

    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        os.environ["TMPDIR"] = os.path.abspath(folder)


def check_output(path: Path, *, overwrite: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Raises:
        OutputExistsError: It is there already and may not be overwritten.
        OutputError: Its folder is missing or not writable, or it is one of the inputs.
    """
    try:
        path.absolute()
        _check_name(path, overwrite=overwrite, inputs=inputs)
    except OSError as error:  # too long a name, a folder that is gone or may not be looked into
        raise OutputError(_why_not(path, error)) from error
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{folder}: there is no such folder; make it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: no permission to write there.")


def _check_name(path: Path, *, overwrite: bool, inputs: tuple[Path, ...]) -> None:
    if any(path.exists() and given.exists() and path.samefile(given) for given in inputs):
        raise OutputError(f"{path}: the output is the input itself; give another name.")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the name of a file.")
    if path.exists() and not path.is_file():
        # Renaming over /dev/null would replace it, for everybody.
        raise OutputError(f"{path} is a device or pipe; give the name of a file.")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists; give another name or --overwrite.")


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only when it is whole.

    Raises:
        OutputError: No space, no permission, or another failure of the file system.
    """
    # A name has at most 255 bytes, a letter up to 4.
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}.part")
    try:
        try:
            with temporary.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(_why_not(path, error)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with write_atomically(path) as stream:
        stream.write(storable(text).encode())


def storable(text: str) -> str:
    """A path or message as any file can hold it: a byte that is no UTF-8 becomes its number."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def sha256_of_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _why_not(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path}: the disk is full; free some space. Nothing was left behind."
    reason = error.strerror or str(error)
    return f"{path}: cannot be written ({reason}); choose a place that can be written to."
