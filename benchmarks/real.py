"""A real CT at the size of a scan to be timed, resampled from one in ``../shared/ct``.

It stays where the phantoms are, and goes with them: real CT is not to be handed on.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from benchmarks.__main__ import ROOT

# A whole torso without contrast, and the others that show most of one.
_CASES = ("unlabelled/matrad1", "unlabelled/ircad19", "train/ircad01")
_AIR_HU = -1000
_HEADER_BYTES = 352


def source() -> Path | None:
    """The CT to resample; None where there is none."""
    folder = ROOT.parent / "shared" / "ct"
    found = (folder / case / "ct.nii.gz" for case in _CASES)
    return next((path for path in found if path.is_file()), None)


def write(
    case: Path, path: Path, size: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> None:
    """Write a CT, linear between its voxels, on a grid about its middle; air lies around it.

    Args:
        case: A NIfTI file.
        path: A .nii.gz file to write.
        size: Columns, rows and slices.
        spacing_mm: Along these.
    """
    image = nibabel.as_closest_canonical(nibabel.load(case))
    voxels = np.asarray(image.dataobj, np.float32).T  # slices, rows, columns
    columns, rows, slices = (
        _places(n, mm, have, have_mm)
        for n, mm, have, have_mm in zip(
            size, spacing_mm, voxels.shape[::-1], image.header.get_zooms(), strict=True
        )
    )
    header = nibabel.Nifti1Header()
    header.set_data_shape(size)
    header.set_data_dtype(np.int16)
    header.set_sform(np.diag([*spacing_mm, 1.0]), code=1)
    header["vox_offset"] = _HEADER_BYTES
    with igzip.open(path, "wb", 1) as stream:
        header.write_to(stream)
        stream.write(bytes(_HEADER_BYTES - stream.tell()))
        for at in slices:
            plane = _between(voxels, np.array([at]), 0)[0]
            plane = _between(_between(plane, rows, 0), columns, 1)
            stream.write(np.rint(plane).astype("<i2").tobytes())


def _places(count: int, step_mm: float, have: int, have_mm: float) -> NDArray[np.float64]:
    """Where ``count`` samples about the middle lie among those there are."""
    from_middle_mm = (np.arange(count) - (count - 1) / 2) * step_mm
    return from_middle_mm / float(have_mm) + (have - 1) / 2


def _between(array: NDArray[np.float32], at: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """Linear along an axis; air where there is nothing."""
    last = array.shape[axis] - 1
    low = np.clip(np.floor(at).astype(np.intp), 0, max(0, last - 1))
    shape = [1] * array.ndim
    shape[axis] = at.size
    part = (at - low).astype(np.float32).reshape(shape)
    mixed = array.take(low, axis) * (1 - part)
    mixed += array.take(np.minimum(low + 1, last), axis) * part
    outside = ((at < 0) | (at > last)).reshape(shape)
    return np.where(outside, np.float32(_AIR_HU), mixed)
