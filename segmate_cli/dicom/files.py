"""Files as an archive delivers them: a folder, one file, a list of files, a .zip or .tar in place.

Nothing here knows DICOM. Every entry is either offered by name or skipped with a reason, so that
a caller can account for all of them.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeAlias

from segmate_cli.dicom import archives
from segmate_cli.dicom.archives import Archive, TarArchive, ZipArchive, printable, unique_name
from segmate_cli.errors import InputError, UnreadableError
from segmate_cli.files import files_below

_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_GZIP_MAGIC = b"\x1f\x8b"
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257
_TAR_BLOCK = 512


@dataclass(frozen=True, slots=True)
class FileList:
    """Files that were named one by one, in place of a folder.

    Attributes:
        paths: The files.
        name: What messages call them.
    """

    paths: tuple[Path, ...]
    name: str = "the list of files"

    def __str__(self) -> str:
        return self.name


Place: TypeAlias = Path | FileList


@dataclass(frozen=True, slots=True)
class FileStore:
    """Named byte streams under one path; use as a context manager.

    Attributes:
        path: What was given.
        archive: Opens them.
    """

    path: Place
    archive: Archive

    @property
    def names(self) -> tuple[str, ...]:
        """Safe to print; unique; relative to ``path``, or the file's own name."""
        return self.archive.names

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(name, reason) of entries that are never opened."""
        return self.archive.skipped

    def __enter__(self) -> FileStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.archive.close()

    def open(self, name: str) -> BinaryIO:
        """Open one of ``names`` for reading; safe to call from several threads.

        Raises:
            OSError, zipfile.BadZipFile, zlib.error, NotImplementedError: it cannot be opened.
        """
        return self.archive.open(name)

    def size(self, name: str) -> int:
        """Bytes of one of ``names``, uncompressed."""
        return self.archive.size(name)


class _Files:
    """Files of the file system as an Archive."""

    def __init__(self, places: dict[str, str], skipped: Iterable[tuple[str, str]] = ()) -> None:
        self._places = places
        self.names, self.skipped = tuple(places), tuple(skipped)

    def open(self, name: str) -> BinaryIO:
        """See Archive."""
        return open(self._places[name], "rb")

    def size(self, name: str) -> int:
        """See Archive."""
        return os.stat(self._places[name]).st_size

    def close(self) -> None:
        """See Archive."""


def open_store(path: Place) -> FileStore:
    """List what ``path`` holds: a folder and all below it, a .zip or .tar, one file, or a list.

    Raises:
        UnreadableError: ``path`` does not exist, is empty or cannot be opened.
        InputError: an archive that is encrypted, too large or leads out of itself; too many files.
    """
    if isinstance(path, FileList):
        return FileStore(path, _list_of(path, ((str(each), str(each)) for each in path.paths)))
    try:
        if path.is_dir():
            return FileStore(path, _folder(path))
        if not path.exists():
            raise UnreadableError(f"{path} does not exist; check the path.")
        if not path.is_file():
            raise UnreadableError(f"{path} is neither a file nor a folder.")
        with path.open("rb") as file:
            start = file.read(_TAR_BLOCK)
        if not start:
            raise UnreadableError(f"{path} is empty (0 bytes); copy it again.")
        return FileStore(path, _archive_of(path, start))
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
        raise UnreadableError(f"{path}: {reason}; check the path and its permissions.") from error


def _archive_of(path: Path, start: bytes) -> Archive:
    """One file, by its first bytes."""
    # The preamble of a DICOM file may hold anything, so its own mark counts first.
    if start[128:132] != b"DICM":
        if start[:4] in _ZIP_MAGIC:
            return ZipArchive(path)
        packed = start[:2] == _GZIP_MAGIC
        if _starts_tar(_inflated(path) if packed else start):
            return TarArchive(path, packed=packed)
    return _Files({printable(path.name): str(path)})


def _starts_tar(start: bytes) -> bool:
    return start[_TAR_MAGIC_AT : _TAR_MAGIC_AT + len(_TAR_MAGIC)] == _TAR_MAGIC


def _inflated(path: Path) -> bytes:
    """The first bytes of what a gzip file holds; b"" where it is damaged."""
    with path.open("rb") as file:
        try:
            return zlib.decompressobj(31).decompress(file.read(1 << 16), _TAR_BLOCK)
        except zlib.error:
            return b""


def _folder(path: Path) -> _Files:
    below = files_below(path)
    found = ((os.path.relpath(each, path).replace(os.sep, "/"), each) for each in below)
    return _list_of(path, found)


def _list_of(path: Place, found: Iterable[tuple[str, str]]) -> _Files:
    """Files that can be opened, by name; the others with a reason."""
    places: dict[str, str] = {}
    skipped: list[tuple[str, str]] = []
    seen: dict[tuple[int, int], str] = {}
    for given, place in found:
        name = unique_name(given, places)
        reason = _why_not_open(place, name, seen)
        if reason is not None:
            skipped.append((name, reason))
            continue
        places[name] = place
        if len(places) > archives.MAX_FILES:
            raise InputError(
                f"{path} holds more than {archives.MAX_FILES} files; give those of one study."
            )
    return _Files(places, skipped)


def _why_not_open(place: str, name: str, seen: dict[tuple[int, int], str]) -> str | None:
    """Reason to leave a file closed: opening a pipe would hang, a second link doubles a slice."""
    try:
        status = os.stat(place)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_size == 0:
        return "empty"
    first = seen.setdefault((status.st_dev, status.st_ino), name)
    # Some network file systems have no inode numbers.
    if first != name and status.st_ino != 0:
        return f"the same file as {first}"
    return None
