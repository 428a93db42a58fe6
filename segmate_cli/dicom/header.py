"""What segmate wants to know of one DICOM file, read without its pixels.

Only the attributes named here are ever parsed. The patient's name, id and birth date are read for
one purpose, to take them out of descriptions that staff typed; a `Header` holds none of them, so
that no message, log or traceback can.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from segmate_cli.dicom.archives import printable
from segmate_cli.dicom.decode import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from segmate_cli.dicom.files import FileStore
from segmate_cli.dicom.walk import PIXEL_DATA, ElementWalker

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
)

_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_DICM_AT = 128
_FUNCTIONAL_GROUPS = 0x52000000
_MAX_INFLATED_BYTES = 256 << 20
_MAX_INFLATED_HEADER_BYTES = 1 << 20

# Two bytes each; every other attribute is text.
_BINARY = {
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "SamplesPerPixel": 0x00280002,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "PixelPaddingValue": 0x00280120,
    "PixelPaddingRangeLimit": 0x00280121,
}
TAGS = {
    "SpecificCharacterSet": 0x00080005,
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "SeriesDate": 0x00080021,
    "AcquisitionDate": 0x00080022,
    "AcquisitionDateTime": 0x0008002A,
    "AcquisitionTime": 0x00080032,
    "Modality": 0x00080060,
    "Manufacturer": 0x00080070,
    "SeriesDescription": 0x0008103E,
    "ManufacturerModelName": 0x00081090,
    "ContrastBolusAgent": 0x00180010,
    "BodyPartExamined": 0x00180015,
    "SliceThickness": 0x00180050,
    "KVP": 0x00180060,
    "ConvolutionKernel": 0x00181210,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "SeriesNumber": 0x00200011,
    "AcquisitionNumber": 0x00200012,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "FrameOfReferenceUID": 0x00200052,
    "TemporalPositionIdentifier": 0x00200100,
    "PhotometricInterpretation": 0x00280004,
    "NumberOfFrames": 0x00280008,
    "PixelSpacing": 0x00280030,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
    "RescaleType": 0x00281054,
    "LossyImageCompression": 0x00282110,
    "ModalityLUTSequence": 0x00283000,
    **_BINARY,
}
# When a series was acquired: the first of these that it has.
_DATES = ("AcquisitionDate", "AcquisitionDateTime", "SeriesDate")
# Only to mask them; see `Parsed.text`.
_NAMING = {
    "PatientName": 0x00100010,
    "PatientID": 0x00100020,
    "PatientBirthDate": 0x00100030,
}
# Far over all that an attribute named here can be, far under what overflows when squared.
_LARGEST = 1e10
_MASK = "***"
_WHOLE_WORD, _ANYWHERE = 2, 4
_WANTED = frozenset((*TAGS.values(), *_NAMING.values()))
_META_TAGS = {
    "MediaStorageSOPClassUID": 0x00020002,
    "MediaStorageSOPInstanceUID": 0x00020003,
    "TransferSyntaxUID": 0x00020010,
}
# Anonymising often empties the data set's own.
_META_OF = {
    "SOPClassUID": "MediaStorageSOPClassUID",
    "SOPInstanceUID": "MediaStorageSOPInstanceUID",
}
_CHARSETS = {
    "ISO_IR 101": "iso8859-2",
    "ISO_IR 109": "iso8859-3",
    "ISO_IR 110": "iso8859-4",
    "ISO_IR 126": "iso8859-7",
    "ISO_IR 127": "iso8859-6",
    "ISO_IR 138": "iso8859-8",
    "ISO_IR 144": "iso8859-5",
    "ISO_IR 148": "iso8859-9",
    "ISO_IR 13": "shift_jis",
    "ISO_IR 192": "utf-8",
    "GB18030": "gb18030",
    "GBK": "gbk",
}


@dataclass(frozen=True, slots=True)
class StoredValues:
    """How a file stores its pixels, and how they become Hounsfield units.

    Attributes:
        bits_allocated, bits_stored, high_bit: As in the file; None where missing.
        signed: PixelRepresentation, 0 or 1.
        photometric: PhotometricInterpretation.
        slope, intercept: RescaleSlope and -Intercept; None where missing, NaN where unreadable.
        unit: RescaleType, or "".
        padding: Stored values, from and to, that stand for no measurement; both unsigned, since
            writers do not agree about the sign, of 16 bits.
        has_table: Whether values go through a ModalityLUTSequence instead.
    """

    bits_allocated: int | None = None
    bits_stored: int | None = None
    high_bit: int | None = None
    signed: int | None = None
    photometric: str = ""
    slope: float | None = None
    intercept: float | None = None
    unit: str = ""
    padding: tuple[int, int] | None = None
    has_table: bool = False


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What tells apart slices that one series has at one place.

    Attributes:
        number: AcquisitionNumber.
        phase: TemporalPositionIdentifier.
        voltage: KVP.
        time: AcquisitionDateTime, else AcquisitionTime, as DICOM writes them; "" where missing.
    """

    number: int | None = None
    phase: int | None = None
    voltage: float | None = None
    time: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """One slice's attributes; None, "" or 0 where its file does not say, or not readably.

    ``frame`` is the slice's number in a multi-frame file, from 1; None in a file of one slice.
    """

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
    acquisition: Acquisition = Acquisition()
    image_type: tuple[str, ...] = ()
    kernel: str = ""
    manufacturer: str = ""
    model: str = ""
    date: str = ""
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
    frame: int | None = None
    lossy: bool = False
    values: StoredValues = StoredValues()

    @property
    def where(self) -> str:
        """The file, and the frame in it, for messages."""
        return self.file if self.frame is None else f"{self.file}, frame {self.frame}"


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
            parsed = parse(stream, size)
    except MALFORMED as error:
        if isinstance(error, OSError) and error.strerror:
            return Rejected(name, f"cannot be read: {error.strerror}", is_dicom=False)
        return Rejected(name, "damaged or cut off: its header cannot be parsed", is_dicom=True)
    header = header_of(parsed, name)
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
    for order, explicit in (("<", EXPLICIT_LITTLE), (">", EXPLICIT_BIG)):
        group, element, vr, length = struct.unpack(order + "HH2sH", start[:8])
        if group in (2, 8) and element < 0x100 and length <= size:
            if vr in (b"UL", b"CS", b"UI", b"DA", b"TM", b"LO", b"SH", b"IS", b"DT", b"OB"):
                return explicit
            long = struct.unpack("<L", start[4:8])[0]
            if order == "<" and group == 8 and long <= min(size, 1024):
                return IMPLICIT_LITTLE
    return None


