"""A small torso of boxes with its label map, in files, for what people look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from conftest import save_nifti

from segmate_cli import organs, saving, scans
from segmate_cli.geometry import Geometry
from segmate_cli.volume import Labels

SHAPE = (24, 40, 48)  # slices, rows, columns; 3 x 2 x 2 mm
NAMES = ("liver", "kidney_left", "lung_right", "spleen")
# Index ranges along k, j, i; the spleen has no voxel, the lung meets the last slice.
BOXES = {
    "liver": ((4, 12), (10, 30), (6, 22)),
    "kidney_left": ((5, 11), (22, 30), (30, 38)),
    "lung_right": ((14, 24), (8, 32), (6, 20)),
}
HU = {"liver": 60, "kidney_left": 120, "lung_right": -800}


def geometry(directions: str = "SPL") -> Geometry:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])[:, [2, 1, 0, 3]]
    affine[:3, 3] = (-47.0, -39.0, -30.0)
    return Geometry(affine, SHAPE).reoriented(directions)[0]


def arrays(directions: str = "SPL") -> tuple[np.ndarray, np.ndarray]:
    """HU and labels, stored in these directions."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[:, 4:36, 2:46] = 10
    values = np.zeros(SHAPE, np.uint8)
    for name, box in BOXES.items():
        part = tuple(slice(*ends) for ends in box)
        hu[part] = HU[name]
        values[part] = NAMES.index(name) + 1
    _, turn = Geometry(geometry().affine, SHAPE).reoriented(directions)
    return np.ascontiguousarray(turn.view(hu)), np.ascontiguousarray(turn.view(values))


def write_case(folder: Path, directions: str = "SPL") -> tuple[Path, Path]:
    """(label map, scan) as files, without a sidecar."""
    folder.mkdir(parents=True, exist_ok=True)
    hu, values = arrays(directions)
    scan = save_nifti(folder / "scan.nii.gz", hu, geometry(directions))
    table = {n: organs.organ(name) for n, name in enumerate(NAMES, 1)}
    source = scans.find_scan(scan).source
    labels = Labels(values, geometry(directions), table, source)
    path = saving.save(labels, folder / "labels.nii.gz", with_sidecar=False, overwrite=True)
    return path, scan
