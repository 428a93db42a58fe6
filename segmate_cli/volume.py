"""The values that travel between reading, predicting, measuring and writing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from segmate_cli.errors import GeometryError
from segmate_cli.geometry import Geometry
from segmate_cli.organs import Organ

if TYPE_CHECKING:
    from segmate_cli.dicom.files import Place

Hounsfield = npt.NDArray[np.int16]
LabelValues = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True)
class NiftiSource:
    """Where a volume came from, and what its label map must repeat.

    Attributes:
        path: The file.
        header: nibabel header of the file (NIfTI-1 or -2), kept so that sform, qform, their
            codes and units return as they were; never written with its texts or extensions.
        ndim: 3, or 4 for a file with a single frame.
    """

    path: Path
    header: Any
    ndim: int = 3

    @property
    def is_oriented(self) -> bool:
        """Whether the header says which way its axes go."""
        return bool(int(self.header["sform_code"]) or int(self.header["qform_code"]))


@dataclass(frozen=True, slots=True)
class Scanner:
    """What made a series, and when; "" where it does not say. No day, and no place.

    Attributes:
        manufacturer: Manufacturer.
        model: ManufacturerModelName.
        kernel: ConvolutionKernel.
        year: YYYY of the acquisition.
        month: YYYY-MM of the acquisition.
    """

    manufacturer: str = ""
    model: str = ""
    kernel: str = ""
    year: str = ""
    month: str = ""

    def told(self, *, keep_month: bool) -> dict[str, str]:
        """What files may say of it: HIPAA's safe harbor takes any date but the year for one."""
        return dataclasses.asdict(self if keep_month else dataclasses.replace(self, month=""))


@dataclass(frozen=True, slots=True)
class DicomSource:
    """Where a DICOM series came from, without anything that names a patient.

    Attributes:
        path: The folder, archive or list of files it was read from.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        frame_of_reference_uid: FrameOfReferenceUID, or None where it is missing.
        sop_class_uid: SOPClassUID of the images.
        sop_instance_uids: One a slice, in the order of the volume's slices.
        files: Name of each slice's file inside ``path``, in the same order.
        description: SeriesDescription, or "".
        frames: Number of each slice in its multi-frame file, from 1, or None; empty where not told.
        scanner: What made it.
    """

    path: Place
    study_uid: str | None
    series_uid: str
    frame_of_reference_uid: str | None
    sop_class_uid: str
    sop_instance_uids: tuple[str, ...]
    files: tuple[str, ...]
    description: str = ""
    frames: tuple[int | None, ...] = ()
    scanner: Scanner = Scanner()


Source = NiftiSource | DicomSource


@dataclass(frozen=True, slots=True)
class Volume:
    """A CT scan.

    Attributes:
        hu: (k, j, i) int16 Hounsfield units, read-only.
        geometry: Where the voxels lie.
        source: The file or series.
        warnings: What is odd about the scan without being refused, one sentence each.
    """

    hu: Hounsfield
    geometry: Geometry
    source: Source | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the shape; freeze the array."""
        _check_shape(self.hu, self.geometry)
        self.hu.flags.writeable = False

    def as_scan(self) -> Scan:
        """The same with its slices given one by one."""
        return Scan(self.geometry, lambda: iter(self.hu), self.source, self.warnings)


@dataclass(frozen=True, slots=True)
class Scan:
    """A CT scan whose headers have been read and checked, but not its voxels.

    Attributes:
        geometry: Where the voxels lie.
        planes: Opens the scan and yields its slices k = 0, 1, ... as (rows, columns) int16 HU;
            may raise InputError. Can be called again.
        source: The file or series.
        warnings: As in Volume.
        notes: What a user may want to know, such as why this series was taken.
        helper_bytes: Memory of the processes that reading it starts.
    """

    geometry: Geometry
    planes: Callable[[], Iterator[Hounsfield]]
    source: Source | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    helper_bytes: int = 0

    def read(self) -> Volume:
        """Read all voxels into memory."""
        hu = np.empty(self.geometry.shape, dtype=np.int16)
        for k, plane in enumerate(self.planes()):
            hu[k] = plane
        return Volume(hu, self.geometry, self.source, self.warnings)


class LabelMap(Protocol):
    """What is written as a label map, whether or not it lies in memory as a whole."""

    @property
    def geometry(self) -> Geometry:
        """Where the voxels lie."""

    @property
    def organs(self) -> dict[int, Organ]:
        """Label value to organ."""

    @property
    def source(self) -> Source | None:
        """The scan that was segmented."""

    @property
    def run(self) -> dict[str, Any] | None:
        """What made the labels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    def planes(self) -> Iterator[LabelValues]:
        """Yield the slices k = 0, 1, ... as (rows, columns) arrays."""


@dataclass(frozen=True, slots=True)
class Labels:
    """An exclusive label map on a scan's own grid.

    Attributes:
        values: (k, j, i) unsigned integers, 0 = background, read-only.
        geometry: Where the voxels lie.
        organs: Label value to organ.
        source: The scan that was segmented, or the label file that was read.
        run: What made the labels (model, engine, timings ...), as the sidecar says it.
    """

    values: LabelValues
    geometry: Geometry
    organs: dict[int, Organ]
    source: Source | None = None
    run: dict[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the shape; freeze the array."""
        _check_shape(self.values, self.geometry)
        self.values.flags.writeable = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.values.dtype

    def planes(self) -> Iterator[LabelValues]:
        """Yield the slices k = 0, 1, ... as (rows, columns) arrays."""
        return iter(self.values)


def _check_shape(array: npt.NDArray[Any], geometry: Geometry) -> None:
    if array.shape != geometry.shape:
        raise GeometryError(f"voxels {array.shape} do not fit a geometry of {geometry.shape}.")
