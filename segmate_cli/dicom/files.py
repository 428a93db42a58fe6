"""Files as an archive delivers them: a folder, one file, or a .zip that is read in place.

Nothing here knows DICOM. Every entry is either offered by name or skipped with a reason, so that
a caller can account for all of them. A zip is bounded before anything of it is read, and nothing
is ever written to disk.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from segmate_cli.errors import InputError, UnreadableError

# A large study has some 10 000 slices; more is a whole archive, or the wrong folder.
MAX_FILES = 100_000
# 10 000 slices of 512 x 512 are 5 GB; a multi-frame object of 2 000 is 1 GB.
MAX_ZIP_BYTES = 16 << 30
MAX_FILE_BYTES = 2 << 30
# Noise keeps a real CT under 10:1. A phantom of constants reaches 1000:1, so small ones pass.
MAX_ZIP_RATIO = 200
_RATIO_MATTERS_BYTES = 64 << 20

_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_PREAMBLE_BYTES = 132
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_ENCRYPTED = 0x1


@dataclass(slots=True)
class FileStore:
    """Named byte streams under one path; use as a context manager.

    Attributes:
        path: What was given.
        names: Safe to print; unique; relative to ``path``, or the file's own name.
        skipped: (name, reason) of entries that are never opened.
        archive: The open zip, or None.
    """

    path: Path
    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    archive: zipfile.ZipFile | None = None
    _places: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> FileStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.archive is not None:
            self.archive.close()

    def open(self, name: str) -> BinaryIO:
        """Open one of ``names`` for reading; safe to call from several threads.

        Raises:
            OSError, zipfile.BadZipFile, NotImplementedError: the file cannot be opened.
        """
        if self.archive is not None:
            return cast(BinaryIO, self.archive.open(self._places[name]))
        return Path(self._places[name]).open("rb")

    def size(self, name: str) -> int:
        """Bytes of one of ``names``, uncompressed."""
        if self.archive is not None:
            return self.archive.getinfo(self._places[name]).file_size
        return Path(self._places[name]).stat().st_size


def open_store(path: Path) -> FileStore:
    """List what ``path`` holds: a folder and all below it, a .zip, or one file.

    Raises:
        UnreadableError: ``path`` does not exist, is empty or cannot be opened.
        InputError: a zip that is encrypted, too large or leads out of itself; too many files.
    """
    try:
        if path.is_dir():
            return _open_folder(path)
        if not path.exists():
            raise UnreadableError(f"{path} does not exist; check the path.")
        if not path.is_file():
            raise UnreadableError(f"{path} is neither a file nor a folder.")
        with path.open("rb") as file:
            start = file.read(_PREAMBLE_BYTES)
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
        raise UnreadableError(f"{path}: {reason}; check the path and its permissions.") from error
    if not start:
        raise UnreadableError(f"{path} is empty (0 bytes); copy it again.")
    # The preamble of a DICOM file may hold anything, so its own mark counts first.
    if start[:4] in _ZIP_MAGIC and start[128:132] != b"DICM":
        return _open_zip(path)
    return FileStore(path, (printable(path.name),), (), None, {printable(path.name): str(path)})


def printable(text: str, most: int = 256) -> str:
    """Text without control characters, line breaks or broken code points, cut to ``most``."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    clean = "".join(mark if mark.isprintable() else "?" for mark in clean)
    return clean if len(clean) <= most else clean[: most - 3] + "..."


def _open_folder(path: Path) -> FileStore:
    places: dict[str, str] = {}
    skipped: list[tuple[str, str]] = []
    seen: dict[tuple[int, int], str] = {}
    for place in _walk(path):
        name = _unique(os.path.relpath(place, path).replace(os.sep, "/"), places)
        reason = _why_not_open(place, name, seen)
        if reason is not None:
            skipped.append((name, reason))
            continue
        places[name] = place
        if len(places) > MAX_FILES:
            raise InputError(
                f"{path} holds more than {MAX_FILES} files; give the folder of one study."
            )
    return FileStore(path, tuple(places), tuple(skipped), None, places)


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


def _walk(path: Path) -> Iterator[str]:
    """All files below ``path`` in a fixed order; follows links to folders, each folder once."""
    seen: set[tuple[int, int]] = set()
    for folder, below, files in os.walk(path, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen and status.st_ino != 0:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below.sort()
        for name in sorted(files):
            yield os.path.join(folder, name)


def _unique(name: str, taken: dict[str, str]) -> str:
    name = printable(name)
    if name not in taken:
        return name
    return next(f"{name}~{n}" for n in range(2, len(taken) + 3) if f"{name}~{n}" not in taken)


def _open_zip(path: Path) -> FileStore:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise UnreadableError(
            f"{path} starts like a .zip but its list of members is damaged or cut off; "
            "copy or export it again."
        ) from error
    try:
        _check_zip(path, archive.infolist())
        return _store_of_zip(path, archive)
    except InputError:
        archive.close()
        raise


def _store_of_zip(path: Path, archive: zipfile.ZipFile) -> FileStore:
    places: dict[str, str] = {}
    skipped: list[tuple[str, str]] = []
    for member in archive.infolist():
        if member.is_dir():
            continue
        name = _unique(member.filename, places)
        if member.filename in places.values():
            skipped.append((name, "a second member of the same name"))
        elif member.file_size == 0:
            skipped.append((name, "empty"))
        else:
            places[name] = member.filename
    return FileStore(path, tuple(places), tuple(skipped), archive, places)


def _check_zip(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive that could harm, before any member is read."""
    if len(members) > MAX_FILES:
        raise InputError(f"{path} holds more than {MAX_FILES} members; zip one study alone.")
    for member in members:
        name = printable(member.filename)
        if _leads_out(member.filename) or _leads_out(member.orig_filename):
            raise InputError(f"{path}: member {name} leads out of the archive; not read.")
        if member.flag_bits & _ENCRYPTED:
            raise InputError(f"{path}: member {name} is encrypted; unpack it and give the folder.")
        if member.compress_type not in _METHODS:
            raise InputError(
                f"{path}: member {name} is packed by method {member.compress_type}, segmate reads "
                "stored and deflated ones; unpack it and give the folder."
            )
        if member.file_size > MAX_FILE_BYTES:
            raise InputError(f"{path}: member {name} unpacks to {_gb(member.file_size)}; refused.")
    total = sum(member.file_size for member in members)
    packed = max(1, sum(member.compress_size for member in members))
    if total > MAX_ZIP_BYTES:
        raise InputError(
            f"{path} unpacks to {_gb(total)}, more than {_gb(MAX_ZIP_BYTES)}; zip one study alone."
        )
    if total > _RATIO_MATTERS_BYTES and total / packed > MAX_ZIP_RATIO:
        raise InputError(
            f"{path} unpacks to {_gb(total)}, {total / packed:.0f} times its size, as no CT does; "
            "if you trust it, unpack it and give the folder."
        )


def _leads_out(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return ".." in parts or parts[0] == "" or re.match(r"[A-Za-z]:", name) is not None


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
