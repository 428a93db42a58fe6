"""Pixel data of one DICOM frame to numbers, where need be in a process of its own.

The C libraries behind compressed transfer syntaxes abort the whole process, or take all memory,
for some damaged streams (seen with GDCM, CharLS and OpenJPEG). So they run in a `DecoderProcess`:
a crash there is an error here, its memory and time are bounded, and several of them use several
cores, which threads cannot since the decoders keep Python's lock. This module is what such a
process runs; it must not import more than it needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import IO, Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from segmate_cli.dicom.malformed import MALFORMED

Pixels = npt.NDArray[Any]

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"
# Decoded by pydicom itself, in Python, which neither crashes nor grows.
NATIVE_SYNTAXES = frozenset((IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED))

_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_JPEG = {
    "1.2.840.10008.1.2.4.50": "JPEG baseline",
    _JPEG_EXTENDED: "JPEG extended",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS near-lossless",
}
_JPEG2000 = {
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "HTJ2K lossless",
    "1.2.840.10008.1.2.4.202": "HTJ2K lossless RPCL",
    "1.2.840.10008.1.2.4.203": "HTJ2K",
}
SYNTAX_NAMES = {
    IMPLICIT_LITTLE: "implicit little endian",
    EXPLICIT_LITTLE: "explicit little endian",
    EXPLICIT_BIG: "explicit big endian",
    DEFLATED: "deflated",
    RLE: "RLE",
    **_JPEG,
    **_JPEG2000,
}
# OpenJPEG is faster than GDCM's copy of it.
_PLUGINS = {**dict.fromkeys(_JPEG, "gdcm"), **dict.fromkeys(_JPEG2000, "pylibjpeg")}

_END_OF_IMAGE = b"\xff\xd9"
_START_OF_FRAME = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xF7))
# A 512 x 512 frame takes under 0.1 s and some MB; a process alone maps about 1 GB.
_TIMEOUT_S = 60.0
_MEMORY_BYTES = 4 << 30
# What one holds while it decodes frames of 512 x 512.
_DECODER_BYTES, _JPEG2000_BYTES = 74 * 10**6, 80 * 10**6


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How a frame is stored."""

    syntax_uid: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str = "MONOCHROME2"
    frames: int = 1


def process_bytes(syntax_uid: str) -> int:
    """What a `DecoderProcess` takes for a transfer syntax; 0 where none is needed.

    Pages that it shares with its parent are in it, so that they count twice.
    """
    if syntax_uid in NATIVE_SYNTAXES:
        return 0
    return _JPEG2000_BYTES if syntax_uid in _JPEG2000 else _DECODER_BYTES


class DecoderError(Exception):
    """The decoder refused the frame, crashed, or took too long; its text is fit for users."""


def decode(form: PixelFormat, data: bytes, frame: int = 0) -> Pixels:
    """Stored values of one frame, (rows, columns), from a PixelData value.

    Raises:
        whatever pydicom and the decoder raise for damaged data: see ``malformed.MALFORMED``.
    """
    if form.syntax_uid in NATIVE_SYNTAXES:
        return _decode_native(form, data, frame)
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    if form.syntax_uid != RLE:
        _check_stream(form, data, frame)
        if form.syntax_uid == _JPEG_EXTENDED and form.bits_stored > 8:
            return _decode_12_bits(form, data, frame)
    array, _ = get_decoder(UID(form.syntax_uid)).as_array(
        data,
        index=frame,
        raw=True,
        decoding_plugin=_PLUGINS.get(form.syntax_uid, ""),
        rows=form.rows,
        columns=form.columns,
        samples_per_pixel=1,
        number_of_frames=form.frames,
        bits_allocated=form.bits_allocated,
        bits_stored=form.bits_stored,
        pixel_representation=int(form.signed),
        photometric_interpretation=form.photometric,
        pixel_keyword="PixelData",
    )
    return cast(Pixels, array)


