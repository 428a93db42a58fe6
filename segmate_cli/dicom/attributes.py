"""Attributes of one DICOM file: which are parsed, and what their bytes say.

Only the attributes named here are ever parsed. The patient's name, id and birth date are read for
one purpose, to take them out of descriptions that staff typed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

from segmate_cli.dicom.archives import printable
from segmate_cli.dicom.data_set import META_TAGS, open_data_set
from segmate_cli.dicom.decode import DEFLATED, EXPLICIT_BIG
from segmate_cli.dicom.walk import PIXEL_DATA

_FUNCTIONAL_GROUPS = 0x52000000

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
            value = self.meta.get(META_TAGS[_META_OF[keyword]], b"")
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
    walker, meta, syntax = open_data_set(stream, size)
    # A deflated file is inflated no further than to what its frames say, each for itself.
    end = PIXEL_DATA & 0xFFFF0000 if syntax != DEFLATED else _FUNCTIONAL_GROUPS
    return Parsed(walker.collect(_WANTED, end), meta, syntax)


def raw_attributes(stream: BinaryIO, size: int, tags: frozenset[int]) -> dict[int, bytes]:
    """The bytes of other attributes of a seekable stream at its start; absent ones are left out.

    Raises:
        one of MALFORMED: the stream is no DICOM file, or damaged.
    """
    walker, _, _ = open_data_set(stream, size)
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
    walker, _, _ = open_data_set(stream, size)
    return walker.collect_items(sequences, groups, tags, most)
