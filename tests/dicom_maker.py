"""Synthetic DICOM series for tests: any orientation, order, syntax, rescale, gap, tilt, tag.

Every file carries `PATIENT` in all attributes that could name a patient, so that a test can show
that no message repeats it.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"

PATIENT = "ZzDoe"
UID_ROOT = "1.2.826.0.1.3680043.8.498."

# 16 x 16 waves (see `waves`) as a 12-bit lossy JPEG and as HTJ2K: no encoder of these is among
# the test requirements. Written with imagecodecs 2026.3.6.
JPEG_12_BITS = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYG"
    "CAsICQoKCgoKBggLDAsKDAkKCgr/wQALDAAQABABAREA/8QAFgABAQEAAAAAAAAAAAAAAAAADAcI/8QAIhAAAAUDBQEB"
    "AAAAAAAAAAAAAQIDBAUGBwgACQoLEUFR/9oACAEBAAA/AC9nRr80TC3Yl2zLbWvvxcqIinUZTzRFVN67IQQEqZQ+jrf3"
    "ce88jA3ed2mq/tJZe6kJJPJCmXKCabR6Q4iJkjB8HRiLl09spdXhq3+nsdqPv65pxOn3yjUqKUmKQFAhhL54Ah+ajHF3"
    "7nW8XLCyRhcYaqyRdz6U5IJtDIKyqogYDmAvngmH91//2Q=="
)
HTJ2K_12_BITS = base64.b64decode(
    "/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB"
    "/1wAEyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAASIAAf+TwAAmx/UFB3QA"
    "AMAAEsAAEsAAEwCyAgd0AP0CB3QAMf4Ch3QAwAAVMAAFTAABUrZR/H3yAIKUACiUYtNIAKOUAERGJmLyAIOUAMAAFrwA"
    "AWpAABaANpTBTUhNth9K5gUefrTi+gIREABalwAAgSJx20sYcDnBjQFFAiKD5Ah3AChDygwPOE8C0nk+9AKIdwDAAC7i"
    "AAF2EAALSEYkXAMAgNYQEF9JJK4WcqkldQ4IE7sQFBYYNhaEwNST/Vt9nTuHhUQchwNICiANeAaCEWUksrABgIEbIZmA"
    "m4Fic3N1UyOBYShKDEviscgtjota4hC4/QIQIQQhABXmGqgD3QGrWHEBNEz1ASAAJsnPdBLCSuEQoG0A/9k="
)


def waves() -> npt.NDArray[np.uint16]:
    """The stored values in JPEG_12_BITS and HTJ2K_12_BITS."""
    y, x = np.mgrid[:16, :16]
    return (1000 + 900 * np.sin(x / 5) * np.cos(y / 6)).astype(np.uint16)


def asymmetric(shape: tuple[int, int, int]) -> npt.NDArray[np.int16]:
    """HU that differ in every voxel's neighbourhood, so that no flip or swap goes unseen."""
    k, j, i = np.ogrid[: shape[0], : shape[1], : shape[2]]
    return (37 * k + 11 * j - 5 * i + (i * j + 3 * k * i) % 29 - 200).astype(np.int16)


@dataclass(frozen=True)
class Recipe:
    """How to make a series; k is the slice's index along the normal."""

    shape: tuple[int, int, int] = (6, 12, 10)
    row: tuple[float, float, float] = (1, 0, 0)
    column: tuple[float, float, float] = (0, 1, 0)
    origin: tuple[float, float, float] = (-50.5, 20.25, -400.0)
    step_mm: float = 2.5
    pixel_mm: tuple[float, float] = (0.8, 0.7)  # between rows, between columns
    tilt_deg: float = 0.0  # slices shear along the column direction
    positions_mm: Sequence[float] | None = None  # along the normal from origin; else even
    leave_out: Sequence[int] = ()
    syntax: str = EXPLICIT
    slope: float | Sequence[float] = 1.0
    intercept: float | Sequence[float] = -1024.0
    bits_stored: int = 16
    bits_allocated: int = 16
    signed: bool = True
    shuffle: bool = True
    preamble: bool = True
    series: int = 1
    name: str = "file{n}"  # n counts in the order of writing
    tags: dict[str, Any] | None = None  # of all files; a value of None takes a tag away
    slice_tags: dict[int, dict[str, Any]] | None = None

    def but(self, **changes: Any) -> Recipe:
        """The same with changes."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Made:
    """A series on disk: file of each slice, HU and affine as they should be read."""

    folder: Path
    files: dict[int, str]
    hu: npt.NDArray[np.int16]
    affine: npt.NDArray[np.float64]
    series_uid: str


def make_series(folder: Path, recipe: Recipe | None = None) -> Made:
    """Write a series into a folder, which is made where it is missing."""
    recipe = recipe or Recipe()
    folder.mkdir(parents=True, exist_ok=True)
    hu = asymmetric(recipe.shape)
    order = [k for k in range(recipe.shape[0]) if k not in recipe.leave_out]
    if recipe.shuffle:
        np.random.default_rng(recipe.series).shuffle(order)
    files = {}
    for n, k in enumerate(order):
        files[k] = recipe.name.format(n=n, k=k)
        write_slice(folder / files[k], recipe, k, hu)
    return Made(folder, files, hu, affine_of(recipe), f"{UID_ROOT}{recipe.series}")


def affine_of(recipe: Recipe) -> npt.NDArray[np.float64]:
    """(k, j, i, 1) to LPS mm."""
    affine = np.eye(4)
    affine[:3, 0] = position_of(recipe, 1) - position_of(recipe, 0)
    affine[:3, 1] = np.array(recipe.column) * recipe.pixel_mm[0]
    affine[:3, 2] = np.array(recipe.row) * recipe.pixel_mm[1]
    affine[:3, 3] = position_of(recipe, 0)
    return affine


def position_of(recipe: Recipe, k: int) -> npt.NDArray[np.float64]:
    """ImagePositionPatient of slice k."""
    along = k * recipe.step_mm if recipe.positions_mm is None else recipe.positions_mm[k]
    sheared = along * np.tan(np.radians(recipe.tilt_deg)) * np.array(recipe.column)
    return np.array(recipe.origin) + along * np.cross(recipe.row, recipe.column) + sheared


def write_slice(path: Path, recipe: Recipe, k: int, hu: npt.NDArray[np.int16]) -> None:
    """Write slice k of a series."""
    data = dataset_of(recipe, k, hu[k])
    path.parent.mkdir(parents=True, exist_ok=True)
    for keyword, value in {**(recipe.tags or {}), **(recipe.slice_tags or {}).get(k, {})}.items():
        if value is None:
            if keyword in data:
                delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    if recipe.preamble:
        data.save_as(path, enforce_file_format=True)
    else:
        pydicom.dcmwrite(
            path,
            Dataset(data),
            implicit_vr=recipe.syntax == IMPLICIT,
            little_endian=recipe.syntax != BIG_ENDIAN,
        )


def dataset_of(recipe: Recipe, k: int, hu: npt.NDArray[np.int16]) -> Dataset:
    """Slice k as a data set with its pixels, whose HU are given."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = EXPLICIT
    _describe(data, recipe, k)
    slope, intercept = _of_slice(recipe.slope, k), _of_slice(recipe.intercept, k)
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = hu.shape
    data.BitsAllocated, data.BitsStored = recipe.bits_allocated, recipe.bits_stored
    data.HighBit, data.PixelRepresentation = recipe.bits_stored - 1, int(recipe.signed)
    stored = np.rint((hu.astype(np.float64) - intercept) / slope).astype(np.int64)
    # As scanners do, values of fewer bits than allocated leave the upper ones empty.
    stored &= (1 << recipe.bits_stored) - 1
    kind = {8: "u1", 16: "u2", 32: "u4"}[recipe.bits_allocated]
    order = ">" if recipe.syntax == BIG_ENDIAN else "<"
    set_pixels(data, stored.astype(order + kind).tobytes(), recipe.syntax)
    return data