def _decode_native(form: PixelFormat, data: bytes, frame: int) -> Pixels:
    order = ">" if form.syntax_uid == EXPLICIT_BIG else "<"
    kind = np.dtype(f"{order}{'i' if form.signed else 'u'}{form.bits_allocated // 8}")
    count = form.rows * form.columns
    if len(data) < (frame + 1) * count * kind.itemsize:
        raise ValueError("the pixel data is cut off")
    stored = np.frombuffer(data, kind, count, frame * count * kind.itemsize)
    stored = stored.astype(kind.newbyteorder("=")).reshape(form.rows, form.columns)
    # Old writers keep overlays in the upper bits; shifting back brings the sign down.
    unused = form.bits_allocated - form.bits_stored
    return (stored << unused) >> unused if unused else stored


def _check_stream(form: PixelFormat, data: bytes, frame: int) -> None:
    """Refuse a frame that is cut, or that declares another size: decoders trust both."""
    stream = _frame_bytes(form, data, frame)
    if _END_OF_IMAGE not in stream[-16:]:
        raise ValueError("the compressed frame is cut off")
    find = _jpeg2000_size if form.syntax_uid in _JPEG2000 else _jpeg_size
    precision, rows, columns, components = find(stream)
    if (rows, columns, components) != (form.rows, form.columns, 1):
        raise ValueError("the compressed frame has another size than its header says")
    if not 2 <= precision <= form.bits_allocated:
        raise ValueError("the compressed frame has another depth than its header says")
    if form.syntax_uid == _JPEG_EXTENDED and precision not in (8, 12):
        raise ValueError("a JPEG extended frame has 8 or 12 bits")


def _frame_bytes(form: PixelFormat, data: bytes, frame: int) -> bytes:
    from pydicom.encaps import get_frame

    return bytes(get_frame(data, frame, number_of_frames=form.frames))


def _jpeg_size(stream: bytes) -> tuple[int, int, int, int]:
    """(precision, rows, columns, components) of a JPEG or JPEG-LS stream."""
    at = 2
    while stream[:2] == b"\xff\xd8" and at + 10 <= len(stream) and stream[at] == 0xFF:
        marker, length = struct.unpack(">BH", stream[at + 1 : at + 4])
        if marker in _START_OF_FRAME:
            precision, rows, columns, components = struct.unpack(">BHHB", stream[at + 4 : at + 10])
            return precision, rows, columns, components
        at += 1 if marker == 0xFF else 2 + length
    raise ValueError("the compressed frame has no JPEG header")


def _jpeg2000_size(stream: bytes) -> tuple[int, int, int, int]:
    """(precision, rows, columns, components) of a JPEG 2000 codestream, of one tile grid."""
    start = stream.find(b"\xff\x4f\xff\x51", 0, 256)
    if start < 0 or len(stream) < start + 50:
        raise ValueError("the compressed frame has no JPEG 2000 header")
    size = struct.unpack(">HHLLLLLLLLHBBB", stream[start + 4 : start + 45])
    _, _, right, bottom, left, top, tile_wide, tile_high, _, _, components, depth, dx, dy = size
    # Damaged tile sizes make millions of tiles.
    if (dx, dy) != (1, 1) or min(tile_wide, tile_high) < min(32, right, bottom):
        raise ValueError("the compressed frame has a damaged JPEG 2000 header")
    return (depth & 0x7F) + 1, bottom - top, right - left, components


def _decode_12_bits(form: PixelFormat, data: bytes, frame: int) -> Pixels:
    """JPEG extended of 12 bits by GDCM: it can, though pydicom's plugin says that it cannot."""
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(_frame_bytes(form, data, frame))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((form.columns, form.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(form.photometric)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(form.syntax_uid)))
    bits = form.bits_stored
    image.SetPixelFormat(gdcm.PixelFormat(1, form.bits_allocated, bits, bits - 1, int(form.signed)))
    # GDCM hands its bytes out as text.
    buffer = image.GetBuffer().encode("utf-8", "surrogateescape")
    kind_of = np.dtype("<i2" if form.signed else "<u2")
    return np.frombuffer(buffer, kind_of).reshape(form.rows, form.columns)


