"""The voxels of a DICOM series as Hounsfield units, slice by slice into one int16 array."""

from __future__ import annotations

import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from segmate_cli.dicom_decode import (
    EXPLICIT_BIG,
    SAFE_SYNTAXES,
    SYNTAX_NAMES,
    DecoderError,
    DecoderProcess,
    PixelFormat,
    Pixels,
    decode,
)
from segmate_cli.dicom_files import FileStore, open_store
from segmate_cli.dicom_header import MALFORMED, Header, numbers, parse, value_of, whole
from segmate_cli.dicom_series import DERIVED, IMAGE, SeriesInfo
from segmate_cli.errors import GeometryError, InputError, NotHounsfieldError, UnreadableError
from segmate_cli.volume import DicomSource, Hounsfield, Volume

# Air at the lower end of the 12-bit CT scale. Padding lies outside of the reconstruction circle,
# where air would be; any value far below it (-2000, -3024) would bend resampling at its border.
PADDING_HU = -1024
_HIGHEST_CT_HU = 3071
_MOST_WORKERS = 4
# A decoder process takes 0.3 s to start.
_SLICES_A_PROCESS = 8

_TAGS = (
    *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PhotometricInterpretation", "NumberOfFrames", "RescaleSlope"),
    *("RescaleIntercept", "RescaleType", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    "ModalityLUTSequence",
)

OnSlice = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Notes:
    """What is odd about the values of one slice."""

    rescale_missing: bool = False
    other_unit: bool = False
    padded: int = 0
    padding_in_range: int = 0
    clipped: int = 0


def read_voxels(path: Path, series: SeriesInfo, on_slice: OnSlice | None = None) -> Volume:
    """Read a series that `segmate_cli.dicom.choose_series` gave.

    Slices are in the order of their positions along the normal, so k grows along it; each is
    rescaled by its own slope and intercept in exact or float64 arithmetic and rounded to int16.

    Args:
        path: Where the series was found.
        series: The series.
        on_slice: Called with (slices read, slices) after each one, from several threads.

    Raises:
        GeometryError: missing, doubled, uneven, tilted or mixed slices, with their places.
        NotHounsfieldError: no Hounsfield units can be had from the stored values.
        UnreadableError: a file is damaged, cut off, gone, or its compression is unknown.
        InputError: the series is no stack of CT slices.
    """
    check_fit(path, series)
    geometry = series.geometry
    hu = np.empty(geometry.shape, dtype=np.int16)
    with open_store(path) as store, warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        reader = _SliceReader(path, store, series, hu, on_slice, stack)
        with ThreadPoolExecutor(_workers(series)) as pool:
            jobs = [pool.submit(reader.read, k) for k in range(len(series.slices))]
            try:
                notes = [job.result() for job in jobs]
            finally:
                pool.shutdown(cancel_futures=True)
    return Volume(hu, geometry, _source(path, series), _warnings(series, notes))


def check_fit(path: Path, series: SeriesInfo) -> None:
    """Refuse a series that is no complete, even, upright stack, before any pixel is read.

    Raises:
        GeometryError, UnreadableError, InputError: as `read_voxels` says.
    """
    what = f"{path}, series {series.description or series.series_uid[-16:] or '(no UID)'}"
    if series.kind not in (IMAGE, DERIVED):
        hint = " give the folder of the whole series." if series.kind == "single slice" else ""
        if series.kind == "multi-frame image":
            hint = " convert it to single-frame DICOM or NIfTI first."
        raise InputError(f"{what} is a {series.kind}, not a stack of CT slices;{hint}".rstrip(";"))
    if series.problems:
        more = len(series.problems) - 1
        also = f" ({more} more: see `segmate inspect`)" if more else ""
        raise GeometryError(
            f"{what}: {series.problems[0]}{also}; segmate reads complete, even, upright series: "
            "export it again, or give the fitting slices alone."
        )
    unknown = [uid for uid in series.transfer_syntaxes if uid not in SYNTAX_NAMES]
    if unknown:
        raise UnreadableError(
            f"{what}: transfer syntax {unknown[0]} is not one that segmate decodes; "
            "export it uncompressed."
        )


def _workers(series: SeriesInfo) -> int:
    cores = os.cpu_count() or 1
    wanted = 1 + len(series.slices) // _SLICES_A_PROCESS
    return max(1, min(_MOST_WORKERS, cores, wanted))


class _SliceReader:
    """Reads single slices into the volume; called from several threads."""

    def __init__(
        self,
        path: Path,
        store: FileStore,
        series: SeriesInfo,
        hu: Hounsfield,
        on_slice: OnSlice | None,
        stack: ExitStack,
    ) -> None:
        self._path, self._store, self._series, self._hu = path, store, series, hu
        self._on_slice, self._stack = on_slice, stack
        self._lock, self._local, self._done = threading.Lock(), threading.local(), 0

    def read(self, k: int) -> _Notes:
        """Read slice k; what is odd about it."""
        header = self._series.slices[k]
        try:
            data = self._load(header)
            form = _pixel_format(data, header)
            stored = self._decode(form, data["PixelData"].value)
        except (DecoderError, *MALFORMED) as error:
            raise self._failure(header, error) from None
        try:
            notes = _to_hu(stored, data, form, self._hu[k])
        except NotHounsfieldError as error:
            raise NotHounsfieldError(f"{self._path}, {header.file}: {error}") from None
        if self._on_slice is not None:
            with self._lock:
                self._done += 1
                self._on_slice(self._done, len(self._series.slices))
        return notes

    def _load(self, header: Header) -> Dataset:
        with self._store.open(header.file) as file:
            content = file.read()
        data, _ = parse(BytesIO(content), len(content), _TAGS, with_pixels=True)
        return data

    def _decode(self, form: PixelFormat, value: bytes) -> Pixels:
        if form.syntax_uid in SAFE_SYNTAXES:
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
        elif isinstance(error, KeyError):
            reason = "it has no pixel data"
        else:
            reason = "its pixel data is damaged or cut off"
        syntax = SYNTAX_NAMES.get(header.syntax_uid, header.syntax_uid)
        return UnreadableError(
            f"{self._path}: cannot read {header.file} ({syntax}): {reason}; copy or export it "
            "again."
        )


class _FormatError(ValueError):
    """A pixel format that no CT has; its text is fit for users."""


def _pixel_format(data: Dataset, header: Header) -> PixelFormat:
    """Pixel format of a slice, checked.

    Raises:
        _FormatError: it does not make sense, or is another than the header had.
    """
    allocated, stored = whole(data, "BitsAllocated"), whole(data, "BitsStored")
    signed = whole(data, "PixelRepresentation")
    if allocated not in (8, 16, 32) or stored is None or not 1 <= stored <= allocated:
        raise _FormatError(f"BitsAllocated {allocated} and BitsStored {stored} do not go together")
    if whole(data, "HighBit") not in (None, stored - 1):
        raise _FormatError(f"HighBit {whole(data, 'HighBit')} with BitsStored {stored}")
    if signed not in (0, 1):
        raise _FormatError(f"PixelRepresentation is {signed}")
    photometric = str(value_of(data, "PhotometricInterpretation") or "MONOCHROME2").strip()
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise _FormatError("its PhotometricInterpretation is not monochrome")
    return PixelFormat(
        syntax_uid=header.syntax_uid,
        rows=header.rows,
        columns=header.columns,
        bits_allocated=allocated,
        bits_stored=stored,
        signed=bool(signed),
        photometric=photometric,
    )


def _to_hu(stored: Pixels, data: Dataset, form: PixelFormat, out: Hounsfield) -> _Notes:
    """Rescale one slice into ``out`` and take its padding out."""
    if "ModalityLUTSequence" in data:
        raise NotHounsfieldError(
            "values go through a modality lookup table, so they are not Hounsfield units."
        )
    slope, intercept, missing = _rescale(data)
    padding = _padding_range(data, form)
    if slope == int(slope) and intercept == int(intercept) and abs(slope * intercept) < 1 << 20:
        values: Pixels = stored.astype(np.int64) * int(slope) + int(intercept)
    else:
        values = np.rint(stored.astype(np.float64) * slope + intercept)
    padded = in_range = 0
    if padding is not None:
        is_padding = (stored >= padding[0]) & (stored <= padding[1])
        ends_hu = sorted(value * slope + intercept for value in padding)
        if ends_hu[1] < PADDING_HU or ends_hu[0] > _HIGHEST_CT_HU:
            values[is_padding] = PADDING_HU
            padded = int(is_padding.sum())
        elif ends_hu[1] > PADDING_HU:
            # Real tissue may have this value, so it is no sign of padding alone.
            in_range = int(is_padding.sum())
    limits = np.iinfo(np.int16)
    clipped = int(((values < limits.min) | (values > limits.max)).sum())
    np.clip(values, limits.min, limits.max, out=values)
    out[...] = values
    unit = str(value_of(data, "RescaleType") or "HU").strip().upper()
    return _Notes(missing, unit != "HU", padded, in_range, clipped)


def _rescale(data: Dataset) -> tuple[float, float, bool]:
    """(slope, intercept, whether they are missing)."""
    has = [keyword in data for keyword in ("RescaleSlope", "RescaleIntercept")]
    if not any(has):
        return 1.0, 0.0, True
    slope = numbers(data, "RescaleSlope", 1) if has[0] else (1.0,)
    intercept = numbers(data, "RescaleIntercept", 1) if has[1] else (0.0,)
    if slope is None or intercept is None or slope[0] == 0.0:
        raise NotHounsfieldError(
            "RescaleSlope or RescaleIntercept is zero or no number, so its values have no unit; "
            "export it again."
        )
    return slope[0], intercept[0], False


def _padding_range(data: Dataset, form: PixelFormat) -> tuple[int, int] | None:
    """Stored values, from and to, that stand for no measurement."""
    value = _stored_number(data, "PixelPaddingValue", form)
    if value is None:
        return None
    limit = _stored_number(data, "PixelPaddingRangeLimit", form)
    limit = value if limit is None else limit
    return min(value, limit), max(value, limit)


def _stored_number(data: Dataset, keyword: str, form: PixelFormat) -> int | None:
    """An attribute that is signed or not as the pixels are, whatever its VR says."""
    value = value_of(data, keyword)
    if isinstance(value, bytes):
        order = ">" if form.syntax_uid == EXPLICIT_BIG else "<"
        found: int | None = int(np.frombuffer(value[:2], order + "u2")[0]) if value[1:] else None
    else:
        found = whole(data, keyword)
    if found is None:
        return None
    wrapped = found & 0xFFFF
    return wrapped - 0x10000 if form.signed and wrapped >= 0x8000 else wrapped


def _source(path: Path, series: SeriesInfo) -> DicomSource:
    return DicomSource(
        path=path,
        study_uid=series.study_uid or None,
        series_uid=series.series_uid,
        frame_of_reference_uid=series.frame_of_reference_uid or None,
        sop_class_uid=series.sop_class_uid,
        sop_instance_uids=tuple(header.sop_uid for header in series.slices),
        files=series.files,
        description=series.description,
    )


def _warnings(series: SeriesInfo, notes: list[_Notes]) -> tuple[str, ...]:
    found = []
    count = Counter[str]()
    for note in notes:
        count["missing"] += note.rescale_missing
        count["unit"] += note.other_unit
        count["clipped"] += note.clipped
        count["in_range"] += note.padding_in_range
    if count["missing"]:
        found.append(
            f"{count['missing']} slices have no RescaleSlope and RescaleIntercept; their values "
            "were taken as Hounsfield units."
        )
    if count["unit"]:
        found.append(f"{count['unit']} slices have a RescaleType other than HU.")
    if count["clipped"]:
        found.append(f"{count['clipped']} voxels lay outside of 16 bits and were clipped.")
    if count["in_range"]:
        found.append(
            f"{count['in_range']} voxels have a PixelPaddingValue that tissue could have too; "
            "they were kept."
        )
    if any(header.lossy for header in series.slices):
        found.append("The images went through lossy compression.")
    if series.kind == DERIVED:
        found.append("The series is a derived one (ImageType DERIVED, SECONDARY).")
    if not series.series_uid:
        found.append("The files have no SeriesInstanceUID; they were told apart by description.")
    if len({header.thickness_mm for header in series.slices}) > 1:
        found.append("SliceThickness differs between slices.")
    return tuple(found)