@dataclass(frozen=True, slots=True)
class Parsed:
    """The attributes of a file as raw bytes, with methods to convert them, which never raise.

    Attributes:
        data: Tag to value, of the data set.
        meta: Tag to value, of the file meta group.
        syntax_uid: Transfer syntax.
    """

    data: dict[int, bytes]
    meta: dict[int, bytes]
    syntax_uid: str

    def raw(self, keyword: str) -> bytes:
        """An attribute's bytes, b"" where it is missing or empty."""
        return self.data.get(TAGS[keyword], b"")

    def text(self, keyword: str) -> str:
        """Printable text, values apart by backslashes; the file meta group's where empty."""
        value = self.raw(keyword)
        if keyword in _META_OF and not value.strip(b"\0 "):
            value = self.meta.get(_META_TAGS[_META_OF[keyword]], b"")
        text = "\\".join(part.strip("\0 ") for part in self._decoded(value).split("\\"))
        return printable(self._masked(text) if keyword == "SeriesDescription" else text, most=64)

    def _decoded(self, value: bytes) -> str:
        charset = self.raw("SpecificCharacterSet").decode("latin-1").split("\\")[0].strip()
        return value.decode(_CHARSETS.get(charset, "latin-1"), "replace")

    def _masked(self, text: str) -> str:
        """Text without what names the patient: parts of the name, the id, the birth date."""
        naming = {tag: self._decoded(self.data.get(tag, b"")) for tag in _NAMING.values()}
        parts = set(re.split(r"[\W\d_]+", naming[_NAMING["PatientName"]]))
        parts |= {naming[_NAMING[key]].strip("\0 ") for key in ("PatientID", "PatientBirthDate")}
        for part in sorted(parts, key=len, reverse=True):
            if len(part) >= _WHOLE_WORD:
                # A short part may be a syllable of any word.
                edge = "" if len(part) >= _ANYWHERE else r"\b"
                text = re.sub(edge + re.escape(part) + edge, _MASK, text, flags=re.IGNORECASE)
        return text

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Exactly ``count`` numbers of a text attribute that can be meant, or None."""
        parts = self.raw(keyword).decode("latin-1").strip("\0 ").split("\\")
        try:
            found = tuple(float(part) for part in parts)
        except ValueError:
            return None
        fit = all(abs(one) <= _LARGEST for one in found)  # neither infinite nor NaN
        return found if len(found) == count and fit else None

    def whole(self, keyword: str) -> int | None:
        """A whole number of a text attribute or, unsigned, of one of 16 bits; or None."""
        if keyword in _BINARY:
            value, little = self.raw(keyword)[:2], self.syntax_uid != EXPLICIT_BIG
            return int.from_bytes(value, "little" if little else "big") if value[1:] else None
        found = self.numbers(keyword, 1)
        return None if found is None or found[0] != int(found[0]) else int(found[0])


def parse(stream: BinaryIO, size: int) -> Parsed:
    """Parse the attributes named here of a seekable stream at its start.

    Raises:
        one of MALFORMED: the stream is no DICOM file, or damaged.
    """
    walker, meta, syntax = _data_set(stream, size, _MAX_INFLATED_HEADER_BYTES)
    # A deflated file is inflated no further than to what its frames say, each for itself.
    end = PIXEL_DATA & 0xFFFF0000 if syntax != DEFLATED else _FUNCTIONAL_GROUPS
    return Parsed(walker.collect(_WANTED, end), meta, syntax)


def raw_attributes(stream: BinaryIO, size: int, tags: frozenset[int]) -> dict[int, bytes]:
    """The bytes of other attributes of a seekable stream at its start; absent ones are left out.

    Raises:
        one of MALFORMED: the stream is no DICOM file, or damaged.
    """
    walker, _, _ = _data_set(stream, size, _MAX_INFLATED_HEADER_BYTES)
    return walker.collect(tags, PIXEL_DATA & 0xFFFF0000)


def item_attributes(
    stream: BinaryIO,
    size: int,
    sequences: frozenset[int],
    groups: frozenset[int],
    tags: frozenset[int],
    most: int,
) -> dict[int, list[dict[int, bytes]]]:
    """Bytes of attributes in the items of sequences; see ``ElementWalker.collect_items``.

    Raises:
        one of MALFORMED: the stream is no DICOM file, or damaged.
    """
    walker, _, _ = _data_set(stream, size, _MAX_INFLATED_HEADER_BYTES)
    return walker.collect_items(sequences, groups, tags, most)


def pixel_data(stream: BinaryIO, size: int) -> tuple[bytes, bool]:
    """Value of PixelData of a seekable stream at its start, and whether it is encapsulated.

    Raises:
        one of MALFORMED: there is none, or the stream is cut off.
    """
    walker, _, _ = _data_set(stream, size, _MAX_INFLATED_BYTES)
    walker.collect(frozenset(), PIXEL_DATA)
    return walker.pixel_data()


def pixel_place(stream: BinaryIO, size: int) -> tuple[int, int | None]:
    """Where the value of PixelData begins in a seekable stream at its start, and its length.

    The length is None for compressed pixels, which come as items.

    Raises:
        one of MALFORMED: there is none.
    """
    walker, _, _ = _data_set(stream, size, _MAX_INFLATED_BYTES)
    walker.collect(frozenset(), PIXEL_DATA)
    return walker.pixel_place()


def file_meta(stream: BinaryIO, size: int) -> dict[int, bytes]:
    """Values of the file meta group, if there is one; the stream then stands behind it."""
    start = stream.read(_DICM_AT + 4)
    marked = start[_DICM_AT:] == b"DICM"
    stream.seek(_DICM_AT + 4 if marked else 0)
    if not marked and start[:2] != b"\x02\x00":
        return {}
    walker = ElementWalker(stream, size, explicit=True)
    return walker.collect(frozenset(_META_TAGS.values()), 0x00030000)


def _data_set(
    stream: BinaryIO, size: int, most: int
) -> tuple[ElementWalker, dict[int, bytes], str]:
    """(walker at the first element of the data set, file meta group, transfer syntax)."""
    meta = file_meta(stream, size)
    syntax = meta.get(_META_TAGS["TransferSyntaxUID"], b"").decode("latin-1").strip("\0 ")
    if syntax == DEFLATED:
        # With a bound: a megabyte of these can hold a gigabyte.
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


def header_of(data: Parsed, file: str) -> Header:
    """A header from the attributes that were parsed."""
    return Header(
        file=file,
        syntax_uid=data.syntax_uid,
        sop_class_uid=data.text("SOPClassUID"),
        sop_uid=data.text("SOPInstanceUID"),
        study_uid=data.text("StudyInstanceUID"),
        series_uid=data.text("SeriesInstanceUID"),
        frame_of_reference_uid=data.text("FrameOfReferenceUID"),
        modality=data.text("Modality").upper(),
        description=data.text("SeriesDescription"),
        series_number=data.whole("SeriesNumber"),
        acquisition=Acquisition(
            number=data.whole("AcquisitionNumber"),
            phase=data.whole("TemporalPositionIdentifier"),
            voltage=(data.numbers("KVP", 1) or (None,))[0],
            time=data.text("AcquisitionDateTime") or data.text("AcquisitionTime"),
        ),
        image_type=tuple(data.text("ImageType").upper().split("\\")),
        kernel=data.text("ConvolutionKernel"),
        manufacturer=data.text("Manufacturer"),
        model=data.text("ManufacturerModelName"),
        date=next(filter(None, map(data.text, _DATES)), ""),
        body_part=data.text("BodyPartExamined"),
        contrast=bool(data.text("ContrastBolusAgent")),
        thickness_mm=(data.numbers("SliceThickness", 1) or (None,))[0],
        position_mm=data.numbers("ImagePositionPatient", 3),
        orientation=data.numbers("ImageOrientationPatient", 6),
        pixel_spacing_mm=data.numbers("PixelSpacing", 2),
        rows=data.whole("Rows") or 0,
        columns=data.whole("Columns") or 0,
        samples=data.whole("SamplesPerPixel") or 1,
        frames=data.whole("NumberOfFrames") or 1,
        lossy=data.text("LossyImageCompression") == "01",
        values=_values_of(data),
    )


def _values_of(data: Parsed) -> StoredValues:
    padding = data.whole("PixelPaddingValue")
    limit = data.whole("PixelPaddingRangeLimit")
    return StoredValues(
        bits_allocated=data.whole("BitsAllocated"),
        bits_stored=data.whole("BitsStored"),
        high_bit=data.whole("HighBit"),
        signed=data.whole("PixelRepresentation"),
        photometric=data.text("PhotometricInterpretation"),
        slope=_present(data, "RescaleSlope"),
        intercept=_present(data, "RescaleIntercept"),
        unit=data.text("RescaleType").upper(),
        padding=None if padding is None else (padding, padding if limit is None else limit),
        has_table=TAGS["ModalityLUTSequence"] in data.data,
    )


def _present(data: Parsed, keyword: str) -> float | None:
    if not data.raw(keyword).strip():
        return None
    return (data.numbers(keyword, 1) or (math.nan,))[0]
