"""What segmate wants to know of one DICOM file, read without its pixels.

Only the attributes named here are ever parsed: a patient's name, id or birth date is skipped in
the stream, so that no message, log or traceback can hold one. For the same reason no text of a
pydicom exception is passed on.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import dcmread, read_dataset
from pydicom.tag import Tag

from segmate_cli.dicom_files import FileStore, printable

# What pydicom, its decoders, zlib and zipfile raise for malformed bytes, found by mutating files.
# RuntimeError covers RecursionError and NotImplementedError; MemoryError: absurd declared sizes.
MALFORMED = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    OSError,
    MemoryError,
    AssertionError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    InvalidDicomError,
)

DEFLATED = "1.2.840.10008.1.2.1.99"
_IMPLICIT_LITTLE = "1.2.840.10008.1.2"
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_EXPLICIT_BIG = "1.2.840.10008.1.2.2"
_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_DICM_AT = 128
_META_OF = {
    "SOPClassUID": "MediaStorageSOPClassUID",
    "SOPInstanceUID": "MediaStorageSOPInstanceUID",
}
_MAX_INFLATED_BYTES = 256 << 20
_MAX_INFLATED_HEADER_BYTES = 1 << 20

_TAGS = (
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality"),
    *("SeriesDescription", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber"),
    *("FrameOfReferenceUID", "AcquisitionNumber", "ConvolutionKernel", "BodyPartExamined"),
    *("ContrastBolusAgent", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient"),
    *("Rows", "Columns", "PixelSpacing", "SamplesPerPixel", "NumberOfFrames"),
    *("LossyImageCompression",),
)


@dataclass(frozen=True, slots=True)
class Header:
    """One file's attributes; None, "" or 0 where it does not say, or not in a readable way."""

    file: str
    syntax_uid: str
    sop_class_uid: str = ""
    sop_uid: str = ""
    study_uid: str = ""
    series_uid: str = ""
    frame_of_reference_uid: str = ""
    modality: str = ""
    description: str = ""
    series_number: int | None = None
    acquisition_number: int | None = None
    image_type: tuple[str, ...] = ()
    kernel: str = ""
    body_part: str = ""
    contrast: bool = False
    thickness_mm: float | None = None
    position_mm: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    pixel_spacing_mm: tuple[float, ...] | None = None
    rows: int = 0
    columns: int = 0
    samples: int = 1
    frames: int = 1
    lossy: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that is no image of a series.

    Attributes:
        file: Its name.
        reason: Why.
        is_dicom: Whether it is DICOM, or claims to be.
    """

    file: str
    reason: str
    is_dicom: bool


def read_header(store: FileStore, name: str) -> Header | Rejected:
    """Read one file's attributes; never raises for what the file holds."""
    try:
        size = store.size(name)
        with store.open(name) as stream:
            start = stream.read(_DICM_AT + 4)
            marked = start[_DICM_AT:] == b"DICM"
            if not marked and guess_syntax(start, size) is None:
                return Rejected(name, "not DICOM", is_dicom=False)
            stream.seek(0)
            data, syntax = parse(stream, size, _TAGS, with_pixels=False)
    except MALFORMED as error:
        if isinstance(error, OSError) and error.strerror:
            return Rejected(name, f"cannot be read: {error.strerror}", is_dicom=False)
        return Rejected(name, "damaged or cut off: its header cannot be parsed", is_dicom=True)
    header = _header_of(data, name, syntax)
    if header.sop_class_uid == _DICOMDIR_CLASS:
        return Rejected(name, "DICOMDIR, an index of other files; not followed", is_dicom=True)
    if not header.series_uid and not header.modality:
        reason = "DICOM without SeriesInstanceUID and Modality" if marked else "not DICOM"
        return Rejected(name, reason, is_dicom=marked)
    return header


def guess_syntax(start: bytes, size: int) -> str | None:
    """Transfer syntax of a stream without preamble, by its first element; None if implausible.

    ``start``: its first bytes; ``size``: its length. Writers without a preamble begin with group
    2 (a file meta group, always explicit little endian) or with group 8.
    """
    if len(start) < 16:
        return None
    for order, explicit in (("<", _EXPLICIT_LITTLE), (">", _EXPLICIT_BIG)):
        group, element, vr, length = struct.unpack(order + "HH2sH", start[:8])
        if group in (2, 8) and element < 0x100 and length <= size:
            if vr in (b"UL", b"CS", b"UI", b"DA", b"TM", b"LO", b"SH", b"IS", b"DT", b"OB"):
                return explicit
            long = struct.unpack("<L", start[4:8])[0]
            if order == "<" and group == 8 and long <= min(size, 1024):
                return _IMPLICIT_LITTLE
    return None


