"""The data set of one DICOM file: where it begins, how it is encoded, where its pixels lie."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import BinaryIO

from segmate_cli.dicom.decode import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from segmate_cli.dicom.walk import PIXEL_DATA, ElementWalker

# Where a file says that it is DICOM.
_DICM_AT = 128
_MAX_INFLATED_BYTES = 256 << 20
_MAX_INFLATED_HEADER_BYTES = 1 << 20
# Attributes of the file meta group that are read.
META_TAGS = {
    "MediaStorageSOPClassUID": 0x00020002,
    "MediaStorageSOPInstanceUID": 0x00020003,
    "TransferSyntaxUID": 0x00020010,
}


def read_start(stream: BinaryIO) -> tuple[bytes, bool]:
    """The first bytes of a stream at its start, and whether they say that it is DICOM."""
    start = stream.read(_DICM_AT + 4)
    return start, start[_DICM_AT:] == b"DICM"


def guess_syntax(start: bytes, size: int) -> str | None:
    """Transfer syntax of a stream without preamble, by its first element; None if implausible.

    ``start``: its first bytes; ``size``: its length. Writers without a preamble begin with group
    2 (a file meta group, always explicit little endian) or with group 8.
    """
    if len(start) < 16:
        return None
    for order, explicit in (("<", EXPLICIT_LITTLE), (">", EXPLICIT_BIG)):
        group, element, vr, length = struct.unpack(order + "HH2sH", start[:8])
        if group in (2, 8) and element < 0x100 and length <= size:
            if vr in (b"UL", b"CS", b"UI", b"DA", b"TM", b"LO", b"SH", b"IS", b"DT", b"OB"):
                return explicit
            long = struct.unpack("<L", start[4:8])[0]
            if order == "<" and group == 8 and long <= min(size, 1024):
                return IMPLICIT_LITTLE
    return None


def file_meta(stream: BinaryIO, size: int) -> dict[int, bytes]:
    """Values of the file meta group, if there is one; the stream then stands behind it."""
    start, marked = read_start(stream)
    stream.seek(_DICM_AT + 4 if marked else 0)
    if not marked and start[:2] != b"\x02\x00":
        return {}
    walker = ElementWalker(stream, size, explicit=True)
    return walker.collect(frozenset(META_TAGS.values()), 0x00030000)


def open_data_set(
    stream: BinaryIO, size: int, *, pixels: bool = False
) -> tuple[ElementWalker, dict[int, bytes], str]:
    """Find the data set of a seekable stream at its start.

    Args:
        stream: A DICOM file.
        size: Of the file.
        pixels: Whether they are wanted; else of a deflated file only the beginning is inflated.

    Returns:
        A walker at the data set's first element, the file meta group, the transfer syntax.

    Raises:
        one of MALFORMED: the stream is no DICOM file, or damaged.
    """
    meta = file_meta(stream, size)
    syntax = meta.get(META_TAGS["TransferSyntaxUID"], b"").decode("latin-1").strip("\0 ")
    if syntax == DEFLATED:
        # With a bound: a megabyte of these can hold a gigabyte.
        most = _MAX_INFLATED_BYTES if pixels else _MAX_INFLATED_HEADER_BYTES
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(most), most)
        stream, size = BytesIO(inflated), len(inflated)
    at = stream.tell()
    start = stream.read(16)
    stream.seek(at)
    syntax = syntax or guess_syntax(start, size) or IMPLICIT_LITTLE
    # Some writers name one encoding and use the other; the first element shows which.
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return (
        ElementWalker(stream, size, explicit=explicit, big_endian=syntax == EXPLICIT_BIG),
        meta,
        syntax,
    )


def pixel_data(stream: BinaryIO, size: int) -> tuple[bytes, bool]:
    """Value of PixelData of a seekable stream at its start, and whether it is encapsulated.

    Raises:
        one of MALFORMED: there is none, or the stream is cut off.
    """
    walker, _, _ = open_data_set(stream, size, pixels=True)
    walker.collect(frozenset(), PIXEL_DATA)
    return walker.pixel_data()


def pixel_place(stream: BinaryIO, size: int) -> tuple[int, int | None]:
    """Where the value of PixelData begins in a seekable stream at its start, and its length.

    The length is None for compressed pixels, which come as items.

    Raises:
        one of MALFORMED: there is none.
    """
    walker, _, _ = open_data_set(stream, size, pixels=True)
    walker.collect(frozenset(), PIXEL_DATA)
    return walker.pixel_place()