def _describe(data: Dataset, recipe: Recipe, k: int) -> None:
    data.SpecificCharacterSet = "ISO_IR 192"
    data.PatientName, data.PatientID = f"{PATIENT}^Name", f"{PATIENT}-id"
    data.PatientBirthDate, data.PatientComments = "19010203", f"{PATIENT} comment"
    data.OtherPatientIDs, data.PatientAddress = f"{PATIENT}-other", f"{PATIENT} street"
    data.ReferringPhysicianName, data.AccessionNumber = f"{PATIENT}^Doctor", f"{PATIENT}-acc"
    data.InstitutionName, data.StudyDescription = f"{PATIENT} hospital", f"{PATIENT} study"
    data.ImageType, data.Modality = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT"
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CT_CLASS
    uid = f"{UID_ROOT}{recipe.series}"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{k + 1}"
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{UID_ROOT}9", uid
    data.FrameOfReferenceUID = f"{UID_ROOT}8"
    data.SeriesNumber, data.SeriesDescription = recipe.series, f"made {recipe.series}"
    data.ConvolutionKernel, data.BodyPartExamined = "B30f", "ABDOMEN"
    # Neither may be used to place a slice.
    data.InstanceNumber, data.SliceLocation = 1000 - 7 * k % 5, 3.0 * ((k * 7) % 11)
    data.SpacingBetweenSlices, data.GantryDetectorTilt = 99.0, 45.0
    data.SliceThickness = recipe.step_mm
    data.ImagePositionPatient = [f"{value:.8g}" for value in position_of(recipe, k)]
    data.ImageOrientationPatient = [f"{value:.9g}" for value in (*recipe.row, *recipe.column)]
    data.PixelSpacing = list(recipe.pixel_mm)


def set_pixels(data: Dataset, raw: bytes, syntax: str) -> None:
    """Put raw pixels into a data set, compressed as the syntax says."""
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = raw
    data["PixelData"].VR = "OB" if data.BitsAllocated == 8 else "OW"
    if syntax in (RLE, JPEG_2000_LOSSLESS):
        data.file_meta.TransferSyntaxUID = EXPLICIT
        data.compress(syntax, generate_instance_uid=False)
    elif syntax.startswith("1.2.840.10008.1.2.4."):
        data.file_meta.TransferSyntaxUID = EXPLICIT
        value = _encoded_by_gdcm(data, syntax)
        data.PixelData = value
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.file_meta.TransferSyntaxUID = syntax


def set_frame(data: Dataset, frame: bytes, syntax: str) -> None:
    """Put a compressed frame into a data set."""
    data.PixelData = encapsulate([frame])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = syntax


def _encoded_by_gdcm(data: Dataset, syntax: str) -> bytes:
    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "plain", Path(folder) / "packed"
        data.save_as(plain, enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(plain))
        change = gdcm.ImageChangeTransferSyntax()
        kind = gdcm.TransferSyntax.GetTSType(syntax)
        change.SetTransferSyntax(gdcm.TransferSyntax(kind))
        if not reader.Read():
            raise RuntimeError("GDCM cannot read the plain file")
        change.SetInput(reader.GetImage())
        if not change.Change():
            raise RuntimeError(f"GDCM cannot encode {syntax}")
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(packed))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        if not writer.Write():
            raise RuntimeError(f"GDCM cannot write {syntax}")
        return bytes(pydicom.dcmread(packed).PixelData)


def _of_slice(value: float | Sequence[float], k: int) -> float:
    return value[k] if isinstance(value, Sequence) else value
