"""DICOM RT Structure Sets as contours of organs: segmate's and those of others.

What an organ is comes from its code and side, else from its name. pydicom's values are used, never
quoted: a file names a patient. ``rtstruct_sheets`` fills the contours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import RTStructureSetStorage

from segmate_cli.dicom.malformed import MALFORMED
from segmate_cli.dicom.objects import check_inflated, organ_by_code, quiet
from segmate_cli.dicom.rtstruct_slices import image_of, listed_images
from segmate_cli.errors import UnreadableError
from segmate_cli.organs import Organ, foreign_organ

Points = npt.NDArray[np.float64]

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_CONTOUR_DATA = (0x3006, 0x0050)
_BROKEN = (*MALFORMED, InvalidDicomError, BytesLengthException)


@dataclass(frozen=True, slots=True)
class Structure:
    """One region of interest.

    Attributes:
        organ: What it is.
        contours: Closed planar ones, (n, 3) LPS mm each.
        images: The slice that each was drawn on, or "".
    """

    organ: Organ
    contours: tuple[Points, ...]
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StructureSet:
    """What an RTSTRUCT holds.

    Attributes:
        path: The file.
        structures: In the file's order.
        series_uid: The series that it was drawn on, or None.
        listed: The slices of that series, as far as the file names them, in its order.
        is_own: Whether segmate wrote it, and so lists all slices.
    """

    path: Path
    structures: tuple[Structure, ...]
    series_uid: str | None
    listed: tuple[str, ...] = ()
    is_own: bool = False


def is_rtstruct(path: Path) -> bool:
    """Whether a file is an RTSTRUCT, by its first bytes."""
    try:
        with quiet():
            return bool(read_file_meta_info(path).MediaStorageSOPClassUID == RTStructureSetStorage)
    except _BROKEN:
        return False


def read_rtstruct(path: Path, names: dict[int, Organ] | None = None) -> StructureSet:
    """Read an RTSTRUCT.

    Args:
        path: The file.
        names: What the ROI numbers mean; by default as the file says.

    Raises:
        UnreadableError: No RTSTRUCT, or damaged.
    """
    try:
        with quiet():
            check_inflated(path)
            found = pydicom.dcmread(path)
            drawn = {
                int(item.ReferencedROINumber): _contours(item) for item in found.ROIContourSequence
            }
            organs = names or _organs(found)
            structures = tuple(
                Structure(
                    organ,
                    tuple(points for points, _ in drawn.get(number, [])),
                    tuple(image_of(each) for _, each in drawn.get(number, [])),
                )
                for number, organ in organs.items()
            )
            own = found.get("Manufacturer") == "segmate"
            return StructureSet(path, structures, _series_uid(found), listed_images(found), own)
    except _BROKEN as error:
        raise UnreadableError(
            f"{path}: damaged, cut off, or no RTSTRUCT that segmate can read; copy it again."
        ) from error


def _contours(item: Dataset) -> list[tuple[Points, Dataset]]:
    """The closed contours of a region that enclose something: points (n, 3), and the items."""
    closed = (
        (_numbers(each), each)
        for each in item.get("ContourSequence") or []
        if each.get("ContourGeometricType") in _CLOSED
    )
    return [(numbers.reshape(-1, 3), each) for numbers, each in closed if numbers.size >= 9]


def _numbers(contour: Dataset) -> Points:
    """The coordinates as they stand in the file: an object for each takes ten times as long."""
    stored = contour.get_item(_CONTOUR_DATA)
    if isinstance(stored, RawDataElement) and stored.value:
        return np.array(stored.value.rstrip(b" \0").split(b"\\"), dtype=np.float64)
    return np.array(contour.get("ContourData") or [], dtype=np.float64)


def _organs(found: Dataset) -> dict[int, Organ]:
    """Organ of each ROI number, by code, else by name."""
    codes: dict[int, Dataset] = {}
    for item in found.get("RTROIObservationsSequence") or []:
        if kinds := item.get("RTROIIdentificationCodeSequence"):
            codes[int(item.ReferencedROINumber)] = kinds[0]
    organs: dict[int, Organ] = {}
    for item in found.StructureSetROISequence:
        number = int(item.ROINumber)
        name = str(item.get("ROIName") or f"roi_{number}").strip()
        known = organ_by_code(codes[number]) if number in codes else None
        organs[number] = known or foreign_organ(name, number)
    return organs


def _series_uid(found: Dataset) -> str | None:
    for frame in found.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                return str(series.SeriesInstanceUID)
    return None
