"""What may be wrong with any DICOM object, and how it is told; see ``check``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from segmate_cli.dicom.header import Header

Level = Literal["error", "warning", "note"]
Vectors = npt.NDArray[np.float64]
#: Slices of a series by SOPInstanceUID and, in a multi-frame file, number of the frame.
Sources = Mapping[tuple[str, int | None], Header]

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_LONGEST_UID = 64
_MUST_HAVE = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality")
_MUST_BE_THERE = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("StudyID", "AccessionNumber", "ReferringPhysicianName", "SeriesNumber"),
)
# Characters at most (PS3.5 table 6.2-1), of representations that objects here use.
_LONGEST = {"AE": 16, "CS": 16, "SH": 16, "LO": 64, "UI": 64, "DS": 16, "IS": 12, "DA": 8}
_TEXT = ("PN", "LO", "SH", "LT", "ST", "UT", "UC")
SAME_PLACE_MM = 1e-2
_SAME_DIRECTION = 2e-3
_TILT_DEG = 0.1
_PIXEL_DATA = 0x7FE00010
_UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about an object.

    Attributes:
        level: ``error`` breaks a rule of DICOM or a reference, ``warning`` is legal and refused
            by some readers, ``note`` is worth knowing.
        where: The attribute, frame, segment or ROI.
        what: What is the matter, without anything that names a patient.
        readers: Who will fail of it.
    """

    level: Level
    where: str
    what: str
    readers: str = ""


def common(found: Dataset) -> Iterator[Finding]:
    """Identity, lengths and characters."""
    for keyword in _MUST_HAVE:
        if not found.get(keyword):
            yield Finding("error", keyword, "is missing or empty", "archives")
    absent = [keyword for keyword in _MUST_BE_THERE if keyword not in found]
    if absent:
        yield Finding("error", ", ".join(absent), "absent; may be empty, not absent", "archives")
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if found.file_meta.get(f"MediaStorage{keyword}") != found.get(keyword):
            yield Finding("error", keyword, "differs from the file's preamble", "archives, DCMTK")


def shapes(found: Dataset) -> Iterator[Finding]:
    """Values too long, of odd length, no UIDs, or of an alphabet that is not named.

    To be asked first: pydicom keeps a value's raw form only until somebody reads it.
    """
    named = "SpecificCharacterSet" in found
    told: set[tuple[str, str]] = set()
    for element in _raw(found):
        raw = element.value or b""
        where = keyword_of(element)
        problems = list(_problems(element.VR or _usual_kind(element), raw, named))
        if len(raw) < element.length < _UNDEFINED:
            problems.append("is cut off")
        for problem in problems:
            if (where, problem) not in told:
                told.add((where, problem))
                yield Finding("error", where, problem, "strict readers, archives")


def keyword_of(element: RawDataElement) -> str:
    """Name of an attribute, or its tag where it is private."""
    from pydicom.datadict import keyword_for_tag

    return keyword_for_tag(element.tag) or f"({element.tag.group:04X},{element.tag.element:04X})"


def _usual_kind(element: RawDataElement) -> str:
    """Value representation where the file does not tell it."""
    from pydicom.datadict import dictionary_VR

    try:
        return str(dictionary_VR(element.tag))
    except KeyError:
        return ""


def _raw(item: Dataset) -> Iterator[RawDataElement]:
    """Elements as they stand in the file, pixels aside, those in sequences included."""
    for tag in sorted(item.keys()):
        element = item.get_item(tag)
        is_sequence = element.VR == "SQ"
        if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
            is_sequence = (element.VR or _usual_kind(element)) == "SQ"
            if element.tag != _PIXEL_DATA:
                yield element
        if is_sequence:
            for inner in item[tag].value or []:
                yield from _raw(inner)


