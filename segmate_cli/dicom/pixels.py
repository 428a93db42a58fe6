"""The voxels of a DICOM series as Hounsfield units, slice by slice."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from io import BytesIO

import numpy as np

from segmate_cli.dicom.data_set import pixel_data
from segmate_cli.dicom.decode import (
    NATIVE_SYNTAXES,
    SYNTAX_NAMES,
    DecoderError,
    DecoderProcess,
    PixelFormat,
    Pixels,
    decode,
    process_bytes,
)
from segmate_cli.dicom.files import FileStore, Place, open_store
from segmate_cli.dicom.header import Header
from segmate_cli.dicom.malformed import MALFORMED
from segmate_cli.dicom.multiframe import FrameFile
from segmate_cli.dicom.series import DERIVED, IMAGE, SeriesInfo
from segmate_cli.errors import (
    AmbiguousSeriesError,
    GeometryError,
    InputError,
    NotHounsfieldError,
    UnreadableError,
)
from segmate_cli.volume import DicomSource, Hounsfield, Scan, Scanner

# Air at the lower end of the 12-bit CT scale. Padding lies outside of the reconstruction circle,
# where air would be; any value far below it (-2000, -3024) would bend resampling at its border.
PADDING_HU = -1024
_HIGHEST_CT_HU = 3071
_INT16 = np.iinfo(np.int16)
_MOST_WORKERS = 4
# A decoder process takes 0.3 s to start.
_SLICES_A_PROCESS = 8
_SLICES_AHEAD = 2


def as_scan(path: Place, series: SeriesInfo) -> Scan:
    """A series that `segmate_cli.dicom.choose_series` gave, ready to be read slice by slice.

    Slices come in the order of their positions along the normal, so k grows along it; each is
    rescaled by its own slope and intercept, exactly or in float64, and rounded to int16.

    Args:
        path: Where the series was found.
        series: The series.

    Raises:
        GeometryError: mixed slices or gaps that are too large, with their places.
        AmbiguousSeriesError: doubled slices that nothing tells apart, with their places.
        InputError: the series is no stack of CT slices.
        UnreadableError: its compression is unknown; later, a file is damaged, cut off or gone.
        NotHounsfieldError: later, no Hounsfield units can be had from the stored values.
    """
    check_fit(path, series)
    source = _source(path, series)
    return Scan(
        series.geometry,
        lambda: _planes(path, series),
        source,
        _warnings(series),
        helper_bytes=_helper_bytes(series),
    )


def check_fit(path: Place, series: SeriesInfo) -> None:
    """Refuse a series that is no volume, before any pixel is read.

    Raises:
        GeometryError, UnreadableError, InputError: as `as_scan` says.
    """
    what = f"{path}, series {series.title or series.series_uid[-16:] or '(no UID)'}"
    if series.kind not in (IMAGE, DERIVED):
        hint = " give the folder of the whole series." if series.kind == "single slice" else ""
        if series.kind == "multi-frame image":
            hint = " convert it to single-frame DICOM or NIfTI first."
        raise InputError(f"{what} is a {series.kind}, not a stack of CT slices;{hint}".rstrip(";"))
    if series.doubles_mm and series.problems and len(series.positions_mm) > 1:
        raise AmbiguousSeriesError(
            f"{what}: {series.problems[0]}; their voxels differ and nothing tells the acquisitions "
            "apart: give the files of one alone."
        )
    if series.problems:
        more = len(series.problems) - 1
        also = f" ({more} more: see `segmate inspect`)" if more else ""
        raise GeometryError(
            f"{what}: {series.problems[0]}{also}; export it again, or give the fitting slices "
            "alone."
        )
    unknown = [uid for uid in series.transfer_syntaxes if uid not in SYNTAX_NAMES]
    if unknown:
        raise UnreadableError(
            f"{what}: transfer syntax {unknown[0]} is not one that segmate decodes; "
            "export it uncompressed."
        )


def _planes(path: Place, series: SeriesInfo) -> Iterator[Hounsfield]:
    """Yield the slices in order, reading a few ahead."""
    workers = _workers(series)
    with open_store(path) as store, ExitStack() as stack:
        reader = _SliceReader(path, store, stack)
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        ahead: deque[Future[Hounsfield]] = deque()
        try:
            for header in series.slices:
                ahead.append(pool.submit(reader.read, header))
                if len(ahead) > workers * _SLICES_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _workers(series: SeriesInfo) -> int:
    cores = os.cpu_count() or 1
    wanted = 1 + len(series.slices) // _SLICES_A_PROCESS
    return max(1, min(_MOST_WORKERS, cores, wanted))


def _helper_bytes(series: SeriesInfo) -> int:
    """What the processes take that decode."""
    return _workers(series) * max(map(process_bytes, series.transfer_syntaxes), default=0)


class _SliceReader:
    """Reads single slices; called from several threads, each with its own decoder process."""

    def __init__(self, path: Place, store: FileStore, stack: ExitStack) -> None:
        self._path, self._store, self._stack = path, store, stack
        self._lock, self._local = threading.Lock(), threading.local()
        self._frames: dict[str, FrameFile] = {}

    def read(self, header: Header) -> Hounsfield:
        """One slice, (rows, columns) int16 HU."""
        try:
            form = _pixel_format(header)
            value, encapsulated = self._value(header, form)
            if encapsulated != (form.syntax_uid not in NATIVE_SYNTAXES):
                raise _FormatError("its pixel data is not stored as its transfer syntax says")
            stored = self._decode(form, value)
        except (DecoderError, *MALFORMED) as error:
            raise self._failure(header, error) from None
        try:
            return _to_hu(stored, header, form.signed)
        except NotHounsfieldError as error:
            raise NotHounsfieldError(f"{self._path}, {header.where}: {error}") from None

    def _value(self, header: Header, form: PixelFormat) -> tuple[bytes, bool]:
        """The slice's PixelData, and whether it is encapsulated."""
        if header.frame is None:
            with self._store.open(header.file) as file:
                content = file.read()
            return pixel_data(BytesIO(content), len(content))
        with self._lock:
            if header.file not in self._frames:
                opened = FrameFile(self._store, header)
                self._stack.callback(opened.close)
                self._frames[header.file] = opened
        of_file = self._frames[header.file]
        size = form.rows * form.columns * form.bits_allocated // 8
        return of_file.read(header.frame, header.frames, size), of_file.encapsulated

    def _decode(self, form: PixelFormat, value: bytes) -> Pixels:
        if form.syntax_uid in NATIVE_SYNTAXES:
            return decode(form, value)
        if not hasattr(self._local, "decoder"):
            decoder = DecoderProcess()
            with self._lock:
                self._stack.enter_context(decoder)
            self._local.decoder = decoder
        pixels: Pixels = self._local.decoder.decode(form, value)
        return pixels

    def _failure(self, header: Header, error: BaseException) -> UnreadableError:
        """One sentence; a text of pydicom's own could quote the file, so it is left out."""
        if isinstance(error, DecoderError | _FormatError):
            reason = str(error)
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        else:
            reason = "its pixel data is damaged or cut off"
        syntax = SYNTAX_NAMES.get(header.syntax_uid, header.syntax_uid)
        return UnreadableError(
            f"{self._path}: cannot read {header.where} ({syntax}): {reason}; copy or export it "
            "again."
        )


