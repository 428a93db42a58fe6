"""Members of a .zip, .tar or .tar.gz, read in place, within bounds.

An archive is checked before a member is read, and nothing is ever written to disk: names that lead
out of it, links, devices, encryption, and what unpacks to more than a CT can be are refused.
"""

from __future__ import annotations

import bisect
import io
import re
import tarfile
import threading
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from segmate_cli.errors import InputError, UnreadableError

# A large study has some 10 000 slices; more is a whole archive, or the wrong folder.
MAX_FILES = 100_000
# 10 000 slices of 512 x 512 are 5 GB; a multi-frame object of 2 000 is 1 GB.
MAX_UNPACKED_BYTES = 16 << 30
MAX_FILE_BYTES = 2 << 30
# Noise keeps a real CT under 10:1. A phantom of constants reaches 1000:1, so small ones pass.
MAX_RATIO = 200
RATIO_MATTERS_BYTES = 64 << 20

_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_ENCRYPTED = 0x1
_BLOCK = 1 << 16
# A place to go on from takes some 45 kB; to reach it again, this much is inflated (10 ms).
_CHECKPOINT_BYTES = 2 << 20
# Headers of tar, long names included, are short; only a bomb's are not.
_LONGEST_TAR_HEADER = 1 << 20
# A slice is taken out of a .tar.gz as a whole, since going back in it is slow.
_WHOLE_MEMBER_BYTES = 64 << 20
_DAMAGED_TAR = (tarfile.TarError, EOFError, OSError, ValueError, RuntimeError, zlib.error)


class Archive(Protocol):
    """Named byte streams; safe to use from several threads.

    Attributes:
        names: Safe to print; unique.
        skipped: (name, reason) of members that are never opened.
    """

    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]

    def open(self, name: str) -> BinaryIO:
        """Open one of ``names`` for reading."""

    def size(self, name: str) -> int:
        """Bytes of one of ``names``, uncompressed."""

    def close(self) -> None:
        """Let go of the file."""


def printable(text: str, most: int = 256) -> str:
    """Text without control characters, line breaks or broken code points, cut to ``most``."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    clean = "".join(mark if mark.isprintable() else "?" for mark in clean)
    return clean if len(clean) <= most else clean[: most - 3] + "..."


def unique_name(name: str, taken: dict[str, str]) -> str:
    """A printable name that is none of the keys of ``taken``."""
    name = printable(name)
    if name not in taken:
        return name
    return next(f"{name}~{n}" for n in range(2, len(taken) + 3) if f"{name}~{n}" not in taken)


class ZipArchive:
    """A .zip.

    Raises:
        UnreadableError: Its list of members is damaged.
        InputError: It is encrypted, too large, or leads out of itself.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
            raise _damaged(path, "a .zip but its list of members is damaged") from error
        try:
            _check_zip(path, self._zip.infolist())
        except InputError:
            self._zip.close()
            raise
        self._members: dict[str, str] = {}
        skipped: list[tuple[str, str]] = []
        for member in self._zip.infolist():
            if member.is_dir():
                continue
            name = unique_name(member.filename, self._members)
            if member.filename in self._members.values():
                skipped.append((name, "a second member of the same name"))
            elif member.file_size == 0:
                skipped.append((name, "empty"))
            else:
                self._members[name] = member.filename
        self.names, self.skipped = tuple(self._members), tuple(skipped)

    def open(self, name: str) -> BinaryIO:
        """See Archive."""
        return cast(BinaryIO, self._zip.open(self._members[name]))

    def size(self, name: str) -> int:
        """See Archive."""
        return self._zip.getinfo(self._members[name]).file_size

    def close(self) -> None:
        """See Archive."""
        self._zip.close()