def parse(
    stream: BinaryIO, size: int, tags: Iterable[str], *, with_pixels: bool
) -> tuple[Dataset, str]:
    """Parse the named attributes of a seekable stream at its start: (dataset, transfer syntax).

    Raises:
        one of MALFORMED: the stream is no DICOM file, or damaged.
    """
    wanted = [*tags, "PixelData"] if with_pixels else list(tags)
    start = stream.read(_DICM_AT + 4)
    marked = start[_DICM_AT:] == b"DICM"
    has_meta = marked or start[:2] == b"\x02\x00"
    stream.seek(_DICM_AT + 4 if marked else 0)
    meta = _meta(stream) if has_meta else Dataset()
    syntax = _text(meta, "TransferSyntaxUID") if has_meta else guess_syntax(start, size)
    if syntax == DEFLATED:
        # pydicom would inflate without a bound.
        most = _MAX_INFLATED_BYTES if with_pixels else _MAX_INFLATED_HEADER_BYTES
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(most), most)
        data = _dataset(BytesIO(inflated), _EXPLICIT_LITTLE, wanted, with_pixels)
    elif syntax:
        data = _dataset(stream, syntax, wanted, with_pixels)
    else:
        # A meta group without a syntax: pydicom works the encoding out.
        stream.seek(0)
        data = dcmread(stream, force=True, specific_tags=wanted, stop_before_pixels=not with_pixels)
        syntax = _IMPLICIT_LITTLE if data.original_encoding[0] else _EXPLICIT_LITTLE
    for keyword, meta_keyword in _META_OF.items():
        # Anonymising often empties the data set's own.
        if not _text(data, keyword):
            setattr(data, keyword, _text(meta, meta_keyword))
    return data, syntax


def _meta(stream: BinaryIO) -> Dataset:
    """Read the file meta group; leaves the stream at the first element of the data set."""
    return read_dataset(
        stream,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag >> 16 != 2,
        specific_tags=[Tag(tag) for tag in ("TransferSyntaxUID", *_META_OF.values())],
    )


def _dataset(stream: BinaryIO, syntax: str, tags: list[str], with_pixels: bool) -> Dataset:
    def at_pixels(tag: int, _vr: str | None, _length: int) -> bool:
        return tag >= 0x7FE00008

    return read_dataset(
        stream,
        is_implicit_VR=syntax == _IMPLICIT_LITTLE,
        is_little_endian=syntax != _EXPLICIT_BIG,
        stop_when=None if with_pixels else at_pixels,
        specific_tags=[Tag(tag) for tag in tags],
    )


def _header_of(data: Dataset, file: str, syntax: str) -> Header:
    return Header(
        file=file,
        syntax_uid=syntax,
        sop_class_uid=_text(data, "SOPClassUID"),
        sop_uid=_text(data, "SOPInstanceUID"),
        study_uid=_text(data, "StudyInstanceUID"),
        series_uid=_text(data, "SeriesInstanceUID"),
        frame_of_reference_uid=_text(data, "FrameOfReferenceUID"),
        modality=_text(data, "Modality").upper(),
        description=_text(data, "SeriesDescription"),
        series_number=whole(data, "SeriesNumber"),
        acquisition_number=whole(data, "AcquisitionNumber"),
        image_type=tuple(_text(data, "ImageType").upper().split("\\")),
        kernel=_text(data, "ConvolutionKernel"),
        body_part=_text(data, "BodyPartExamined"),
        contrast=bool(_text(data, "ContrastBolusAgent")),
        thickness_mm=(numbers(data, "SliceThickness", 1) or (None,))[0],
        position_mm=numbers(data, "ImagePositionPatient", 3),
        orientation=numbers(data, "ImageOrientationPatient", 6),
        pixel_spacing_mm=numbers(data, "PixelSpacing", 2),
        rows=whole(data, "Rows") or 0,
        columns=whole(data, "Columns") or 0,
        samples=whole(data, "SamplesPerPixel") or 1,
        frames=whole(data, "NumberOfFrames") or 1,
        lossy=_text(data, "LossyImageCompression") == "01",
    )


def value_of(data: Dataset, keyword: str) -> Any:
    """An attribute's value, or None where it is missing, empty or cannot be converted."""
    try:
        value = data.get(keyword)
    except MALFORMED:
        return None
    return None if value is None or value == "" else value


def _text(data: Dataset, keyword: str) -> str:
    value = value_of(data, keyword)
    if value is None:
        return ""
    parts = [value] if isinstance(value, str) else value
    try:
        return printable("\\".join(str(part).strip() for part in parts), most=64).strip("\0 ")
    except MALFORMED:
        return ""


def numbers(data: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly ``count`` finite numbers of an attribute, or None."""
    value = value_of(data, keyword)
    try:
        parts = tuple(float(part) for part in ([value] if count == 1 else value))
    except MALFORMED:
        return None
    return parts if len(parts) == count and all(map(math.isfinite, parts)) else None


def whole(data: Dataset, keyword: str) -> int | None:
    """A whole number of an attribute, or None."""
    found = numbers(data, keyword, 1)
    return None if found is None or found[0] != int(found[0]) else int(found[0])
