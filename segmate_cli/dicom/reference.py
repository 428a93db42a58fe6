"""The DICOM slices that a label map lies on, found by place, and what their study's objects share.

A label map and a series are matched by where their voxels lie in the patient, never by an index, a
number or a file's name. The patient's attributes are carried as raw bytes from the source to the
object made of it: they are neither decoded nor printed, and the object is the same patient's.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.tag import Tag
from pydicom.uid import UID, CTImageStorage

from segmate_cli import dicom
from segmate_cli.dicom.attributes import raw_attributes
from segmate_cli.dicom.files import FileStore, Place, open_store
from segmate_cli.dicom.header import Header
from segmate_cli.dicom.malformed import MALFORMED
from segmate_cli.dicom.multiframe import read_headers
from segmate_cli.dicom.series import DERIVED, IMAGE, SeriesInfo
from segmate_cli.dicom.stack import (
    EVEN_SHARE,
    TILT_DEG,
    stack_of,
    steps_of,
    tilt_of,
    volume_geometry,
)
from segmate_cli.dicom.uids import UidMaker
from segmate_cli.errors import (
    AmbiguousSeriesError,
    GeometryError,
    InputError,
    UnreadableError,
    UsageError,
)
from segmate_cli.geometry import Geometry, Reorientation
from segmate_cli.placement import turn_onto, turned
from segmate_cli.volume import DicomSource, Source

SegType = Literal["binary", "labelmap"]
SEG_TYPES: tuple[SegType, ...] = ("binary", "labelmap")

# What every object of a study repeats (type 1 and 2, and the issuer, without which an id is not
# unique); other attributes of the patient stay behind.
SHARED = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID"),
    *("AccessionNumber", "SpecificCharacterSet"),
)
# Attributes without which nothing can refer to a slice, and what Header calls them.
_IDENTIFIERS = {
    "SOPClassUID": "sop_class_uid",
    "SOPInstanceUID": "sop_uid",
    "SeriesInstanceUID": "series_uid",
    "StudyInstanceUID": "study_uid",
    "FrameOfReferenceUID": "frame_of_reference_uid",
}
_TIMES = ("Acquisition", "Content", "Series", "Study")
_UNITS = ("Date", "Time")
_LOSSY = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")
_READ = {
    int(Tag(keyword)): keyword
    for keyword in (*SHARED, *_LOSSY, *(f"{when}{unit}" for when in _TIMES for unit in _UNITS))
}
# NIfTI keeps places in float32, and its writers round.
_ROUNDED_MM = 0.05
# The reader takes slices that lie sideways by a quarter of a pixel.
_SIDEWAYS_PIXELS = 0.25
NO_DATE = ("19000101", "000000")


@dataclass(frozen=True, slots=True)
class SegOptions:
    """Choices of how a DICOM SEG is written.

    Attributes:
        seg_type: ``binary``, a frame an organ and slice, which every reader takes; or
            ``labelmap``, a frame a slice (Supplement 243), which few read yet.
        compress: Deflate the whole file: a hundredth of the size, refused by some readers.
        uid_root: Root of the UIDs; None for 2.25.
        reference: Folder, .zip or file of the DICOM series that the scan was made of; None for
            a scan that was read from DICOM.
        series: Which series of ``reference``, where several fit.
    """

    seg_type: SegType = "binary"
    compress: bool = False
    uid_root: str | None = None
    reference: Path | None = None
    series: str | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """The slices of a series, one for each plane of a label map.

    Attributes:
        path: Where the series lies.
        slices: Sorted along their normal.
        turn: From the label map's axes to the slices'; plane k then lies on slice k.
        shared: Raw bytes of attributes by keyword; they name a patient, so never print them.
        made_at: (date, time) of the scan as DICOM writes them, or a fixed one where unknown.
        made_up: Identifiers that none of the files has, so that they were made up.
        series: As it was found; None for the slices that a scan was read from.
    """

    path: Place
    slices: tuple[Header, ...]
    turn: Reorientation
    shared: dict[str, bytes]
    made_at: tuple[str, str]
    made_up: tuple[str, ...] = ()
    series: SeriesInfo | None = None

    @property
    def geometry(self) -> Geometry:
        """Where the slices' voxels lie."""
        return volume_geometry(self.slices)

    @property
    def missing(self) -> tuple[str, ...]:
        """Where slices are missing, one phrase a gap."""
        stack = stack_of(self.slices)
        _, gaps, _ = steps_of(stack)
        return tuple(stack.gap_at(gap) for gap in gaps)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What readers will make of a SEG on these slices, one sentence each."""
        found = []
        tilt_deg = tilt_of(stack_of(self.slices)) or 0.0
        if tilt_deg > TILT_DEG:
            found.append(
                f"the slices are tilted by {tilt_deg:.1f} degrees: OHIF reads such a DICOM SEG, "
                "3D Slicer and other readers by dcmqi refuse it, pydicom-seg reads it wrongly."
            )
        if self.missing:
            found.append(
                f"slices are missing ({'; '.join(self.missing)}): there a DICOM SEG has no frames, "
                "and the volumes that other readers sum up from it are too low."
            )
        if self.made_up:
            found.append(
                f"the series has no {', '.join(self.made_up)}, so the DICOM objects refer to "
                "identifiers that were made up from its files: no archive can show them on it."
            )
        return tuple(found)


def reference_for(geometry: Geometry, source: Source | None, options: SegOptions) -> Reference:
    """The DICOM slices that a scan's SEG will lie on.

    Raises:
        UsageError: The scan was not read from DICOM, and no ``reference`` is given.
        InputError: As ``of_source`` and ``of_folder`` say.
    """
    if options.reference is not None:
        return of_folder(geometry, options.reference, options.series)
    if isinstance(source, DicomSource):
        return of_source(geometry, source)
    raise UsageError(
        "a DICOM SEG lies on DICOM slices; give the series that the scan was made of with "
        "--reference-dicom FOLDER."
    )


def of_source(geometry: Geometry, source: DicomSource) -> Reference:
    """The slices that a scan was read from.

    Raises:
        UnreadableError: They are gone or damaged.
        InputError: They lack an identifier without which nothing can refer to them.
        GeometryError: They do not lie where the label map does.
    """
    with open_store(source.path) as store:
        there = [name for name in dict.fromkeys(source.files) if name in store.names]
        found = {
            (one.file, one.frame): one
            for name in there
            for one in read_headers(store, name)
            if isinstance(one, Header)
        }
        frames = source.frames or (None,) * len(source.files)
        wanted = zip(source.files, frames, strict=True)
        slices = tuple(found[each] for each in wanted if each in found)
        if tuple(one.sop_uid for one in slices) != source.sop_instance_uids:
            raise UnreadableError(
                f"{source.path}: its files have changed since they were read; run again."
            )
        return _reference(store, geometry, slices)


def of_folder(geometry: Geometry, path: Path, series: str | None = None) -> Reference:
    """The one series under ``path`` whose voxels are the label map's, in whatever storage order.

    Args:
        geometry: The label map's.
        path: A folder, .zip or file of DICOM.
        series: As for ``dicom.choose_series``; None for the only one that lies there.

    Raises:
        GeometryError: None lies there; the message says how far off it is.
        AmbiguousSeriesError: Several do.
        InputError: There is no CT series, or it lacks identifiers.
    """
    finding = dicom.find_series(path)
    if series is not None and series.strip().lower() != "auto":
        candidates: Sequence[SeriesInfo] = (dicom.choose_series(finding, series),)
    else:
        candidates = [
            one
            for one in finding.series
            if one.kind in (IMAGE, DERIVED) and len(one.positions_mm) > 1
        ]
    if not candidates:
        dicom.choose_series(finding, series)  # says what lies there instead
    off = {one.number: _misfit(geometry, one.slices) for one in candidates}
    fitting = [one for one in candidates if off[one.number] is None]
    if len(fitting) > 1:
        raise AmbiguousSeriesError(
            f"{path} holds {len(fitting)} CT series on the scan's voxels; choose one with "
            f"--series NUMBER or --series UID:\n{dicom.series_table(fitting)}"
        )
    if not fitting:
        reasons = "; ".join(f"series {number}: {why}" for number, why in off.items())
        raise GeometryError(
            f"{path}: no series has its voxels where the scan has them ({reasons or 'no series'}); "
            "give the series that the scan was made of."
        )
    with open_store(path) as store:
        found = _reference(store, geometry, fitting[0].slices)
    return replace(found, series=fitting[0])


def _reference(store: FileStore, geometry: Geometry, slices: tuple[Header, ...]) -> Reference:
    slices, made_up = _identified(store, slices)
    turn, reason = turn_onto(geometry, volume_geometry(slices)), _misfit(geometry, slices)
    if turn is None or reason is not None:
        raise GeometryError(f"{store.path}: its slices do not lie on the label map ({reason}).")
    raw = _raw_attributes(store, slices[0].file)
    kept = {keyword: raw.get(keyword, b"") for keyword in SHARED}
    if slices[0].lossy:
        kept |= {keyword: raw[keyword] for keyword in _LOSSY if keyword in raw}
    kept["StudyInstanceUID"] = slices[0].study_uid.encode()
    return Reference(store.path, slices, turn, kept, _made_at(raw), made_up)


def _identified(
    store: FileStore, slices: tuple[Header, ...]
) -> tuple[tuple[Header, ...], tuple[str, ...]]:
    """The slices with all that an object refers to, and what of it had to be made up.

    Anonymising takes identifiers away. What none of the slices has is derived from the files
    themselves: the same files give the same, and no others do.
    """
    missing = tuple(k for k, name in _IDENTIFIERS.items() if not any(_values(slices, name)))
    if "SOPClassUID" in missing:
        slices = tuple(replace(one, sop_class_uid=CTImageStorage) for one in slices)
    if "SOPInstanceUID" in missing:
        slices = tuple(
            replace(one, sop_uid=_made_up("slice", _sha256(store, one.file))) for one in slices
        )
    if "SeriesInstanceUID" in missing:
        uid = _made_up("series", *(one.sop_uid for one in slices))
        slices = tuple(replace(one, series_uid=uid) for one in slices)
    # What lies in one series is of one study and in one frame of reference.
    if "StudyInstanceUID" in missing:
        uid = _made_up("study", slices[0].series_uid)
        slices = tuple(replace(one, study_uid=uid) for one in slices)
    if "FrameOfReferenceUID" in missing:
        uid = _made_up("frame of reference", slices[0].series_uid)
        slices = tuple(replace(one, frame_of_reference_uid=uid) for one in slices)
    _check_identified(store.path, slices)
    return slices, missing


def _values(slices: Sequence[Header], name: str) -> list[str]:
    return [getattr(one, name) for one in slices]


def _made_up(*about: str) -> str:
    return UidMaker.of({"made up": about}).uid()


def _sha256(store: FileStore, name: str) -> str:
    with store.open(name) as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def _check_identified(path: Place, slices: tuple[Header, ...]) -> None:
    remedy = (
        "DICOM objects cannot refer to it. Use the series as the archive has it or, if it was "
        "anonymised, one that kept its UIDs."
    )
    for keyword, name in _IDENTIFIERS.items():
        values = set(_values(slices, name))
        if keyword == "SOPInstanceUID":
            slots = {(one.sop_uid, one.frame) for one in slices}
            if len(slots) < len(slices) or "" in values:
                raise InputError(f"{path}: slices without a SOPInstanceUID of their own: {remedy}")
        elif len(values) > 1:
            raise InputError(f"{path}: the series has several {keyword}s: {remedy}")
    if not UID(slices[0].sop_class_uid).keyword.endswith("ImageStorage"):
        raise InputError(f"{path}: the series is of a class that DICOM does not know: {remedy}")


def _misfit(geometry: Geometry, slices: Sequence[Header]) -> str | None:
    """Why a label map does not lie on the slices, or None."""
    try:
        reference = volume_geometry(slices)
    except GeometryError as error:
        return str(error)
    turn = turn_onto(geometry, reference)
    if turn is None:
        return "other axes"
    shape = tuple(geometry.shape[axis] for axis in turn.axes)
    if shape != reference.shape:
        return f"{shape} voxels against {reference.shape}"
    step_mm, row_mm, column_mm = reference.spacing_mm
    allowed = max(EVEN_SHARE * step_mm, _SIDEWAYS_PIXELS * min(row_mm, column_mm)) + _ROUNDED_MM
    own = turned(geometry, turn)
    far_mm = max(_off_mm(own, k, one) for k, one in enumerate(slices))
    return None if far_mm <= allowed else f"voxels up to {far_mm:.2f} mm apart"


def _off_mm(own: Geometry, k: int, header: Header) -> float:
    """Largest distance of plane k's corners from those of a slice, by its own attributes."""
    place = np.array(header.position_mm, dtype=np.float64)
    row, column = np.array(header.orientation, dtype=np.float64).reshape(2, 3)
    between_rows, between_columns = header.pixel_spacing_mm or (0.0, 0.0)
    _, rows, columns = own.shape
    worst = 0.0
    for j in (0, rows - 1):
        for i in (0, columns - 1):
            theirs = place + column * between_rows * j + row * between_columns * i
            worst = max(worst, float(np.linalg.norm(own.to_lps_mm((k, j, i)) - theirs)))
    return worst


