"""The frames of one multi-frame CT file (Enhanced, Legacy Converted Enhanced) as headers, one each.

Where a frame lies and how its values become HU stands in functional groups, which all frames share
or each has for itself (PS3.3 C.7.6.16). What a frame lacks, its file's own attributes say.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from dataclasses import replace
from typing import BinaryIO, cast

from segmate_cli.dicom import archives
from segmate_cli.dicom.attributes import TAGS, Parsed, item_attributes, parse
from segmate_cli.dicom.data_set import pixel_place
from segmate_cli.dicom.decode import DEFLATED, DecoderError
from segmate_cli.dicom.files import FileStore
from segmate_cli.dicom.header import Header, Rejected, header_of, read_header
from segmate_cli.dicom.inflate import inflated
from segmate_cli.dicom.malformed import MALFORMED

ENHANCED_CLASSES = frozenset(("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"))
# As many as slices of a long scan in several phases; each takes some microseconds and a kilobyte.
MAX_FRAMES = 20_000
# What a deflated file may need for what it says of itself, and of each frame.
_HEADER_BYTES, _FRAME_BYTES = 1 << 20, 1 << 13
_SHARED, _EACH = 0x52009229, 0x52009230
_BOTH = frozenset((_SHARED, _EACH))
_GROUPS = frozenset(
    (
        0x00189301,  # CTXRayDetails
        0x00189314,  # CTReconstruction
        0x00189329,  # CTImageFrameType
        0x00209111,  # FrameContent
        0x00209113,  # PlanePosition
        0x00209116,  # PlaneOrientation
        0x00209170,  # UnassignedSharedConvertedAttributes
        0x00209171,  # UnassignedPerFrameConvertedAttributes
        0x00289110,  # PixelMeasures
        0x00289145,  # PixelValueTransformation
    )
)
# Attributes that a frame has under another name than a single slice, and how many bytes they take
# where they are no text.
_NAMED = {
    0x00089007: ("ImageType", 0),  # FrameType
    0x00189074: ("AcquisitionDateTime", 0),  # FrameAcquisitionDateTime
    0x00209128: ("TemporalPositionIdentifier", 4),  # TemporalPositionIndex
    0x00209156: ("AcquisitionNumber", 2),  # FrameAcquisitionNumber
}
_OF_FRAMES = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ConvolutionKernel", "KVP"),
    *("AcquisitionNumber", "AcquisitionTime"),
)
_WANTED = frozenset((*(TAGS[keyword] for keyword in _OF_FRAMES), *_NAMED))
# Where a slice lies must stand in its functional groups.
_PLACING = frozenset((TAGS["ImagePositionPatient"], TAGS["ImageOrientationPatient"]))


def read_headers(store: FileStore, name: str) -> tuple[Header | Rejected, ...]:
    """A file's header or, of a multi-frame CT, one for each frame; as ``read_header``."""
    header = read_header(store, name)
    if isinstance(header, Rejected) or header.sop_class_uid not in ENHANCED_CLASSES:
        return (header,)
    if not 1 <= header.frames <= MAX_FRAMES:
        return (Rejected(name, f"{header.frames} frames, which no CT has", is_dicom=True),)
    try:
        frames = _frames_of(store, name, header)
    except DecoderError as error:
        return (Rejected(name, str(error), is_dicom=True),)
    except MALFORMED:
        return (Rejected(name, "damaged: its frames cannot be parsed", is_dicom=True),)
    if len(frames) != header.frames:
        reason = f"damaged: it describes {len(frames)} frames and says it has {header.frames}"
        return (Rejected(name, reason, is_dicom=True),)
    return tuple(
        replace(header_of(frame, name), frame=number) for number, frame in enumerate(frames, 1)
    )


def _frames_of(store: FileStore, name: str, header: Header) -> list[Parsed]:
    """The attributes of each frame: its own, those that all share, and the file's.

    Raises:
        DecoderError, one of MALFORMED: They cannot be parsed.
    """
    size = store.size(name)
    with store.open(name) as stream:
        whole = parse(stream, size)
    with store.open(name) as stream:
        if header.syntax_uid == DEFLATED:
            stream, size = inflated(stream, size, _HEADER_BYTES + header.frames * _FRAME_BYTES)
        with stream:
            found = item_attributes(stream, size, _BOTH, _GROUPS, _WANTED, MAX_FRAMES)
    common = {tag: value for tag, value in whole.data.items() if tag not in _PLACING}
    for shared in found.get(_SHARED, [])[:1]:
        common.update(_renamed(shared))
    return [replace(whole, data={**common, **_renamed(own)}) for own in found.get(_EACH, [])]


def _renamed(values: dict[int, bytes]) -> dict[int, bytes]:
    """A frame's attributes under the names that a single slice has for them."""
    found = {tag: value for tag, value in values.items() if tag not in _NAMED and value.strip()}
    for tag, (keyword, width) in _NAMED.items():
        value = values.get(tag, b"")
        if width and len(value) == width:
            value = str(int.from_bytes(value, "little")).encode()
        if value.strip(b"\0 "):
            found[TAGS[keyword]] = value
    return found


class FrameFile:
    """The pixels of a multi-frame file, a frame at a time; may be called from several threads.

    A member of an archive is copied to a temporary file, and a deflated file inflated to one:
    frames come in the order of their places, and both can only be read from their beginning.

    Args:
        store: Where the file is.
        header: Of one of its frames.

    Raises:
        DecoderError, one of MALFORMED: it has no pixels, or inflates to more than a CT; a temporary
            file cannot be written.
    """

    def __init__(self, store: FileStore, header: Header) -> None:
        self._lock = threading.Lock()
        self._stream = store.open(header.file)
        size = store.size(header.file)
        if header.syntax_uid == DEFLATED:
            with self._stream as packed:
                self._stream, size = inflated(packed, size, archives.MAX_FILE_BYTES)
        elif not _can_jump(self._stream):
            self._stream = _copied(self._stream)
        try:
            self._start, self._length = pixel_place(self._stream, size)
        except MALFORMED:
            self._stream.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()

    @property
    def encapsulated(self) -> bool:
        """Whether its pixels are compressed."""
        return self._length is None

    def read(self, number: int, frames: int, frame_bytes: int) -> bytes:
        """PixelData as a file of this frame alone would have it.

        Args:
            number: Of the frame, from 1.
            frames: How many there are.
            frame_bytes: Size of an uncompressed one.

        Raises:
            one of MALFORMED: it is cut off or damaged.
        """
        with self._lock:
            if self._length is not None:
                if number * frame_bytes > self._length:
                    raise EOFError
                self._stream.seek(self._start + (number - 1) * frame_bytes)
                return self._stream.read(frame_bytes)
            from pydicom.encaps import encapsulate, get_frame

            self._stream.seek(self._start)
            frame = get_frame(self._stream, number - 1, number_of_frames=frames)
            return bytes(encapsulate([frame]))


def _copied(packed: BinaryIO) -> BinaryIO:
    """A stream's content in a temporary file, which vanishes when it is closed."""
    file = cast(BinaryIO, tempfile.TemporaryFile(prefix=".segmate-"))  # noqa: SIM115
    with packed:
        shutil.copyfileobj(packed, file, 1 << 20)
    file.seek(0)
    return file


def _can_jump(stream: BinaryIO) -> bool:
    try:
        stream.fileno()
    except (OSError, AttributeError):
        return False
    return True
