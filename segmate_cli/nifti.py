"""NIfTI files: headers, checked, and scans as int16 HU; label maps are in ``nifti_labels``.

Voxels are streamed slice by slice, so that no float copy of a scan ever exists and the checksum at
the end of a gzip file is always reached. The source of the header layout is NIfTI-1.1 and -2.
"""

from __future__ import annotations

import importlib
import logging
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.errors import GeometryError, NotHounsfieldError, UnreadableError, one_line
from segmate_cli.geometry import Geometry, geometry_from_ras
from segmate_cli.gzipped import is_gzip_name, open_unzipped
from segmate_cli.volume import Hounsfield, NiftiSource, Scan, Volume

SUFFIXES = (".nii", ".nii.gz")
_GZIP_MAGIC = b"\x1f\x8b"
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True, slots=True)
class NiftiFile:
    """What a NIfTI header says, checked; the voxels are not read yet.

    Attributes:
        path: The file.
        header: nibabel's header.
        geometry: Where the voxels lie.
        ndim: Dimensions of the stored array, 3 or more (those over 3 hold one frame).
        dtype: Stored type, with its byte order.
        slope: Stored value * slope + intercept is the voxel's value.
        intercept: See slope.
        offset: Where voxels begin, in bytes of the decompressed file.
        warnings: One sentence each.
    """

    path: Path
    header: Any
    geometry: Geometry
    ndim: int
    dtype: np.dtype[Any]
    slope: float
    intercept: float
    offset: int
    warnings: tuple[str, ...] = ()

    @property
    def source(self) -> NiftiSource:
        """The file, as what is made of it remembers it."""
        return NiftiSource(self.path, self.header, self.ndim)


def is_nifti_name(path: Path) -> bool:
    """Whether the name ends in .nii or .nii.gz, in any case."""
    return path.name.lower().endswith(SUFFIXES)


def import_reader() -> None:
    """Import nibabel without pydicom, for which it has no use in NIfTI files.

    That saves 0.17 of 0.3 s. Only for a process of segmate's own: nibabel's support of DICOM, which
    segmate does not use, is off in it.
    """
    if "nibabel" in sys.modules or "pydicom" in sys.modules:
        return
    sys.modules["pydicom"] = None  # type: ignore[assignment]  # "not installed", says Python
    try:
        importlib.import_module("nibabel")
    finally:
        del sys.modules["pydicom"]


def open_nifti(path: Path, *, assume_ras: bool = False) -> NiftiFile:
    """Read and check a NIfTI header.

    Args:
        path: A .nii or .nii.gz file.
        assume_ras: Take a file without any orientation to grow to right, anterior, superior.

    Raises:
        UnreadableError: Not a NIfTI file, cut, or of a kind that is no CT (RGB, complex, 2D, 4D).
        GeometryError: No usable voxel size or orientation.
    """
    image = _load_header(path)
    header = image.header
    dtype = np.dtype(header.get_data_dtype())
    if dtype.kind not in "iuf":
        raise UnreadableError(
            f"{path}: voxels of type {_type_name(header)} are no CT values; give a scan with one "
            "integer or float number a voxel."
        )
    shape = _three_axes(path, tuple(int(n) for n in header.get_data_shape()))
    geometry, warnings = _geometry(path, header, shape, assume_ras)
    return NiftiFile(
        path=path,
        header=header,
        geometry=geometry,
        ndim=len(header.get_data_shape()),
        dtype=dtype.newbyteorder(header.endianness),
        # On loading, nibabel moves the scaling from the header to the array proxy.
        slope=float(image.dataobj.slope),
        intercept=float(image.dataobj.inter),
        offset=int(image.dataobj.offset),
        warnings=warnings,
    )


def as_scan(file: NiftiFile) -> Scan:
    """The scan in a file, ready to be read slice by slice."""
    return Scan(file.geometry, lambda: hu_planes(file), file.source, file.warnings)


def read_volume(file: NiftiFile) -> Volume:
    """Read all of a scan's voxels; errors as ``hu_planes``."""
    return as_scan(file).read()


def hu_planes(file: NiftiFile) -> Iterator[Hounsfield]:
    """Yield a scan's slices as int16 HU; values are rounded, and clipped to what int16 holds.

    Raises:
        UnreadableError: The file is cut or damaged.
        NotHounsfieldError: NaN or infinite voxels, with their count in the whole file.
    """
    not_finite = 0
    for values in slices(file):
        if values.dtype == np.int16:
            yield values
            continue
        if values.dtype.kind == "f":
            not_finite += int(values.size - np.count_nonzero(np.isfinite(values)))
            if not_finite:
                continue  # there is nothing to yield any more, only to count
            values = np.rint(values)
        else:
            values = values.astype(np.int64)  # NumPy 2 does not clip uint8 at -32768
        yield np.clip(values, _INT16.min, _INT16.max).astype(np.int16)
    if not_finite:
        raise NotHounsfieldError(
            f"{file.path}: {not_finite} voxels are NaN or infinite; replace them (by -1024 outside "
            "the body) before segmenting."
        )