def _raw_attributes(store: FileStore, name: str) -> dict[str, bytes]:
    try:
        with store.open(name) as stream:
            found = raw_attributes(stream, store.size(name), frozenset(_READ))
    except MALFORMED as error:
        raise UnreadableError(f"{store.path}, {name}: its header cannot be read again.") from error
    return {_READ[tag]: value for tag, value in found.items() if value}


def _made_at(raw: dict[str, bytes]) -> tuple[str, str]:
    """When the slices were made, where a whole date tells; objects derived from them repeat it."""
    for when in _TIMES:
        date, time = (raw.get(f"{when}{unit}", b"").decode("latin-1") for unit in _UNITS)
        if (found := whole_time(date, time)) is not None:
            return found
    return NO_DATE


def whole_time(date: str, time: str) -> tuple[str, str] | None:
    """A date and time that any reader takes, to the second; None where the date is none.

    What other software wrote is not always either; a broken time becomes midnight.
    """
    date, time = date.strip("\0 "), time.strip("\0 ")
    if not re.fullmatch(r"(18|19|20)[0-9]{6}", date):
        return None
    try:
        datetime.date(int(date[:4]), int(date[4:6]), int(date[6:]))
    except ValueError:
        return None
    whole = re.match(r"([01][0-9]|2[0-3])([0-5][0-9]){2}", time)
    return date, whole.group() if whole else "000000"