class TarArchive:
    """A .tar or .tar.gz.

    Raises:
        UnreadableError: It is damaged or cut off.
        InputError: It is too large, leads out of itself, or holds links or devices.
    """

    def __init__(self, path: Path, *, packed: bool) -> None:
        self._file = path.open("rb")
        self._packed = packed
        self._stream: io.RawIOBase | BinaryIO = self._file
        if packed:
            self._stream = _SeekableGzip(path, self._file)
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}
        self._skipped: list[tuple[str, str]] = []
        try:
            self._list(path)
        except InputError:
            self._file.close()
            raise
        except _DAMAGED_TAR as error:
            self._file.close()
            raise _damaged(path, "a .tar but is damaged") from error
        self.names, self.skipped = tuple(self._places), tuple(self._skipped)

    def _list(self, path: Path) -> None:
        total, count, last = 0, 0, -1
        taken: dict[str, str] = {}
        with tarfile.open(fileobj=cast(BinaryIO, _TarHeaders(self._stream)), mode="r:") as archive:
            for member in archive:
                count += 1
                # A negative size would bring the reader back to the same header for ever.
                if member.size < 0 or member.offset <= last:
                    raise ValueError("a member has a negative size")
                last = member.offset
                _check_tar_member(path, member, count)
                if not member.isreg():
                    continue
                name = unique_name(member.name, taken)
                taken[name] = ""
                total += member.size
                _check_total(path, total)
                if member.size == 0:
                    self._skipped.append((name, "empty"))
                else:
                    self._places[name] = (member.offset_data, member.size)
        if count == 0:
            raise ValueError("no member")

    def open(self, name: str) -> BinaryIO:
        """See Archive."""
        start, size = self._places[name]
        window = _Window(self._stream, self._lock, start, size)
        if self._packed and size <= _WHOLE_MEMBER_BYTES:
            return io.BytesIO(window.take(size))
        return cast(BinaryIO, io.BufferedReader(window, _BLOCK))

    def size(self, name: str) -> int:
        """See Archive."""
        return self._places[name][1]

    def close(self) -> None:
        """See Archive."""
        self._file.close()


