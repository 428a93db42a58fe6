from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import save_nifti
from dicom_maker import make_series
from scipy.ndimage import gaussian_filter
from seg_maker import WHOLE

from segmate_cli import saving, scans
from segmate_cli.dicom.reference import SegOptions
from segmate_cli.errors import InputError

RECIPE = WHOLE.but(shape=(12, 40, 36), shuffle=False)


def body(seed: int) -> np.ndarray:
    """Lumps of tissue in air, other ones for each seed."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=RECIPE.shape), 3)
    noise /= np.abs(noise).max()
    hu = np.where(noise > -0.2, 60 + 300 * noise, -1000)
    hu[:2] = -1000  # above the head
    return np.rint(hu).astype(np.int16)


def series_of(folder: Path, hu: np.ndarray) -> Path:
    made = make_series(folder, RECIPE)
    for k, name in made.files.items():
        data = pydicom.dcmread(folder / name)
        data.PixelData = (hu[k].astype(np.int32) + 1024).astype("<u2").tobytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.save_as(folder / name)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return series_of(tmp_path_factory.mktemp("series"), body(1))


def scan_of(path: Path, hu: np.ndarray, directions, folder: Path):
    """A NIfTI scan on the series' grid, stored in another order."""
    geometry, turn = scans.load(folder).geometry.reoriented(directions)
    return scans.find_scan(save_nifti(path, np.array(turn.view(hu)), geometry))


ORDERS = [("S", "P", "L"), ("I", "A", "R"), ("L", "S", "P"), ("A", "L", "I")]


@pytest.mark.parametrize("directions", ORDERS, ids="".join)
def test_the_scan_itself_passes_in_any_order(tmp_path, folder, directions):
    scan = scan_of(tmp_path / "scan.nii.gz", body(1), directions, folder)
    assert len(saving.seg_reference(scan, SegOptions(reference=folder)).slices) == RECIPE.shape[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda hu: np.clip(hu, -125, 275),
        lambda hu: hu // 64 * 64,
        lambda hu: np.where(hu == -1000, -2000, hu),
        lambda hu: hu + np.random.default_rng(5).normal(0, 15, hu.shape),
    ],
    ids=["clipped", "coarse", "padded", "noisy"],
)
def test_what_storing_does_to_values_is_no_difference(tmp_path, folder, change):
    hu = np.rint(change(body(1).astype(np.float64))).astype(np.int16)
    scan = scan_of(tmp_path / "scan.nii.gz", hu, ("S", "P", "L"), folder)
    assert len(saving.seg_reference(scan, SegOptions(reference=folder)).slices) == RECIPE.shape[0]


@pytest.mark.parametrize("directions", ORDERS, ids="".join)
@pytest.mark.parametrize("other", ["patient", "mirrored", "upside down"])
def test_another_body_on_the_same_grid_is_refused(tmp_path, folder, directions, other):
    hu = {"patient": body(2), "mirrored": body(1)[..., ::-1], "upside down": body(1)[::-1]}[other]
    scan = scan_of(tmp_path / "scan.nii.gz", hu, directions, folder)
    with pytest.raises(InputError, match="holds other voxels"):
        saving.seg_reference(scan, SegOptions(reference=folder))


def test_nothing_to_compare_is_no_difference(tmp_path, folder):
    air = np.full(RECIPE.shape, -1000, np.int16)
    scan = scan_of(tmp_path / "scan.nii.gz", air, ("S", "P", "L"), folder)
    assert len(saving.seg_reference(scan, SegOptions(reference=folder)).slices) == RECIPE.shape[0]


def test_the_command_refuses_before_the_network_runs(run, tmp_path, folder, tiny_bundle):
    scan_of(tmp_path / "scan.nii.gz", body(2), ("S", "P", "L"), folder)
    seg = tmp_path / "seg.dcm"
    how = ("-o", seg, "--reference-dicom", folder, "--model", tiny_bundle)
    code, out, err = run("predict", tmp_path / "scan.nii.gz", *how)
    assert (code, out) == (6, "")
    assert "give the series that the scan was made of" in err
    assert not seg.exists()