class _FormatError(ValueError):
    """A pixel format that no CT has; its text is fit for users."""


def _pixel_format(header: Header) -> PixelFormat:
    """Pixel format of a slice, checked.

    Raises:
        _FormatError: it does not make sense.
    """
    values = header.values
    allocated, stored = values.bits_allocated, values.bits_stored
    if allocated not in (8, 16, 32) or stored is None or not 1 <= stored <= allocated:
        raise _FormatError(f"BitsAllocated {allocated} and BitsStored {stored} do not go together")
    if values.high_bit not in (None, stored - 1):
        raise _FormatError(f"HighBit {values.high_bit} does not go with BitsStored {stored}")
    if values.signed not in (0, 1):
        raise _FormatError(f"PixelRepresentation is {values.signed}, neither 0 nor 1")
    if values.photometric not in ("", "MONOCHROME1", "MONOCHROME2"):
        raise _FormatError("its PhotometricInterpretation is not monochrome")
    return PixelFormat(
        syntax_uid=header.syntax_uid,
        rows=header.rows,
        columns=header.columns,
        bits_allocated=allocated,
        bits_stored=stored,
        signed=bool(values.signed),
        photometric=values.photometric or "MONOCHROME2",
    )


def _to_hu(stored: Pixels, header: Header, signed: bool) -> Hounsfield:
    """Rescale one slice and take its padding out.

    Raises:
        NotHounsfieldError: there is no usable slope and intercept.
    """
    if header.values.has_table:
        raise NotHounsfieldError(
            "values go through a modality lookup table, so they are not Hounsfield units."
        )
    slope, intercept = _rescale(header)
    if not np.isfinite((slope, intercept)).all() or slope == 0:
        raise NotHounsfieldError(
            "RescaleSlope or RescaleIntercept is zero or no number, so its values have no unit; "
            "export it again."
        )
    if slope == 1 and intercept == int(intercept) and abs(intercept) <= _INT16.max:
        values: Pixels = stored.astype(np.int32 if stored.itemsize < 4 else np.int64)
        values += int(intercept)
    else:
        values = np.rint(stored.astype(np.float64) * slope + intercept)
    padding = _padding(header, signed)
    if padding is not None and _is_no_tissue(header, padding):
        values[(stored >= padding[0]) & (stored <= padding[1])] = PADDING_HU
    return np.clip(values, _INT16.min, _INT16.max, out=values).astype(np.int16)