def slices(file: NiftiFile) -> Iterator[npt.NDArray[Any]]:
    """Yield slices k = 0, 1, ... as (j, i) arrays, scaled, then read to the file's end.

    Raises:
        UnreadableError: The file is cut or damaged.
    """
    count, rows, columns = file.geometry.shape
    size = rows * columns * file.dtype.itemsize
    scaled = file.slope != 1.0 or file.intercept != 0.0
    try:
        with open_unzipped(file.path) as stream:
            stream.seek(file.offset)
            for k in range(count):
                data = stream.read(size)
                if len(data) < size:
                    raise UnreadableError(
                        f"{file.path}: cut short in slice {k} of {count}; copy it again."
                    )
                values = np.frombuffer(data, file.dtype).reshape(rows, columns)
                yield values * file.slope + file.intercept if scaled else values
            while stream.read(1 << 20):  # gzip compares its checksum at the very end
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError(
            f"{file.path}: cut short or damaged ({one_line(error)}); copy it again."
        ) from error


def _load_header(path: Path) -> Any:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    _check_magic(path)
    try:
        with _nibabel_quiet():
            image = nibabel.load(path)
            if isinstance(image, nibabel.Nifti1Image):  # NIfTI-2 is a subclass
                image.header.get_best_affine()
                return image
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise UnreadableError(
            f"{path}: not a readable NIfTI file ({one_line(error)}); export it again."
        ) from error
    raise UnreadableError(f"{path}: not a single-file NIfTI image; convert it to .nii.gz.")


def _check_magic(path: Path) -> None:
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise UnreadableError(f"{path} is a device or pipe; give a file, which is read twice.")
        with path.open("rb") as stream:
            start = stream.read(2)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read ({error.strerror}).") from error
    zipped = is_gzip_name(path)
    if not start:
        raise UnreadableError(f"{path}: the file is empty; copy or export it again.")
    if zipped and start != _GZIP_MAGIC:
        raise UnreadableError(f"{path}: named .gz but not gzip-compressed; give the real file.")
    if not zipped and start == _GZIP_MAGIC:
        raise UnreadableError(f"{path}: gzip-compressed; rename it to {path.name}.gz.")


@contextmanager
def _nibabel_quiet() -> Iterator[None]:
    """Keep nibabel's header repairs out of stderr: segmate says itself what matters."""
    logger = logging.getLogger("nibabel.global")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _three_axes(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) < 3:
        raise UnreadableError(f"{path}: a {len(shape)}D image; segmate needs a 3D scan.")
    if any(n != 1 for n in shape[3:]):
        frames = int(np.prod(shape[3:]))
        raise UnreadableError(
            f"{path}: holds {frames} frames; split it and give one 3D scan at a time."
        )
    if min(shape) < 1:
        raise UnreadableError(f"{path}: an axis has no voxels {shape}; export it again.")
    return shape[0], shape[1], shape[2]


def _geometry(
    path: Path, header: Any, shape: tuple[int, int, int], assume_ras: bool
) -> tuple[Geometry, tuple[str, ...]]:
    sizes = _stored_sizes_mm(path, header)
    if not all(np.isfinite(size) and size > 0 for size in sizes):
        raise GeometryError(f"{path}: voxel sizes {sizes} mm must be finite and over 0.")
    warnings = []
    affine = header.get_best_affine()
    if not NiftiSource(path, header).is_oriented:
        if not assume_ras:
            raise GeometryError(
                f"{path}: the header has no orientation (sform and qform code 0), so left and "
                "right cannot be known; export it again, or segment it with --assume-ras if you "
                "are sure of it."
            )
        affine = np.diag([*sizes, 1.0])
        warnings.append("The file has no orientation; taken to be RAS as asked.")
    elif int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0:
        warnings += _disagreement(header, shape)
    try:
        return geometry_from_ras(affine, shape), tuple(warnings)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error


def _stored_sizes_mm(path: Path, header: Any) -> list[float]:
    """Voxel sizes as the file has them: nibabel has already made 1 of 0 and + of -."""
    try:
        with open_unzipped(path) as stream:
            stored = type(header).from_fileobj(stream, check=False)
    except (OSError, EOFError, zlib.error) as error:  # nibabel reads less far than a cut file
        raise UnreadableError(
            f"{path}: cut short in its header ({one_line(error)}); copy it again."
        ) from error
    return [float(size) for size in stored["pixdim"][1:4]]


def _disagreement(header: Any, shape: tuple[int, int, int]) -> list[str]:
    corner = np.array([*(n - 1 for n in shape), 1.0])
    apart = header.get_sform() - header.get_qform()
    worst_mm = max(np.linalg.norm(apart[:3, 3]), np.linalg.norm((apart @ corner)[:3]))
    if worst_mm < 1.0:
        return []
    return [f"sform and qform disagree by up to {worst_mm:.1f} mm; the sform was used."]


def _type_name(header: Any) -> str:
    code = int(header["datatype"])
    return {128: "RGB", 2304: "RGBA", 32: "complex", 1792: "complex"}.get(code, f"code {code}")