def _problems(kind: str, raw: bytes, named: bool) -> Iterator[str]:
    if len(raw) % 2:
        yield "has an odd length"
    if kind == "SQ":
        return
    parts = raw.split(b"\\")
    longest = _LONGEST.get(kind)
    if longest and max(len(part.strip(b" \0")) for part in parts) > longest:
        yield f"is longer than {longest} characters"
    if kind == "UI" and not all(is_uid(part.decode("latin-1")) for part in parts if part):
        yield "is no UID"
    if kind in _TEXT and not named and not raw.isascii():
        yield "has letters of an alphabet that SpecificCharacterSet does not name"


def is_uid(text: str) -> bool:
    """Whether a text is a UID, its padding aside."""
    bare = text.rstrip("\0 ")
    return len(bare) <= _LONGEST_UID and _UID.fullmatch(bare) is not None


def places(where: str, normal: Vectors, points: Vectors) -> Iterator[Finding]:
    """What readers of volumes will make of slices at these places, (n, 3) LPS mm."""
    along = points @ normal
    order = np.argsort(along)
    steps = np.diff(along[order])
    steps = steps[steps > SAME_PLACE_MM]
    if not steps.size:
        return
    run = points[order[-1]] - points[order[0]]
    sideways = np.linalg.norm(run - (run @ normal) * normal)
    tilt_deg = float(np.degrees(np.arctan2(sideways, run @ normal)))
    if tilt_deg > _TILT_DEG and sideways > 10 * SAME_PLACE_MM:
        yield Finding(
            "warning",
            where,
            f"slices are tilted by {tilt_deg:.1f} degrees against their stack",
            "dcmqi, 3D Slicer, highdicom's volumes, itk-wasm; pydicom-seg reads it wrongly",
        )
    whole = steps / steps.min()
    if np.abs(whole - np.rint(whole)).max() > 0.1:
        what = f"slices are {steps.min():.2f} to {steps.max():.2f} mm apart, unevenly"
        yield Finding("warning", where, what, "dcmqi, 3D Slicer, highdicom's volumes")
    elif whole.max() > 1.5:
        yield Finding(
            "note", where, "some slices between the first and the last have no frame, so are empty"
        )


def off_source(
    place: Sequence[float], orientation: Sequence[float] | None, header: Header
) -> str | None:
    """How a frame lies off the slice that it names, or None."""
    apart = np.linalg.norm(np.array(place, float) - np.array(header.position_mm, float))
    if apart > SAME_PLACE_MM:
        return f"lies {apart:.2f} mm off the slice that it names"
    if orientation is None or header.orientation is None:
        return None
    turned = np.abs(np.array(orientation, float) - np.array(header.orientation, float)).max()
    return "is turned against the slice that it names" if turned > _SAME_DIRECTION else None


def referred(image: Dataset, sources: Sources | None) -> Header | None:
    """The slice that a reference names: of a multi-frame file, the frame that it gives."""
    number = image.get("ReferencedFrameNumber")
    if isinstance(number, Sequence) and not isinstance(number, str):
        number = number[0] if len(number) == 1 else None
    frame = None if number is None else int(number)
    return (sources or {}).get((str(image.get("ReferencedSOPInstanceUID", "")), frame))


def missing_sources(
    named: Mapping[str, str], listed: set[str], sources: Sources | None
) -> Iterator[Finding]:
    """References that lead nowhere.

    Args:
        named: Where each SOPInstanceUID is named, by UID.
        listed: Those that the object lists as its series.
        sources: The series itself, where it was given.
    """
    lost = [where for uid, where in named.items() if uid not in listed]
    if lost:
        what = f"names a slice that the list of the series lacks ({len(lost)} do)"
        yield Finding("error", lost[0], what, "OHIF, Slicer")
    if sources is not None:
        there = {uid for uid, _ in sources}
        gone = [where for uid, where in named.items() if uid not in there]
        if gone:
            what = f"names a slice that the given series does not have ({len(gone)} do)"
            yield Finding("error", gone[0], what, "all")