def _rescale(header: Header) -> tuple[float, float]:
    slope, intercept = header.values.slope, header.values.intercept
    return 1.0 if slope is None else slope, 0.0 if intercept is None else intercept


def _padding(header: Header, signed: bool) -> tuple[int, int] | None:
    """Lowest and highest stored value that stand for no measurement."""
    if header.values.padding is None:
        return None
    ends = sorted(
        end - 0x10000 if signed and end >= 0x8000 else end for end in header.values.padding
    )
    return ends[0], ends[1]


def _is_no_tissue(header: Header, padding: tuple[int, int]) -> bool:
    """Whether padding lies off the scale of a CT; a wrong tag must not blank real voxels."""
    slope, intercept = _rescale(header)
    low, high = sorted(end * slope + intercept for end in padding)
    return high <= PADDING_HU or low > _HIGHEST_CT_HU


def _source(path: Place, series: SeriesInfo) -> DicomSource:
    return DicomSource(
        path=path,
        study_uid=series.study_uid or None,
        series_uid=series.series_uid,
        frame_of_reference_uid=series.frame_of_reference_uid or None,
        sop_class_uid=series.sop_class_uid,
        sop_instance_uids=tuple(header.sop_uid for header in series.slices),
        files=series.files,
        frames=tuple(header.frame for header in series.slices),
        description=series.description,
        scanner=scanner_of(series.slices[0]),
    )


def scanner_of(header: Header) -> Scanner:
    """What made a slice, and in which month; a date that is none has no month."""
    date = re.match(r"(\d{4})(0[1-9]|1[0-2])", header.date)
    return Scanner(
        manufacturer=header.manufacturer,
        model=header.model,
        kernel=header.kernel,
        year=date[1] if date else "",
        month=f"{date[1]}-{date[2]}" if date else "",
    )


def _warnings(series: SeriesInfo) -> tuple[str, ...]:
    """What is odd about a series without being refused."""
    found = [f"Modelled as it lies: {each}." for each in series.irregularities]
    slices = series.slices
    if not series.series_uid:
        found.append("The files have no SeriesInstanceUID; they were told apart by description.")
    missing = sum(one.values.slope is None and one.values.intercept is None for one in slices)
    if missing:
        found.append(
            f"{missing} slices have no RescaleSlope and RescaleIntercept; their values were taken "
            "as Hounsfield units."
        )
    if any(one.values.unit not in ("", "HU") for one in slices):
        found.append("RescaleType is not HU.")
    paddings = [(one, _padding(one, one.values.signed == 1)) for one in slices]
    if any(padding and not _is_no_tissue(one, padding) for one, padding in paddings):
        found.append("PixelPaddingValue is one that tissue can have; such voxels were kept.")
    if any(one.lossy for one in slices):
        found.append("The images went through lossy compression.")
    if series.kind == DERIVED:
        found.append("The series is a derived one (ImageType DERIVED, SECONDARY).")
    if len({one.thickness_mm for one in slices}) > 1:
        found.append("SliceThickness differs between slices.")
    return tuple(found)