class DecoderProcess:
    """A child process that decodes frame after frame; use as a context manager.

    Not safe to share between threads: give each its own.
    """

    def __init__(self) -> None:
        # Not multiprocessing: its spawn would import the caller's main module again.
        code = (
            f"import sys; sys.path = {sys.path!r}; "
            "from segmate_cli.dicom.decode import serve; serve()"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Each of OpenBLAS's threads maps memory, which the limit counts.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )

    def __enter__(self) -> DecoderProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            # What a crashed child did not take is still in the buffer.
            with contextlib.suppress(OSError):
                cast("IO[bytes]", pipe).close()

    def decode(self, form: PixelFormat, data: bytes, frame: int = 0) -> Pixels:
        """Like `decode`, but a damaged stream always ends in a DecoderError."""
        killer = threading.Timer(_TIMEOUT_S, self._process.kill)
        killer.start()
        try:
            to, back = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
            _send(to, json.dumps([asdict(form), frame]).encode())
            _send(to, data)
            kind = _receive(back).decode()
            answer = _receive(back)
        except (OSError, EOFError) as error:
            raise DecoderError("the decoder crashed or ran out of memory or time on it") from error
        finally:
            killer.cancel()
        if kind == "error":
            raise DecoderError(answer.decode("utf-8", "replace"))
        return np.frombuffer(answer, np.dtype(kind)).reshape(form.rows, form.columns)


def _send(pipe: BinaryIO, message: bytes) -> None:
    pipe.write(struct.pack("<Q", len(message)))
    pipe.write(message)
    pipe.flush()


def _receive(pipe: BinaryIO) -> bytes:
    size = pipe.read(8)
    if len(size) < 8:
        raise EOFError
    message = pipe.read(struct.unpack("<Q", size)[0])
    return message


def serve() -> None:
    """Answer requests on standard input until it closes; what a DecoderProcess runs."""
    import warnings

    warnings.simplefilter("ignore")
    to, back = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    with _nameless_file() as complaints:
        # The decoders' own output must not mix with the answers, but tells of damage.
        os.dup2(complaints.fileno(), 1)
        os.dup2(complaints.fileno(), 2)
        _limit_memory()
        while True:
            try:
                request, data = json.loads(_receive(back)), _receive(back)
            except EOFError:
                return
            kind, answer = _answer(PixelFormat(**request[0]), data, request[1], complaints)
            _send(to, kind.encode())
            _send(to, answer)


def _nameless_file() -> IO[bytes]:
    """A small file, in memory where the system can: there may be no writable folder."""
    import tempfile

    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("complaints"), "w+b")
    return tempfile.TemporaryFile()


def _answer(form: PixelFormat, data: bytes, frame: int, complaints: IO[bytes]) -> tuple[str, bytes]:
    complaints.truncate(0)
    try:
        pixels = decode(form, data, frame)
    except MALFORMED as error:
        return "error", _reason(error).encode()
    complaints.seek(0)
    # libjpeg fills what it cannot read with grey and only complains.
    if b"Corrupt JPEG" in complaints.read(1 << 16):
        return "error", b"the compressed frame is damaged"
    pixels = np.ascontiguousarray(pixels)
    if pixels.shape != (form.rows, form.columns):
        return "error", b"the compressed frame has another size than its header says"
    return pixels.dtype.str, pixels.tobytes()


def _reason(error: BaseException) -> str:
    """The first words of this module's own messages; a decoder's own are of no use."""
    text = str(error)
    return text if text.startswith(("the compressed", "a JPEG")) else "the decoder refused it"


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    set_limit: Callable[[int, tuple[int, int]], None] = resource.setrlimit
    set_limit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