def _read_all_of(stream: io.RawIOBase | BinaryIO, count: int) -> bytes:
    """The next bytes of a stream that may give fewer at once; fewer only where it ends."""
    parts: list[bytes] = []
    while count > 0 and (part := stream.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


class _Window(io.RawIOBase):
    """A part of a stream that others read, too."""

    def __init__(
        self, stream: io.RawIOBase | BinaryIO, lock: threading.Lock, start: int, size: int
    ) -> None:
        self._stream, self._lock, self._start, self._size = stream, lock, start, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        value = self.take(min(len(buffer), max(0, self._size - self._at)))
        buffer[: len(value)] = value
        return len(value)

    def take(self, count: int) -> bytes:
        """The next bytes; fewer only where the archive ends."""
        with self._lock:
            self._stream.seek(self._start + self._at)
            value = _read_all_of(self._stream, count)
        self._at += len(value)
        return value


class _TarHeaders:
    """What `tarfile` reads headers from; it would believe any length that a header states."""

    def __init__(self, stream: io.RawIOBase | BinaryIO) -> None:
        self._stream = stream
        self.tell = stream.tell
        self.seek = stream.seek

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _LONGEST_TAR_HEADER:
            raise ValueError("a header is absurdly long")
        return _read_all_of(self._stream, count)


class _SeekableGzip(io.RawIOBase):
    """The content of a gzip file, in any order, without unpacking it to anywhere.

    On the way forward it keeps copies of the inflater's state, from which it goes on later.

    Raises:
        InputError: While reading: it unpacks to too much.
        EOFError, zlib.error: While reading: it is cut off or damaged.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._at, self._pending, self._inflater = 0, b"", zlib.decompressobj(31)
        self._points = [(0, 0, self._inflater.copy())]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise ValueError("only from the start")
        nearest = bisect.bisect_right(self._points, offset, key=lambda point: point[0]) - 1
        at, place, inflater = self._points[nearest]
        if offset < self._at or at > self._at:
            self._file.seek(place)
            self._at, self._pending, self._inflater = at, b"", inflater.copy()
        while self._at < offset and self._inflate(min(_CHECKPOINT_BYTES, offset - self._at)):
            pass
        return self._at

    def read(self, count: int = -1) -> bytes:
        """Up to ``count`` bytes; b"" at the end alone."""
        return self._inflate(count if count >= 0 else _CHECKPOINT_BYTES)

    def _inflate(self, most: int) -> bytes:
        value = b""
        while most and not value:
            packed = self._pending or self._file.read(_BLOCK)
            value = self._inflater.decompress(packed, most)
            self._pending = self._inflater.unconsumed_tail
            if self._inflater.eof:
                # Several gzip files may follow each other; zeros may fill the end.
                self._pending = self._inflater.unused_data.lstrip(b"\0") or self._file.read(_BLOCK)
                if not self._pending.strip(b"\0"):
                    break
                self._inflater = zlib.decompressobj(31)
            elif not packed and not value:
                raise EOFError
        self._at += len(value)
        self._note()
        return value

    def _note(self) -> None:
        """Check what came so far, and keep this place every few megabytes."""
        if self._at < self._points[-1][0] + _CHECKPOINT_BYTES:
            return
        place = self._file.tell() - len(self._pending)
        _check_total(self._path, self._at)
        _check_ratio(self._path, self._at, place)
        self._points.append((self._at, place, self._inflater.copy()))


def _damaged(path: Path, what: str) -> UnreadableError:
    return UnreadableError(f"{path} starts like {what} or cut off; copy or export it again.")


def _check_zip(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive that could harm, before any member is read."""
    _check_count(path, len(members))
    for member in members:
        name = printable(member.filename)
        _check_name(path, member.filename)
        _check_name(path, member.orig_filename)
        if member.flag_bits & _ENCRYPTED:
            raise InputError(f"{path}: member {name} is encrypted; unpack it and give the folder.")
        if member.compress_type not in _METHODS:
            raise InputError(
                f"{path}: member {name} is packed by method {member.compress_type}, segmate reads "
                "stored and deflated ones; unpack it and give the folder."
            )
        _check_size(path, name, member.file_size)
    total = sum(member.file_size for member in members)
    _check_total(path, total)
    _check_ratio(path, total, sum(member.compress_size for member in members))


def _check_tar_member(path: Path, member: tarfile.TarInfo, count: int) -> None:
    _check_count(path, count)
    _check_name(path, member.name)
    name = printable(member.name)
    if not (member.isreg() or member.isdir()):
        raise InputError(
            f"{path}: member {name} is a link, device or pipe; pack the files alone, or give the "
            "folder."
        )
    if member.issparse():
        raise InputError(f"{path}: member {name} is stored sparse; unpack it, give the folder.")
    _check_size(path, name, member.size)


def _check_count(path: Path, count: int) -> None:
    if count > MAX_FILES:
        raise InputError(f"{path} holds more than {MAX_FILES} members; pack one study alone.")


def _check_name(path: Path, name: str) -> None:
    parts = re.split(r"[/\\]", name)
    if ".." in parts or parts[0] == "" or re.match(r"[A-Za-z]:", name):
        raise InputError(f"{path}: member {printable(name)} leads out of the archive; not read.")


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise InputError(f"{path}: member {name} unpacks to {_gb(size)}; refused.")


def _check_total(path: Path, total: int) -> None:
    if total > MAX_UNPACKED_BYTES:
        raise InputError(
            f"{path} unpacks to {_gb(total)}, more than {_gb(MAX_UNPACKED_BYTES)}; pack one study "
            "alone."
        )


def _check_ratio(path: Path, total: int, packed: int) -> None:
    ratio = total / max(1, packed)
    if total > RATIO_MATTERS_BYTES and ratio > MAX_RATIO:
        raise InputError(
            f"{path} unpacks to {_gb(total)}, {ratio:.0f} times its size, as no CT does; "
            "if you trust it, unpack it and give the folder."
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
