"""Scans of every length and width through the real command line, and caps at the very floor."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import save_nifti

from segmate_cli.geometry import Geometry

SEGMATE = [sys.executable, "-m", "segmate_cli"]
RADIUS_MM = 22.0


def ball(path: Path, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Path:
    """A ball of soft tissue in the middle, with a spot of bone, as uncompressed NIfTI."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    k, j, i = np.meshgrid(*axes, indexing="ij", sparse=True)
    distance_mm = np.sqrt(k**2 + j**2 + i**2)
    # Partial volume over a voxel, as a scanner gives it.
    hu = np.clip(-300 - 350 * (distance_mm - RADIUS_MM), -1000, 40).astype(np.int16)
    hu[shape[0] // 2, shape[1] // 2, shape[2] // 2] = 900
    affine = np.diag([*spacing_mm, 1.0])[[2, 1, 0, 3]]
    return save_nifti(path, hu, Geometry(affine, shape))


def segment(scan: Path, bundle: Path, *options: str) -> tuple[subprocess.CompletedProcess, Path]:
    """Run predict as a user does, in a process that has nothing else in memory."""
    out = scan.with_name("labels.nii.gz")
    command = [*SEGMATE, "predict", str(scan), "-o", str(out), "--model", str(bundle), "--quiet"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    return done, out


def sidecar(out: Path) -> dict:
    return json.loads(out.with_name("labels.json").read_text())


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [
        ((8, 100, 100), (8.0, 0.8, 0.8)),
        ((30, 100, 100), (5.0, 0.8, 0.8)),
        ((2000, 48, 48), (0.04, 1.6, 1.6)),
        ((12, 1024, 1024), (5.0, 0.4, 0.4)),
    ],
    ids=["8 slices", "5 mm", "2000 slices", "1024 x 1024"],
)
def test_every_shape_comes_back_on_its_own_grid(tmp_path, tiny_bundle, shape, spacing_mm):
    done, out = segment(ball(tmp_path / "scan.nii", shape, spacing_mm), tiny_bundle)
    assert done.returncode == 0, done.stderr
    labels = np.asarray(nibabel.load(out).dataobj).T
    assert labels.shape == shape
    found_ml = np.count_nonzero(labels) * np.prod(spacing_mm) / 1000
    # The ball, cut by the ends of the scan.
    half_mm = min(RADIUS_MM, shape[0] * spacing_mm[0] / 2)
    want_ml = 2 * np.pi * (RADIUS_MM**2 * half_mm - half_mm**3 / 3) / 1000
    assert found_ml == pytest.approx(want_ml, rel=0.06)


def test_five_times_the_slices_take_hardly_more_memory(tmp_path, tiny_bundle):
    peaks = []
    for slices in (400, 2000):
        # As many of the model's slices in both: what differs is the scan's alone.
        scan = ball(tmp_path / "scan.nii", (slices, 128, 128), (100.0 / slices, 0.8, 0.8))
        done, out = segment(scan, tiny_bundle, "--overwrite")
        assert done.returncode == 0, done.stderr
        peaks.append(sidecar(out)["peak_memory_bytes"])
    assert scan.stat().st_size > 0.4 * peaks[0]  # the scan itself would show
    assert peaks[1] < 1.15 * peaks[0]


def test_the_cap_that_a_refusal_names_is_enough_and_kept(tmp_path, tiny_bundle):
    scan = ball(tmp_path / "scan.nii", (60, 300, 300), (2.0, 0.8, 0.8))
    done, out = segment(scan, tiny_bundle, "--memory-cap", "20MB")
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert not out.exists()
    (named,) = re.findall(r"at least (\d+ MB) is needed", done.stderr)
    done, out = segment(scan, tiny_bundle, "--memory-cap", named.replace(" ", ""))
    assert done.returncode == 0, done.stderr
    held = sidecar(out)
    assert held["peak_memory_bytes"] <= held["plan"]["memory_cap_bytes"]
