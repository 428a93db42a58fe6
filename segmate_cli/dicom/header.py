"""What segmate wants to know of one DICOM file, read without its pixels.

A `Header` holds neither the patient's name nor id nor birth date, so that no message, log or
traceback can.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from segmate_cli.dicom.attributes import TAGS, Parsed, parse
from segmate_cli.dicom.data_set import guess_syntax, read_start
from segmate_cli.dicom.files import FileStore
from segmate_cli.dicom.malformed import MALFORMED

_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
# When a series was acquired: the first of these that it has.
_DATES = ("AcquisitionDate", "AcquisitionDateTime", "SeriesDate")


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
            start, marked = read_start(stream)
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
