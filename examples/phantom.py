#!/usr/bin/env python3
"""Make a torso CT that belongs to nobody: a seeded phantom with the true labels of its organs.

    python examples/phantom.py -o phantom.nii.gz --labels truth.nii.gz

The anatomy is drawn from smooth shapes (see _phantom/shapes.py), not from a real scan. Every seed
gives another patient: size, fat, organ shapes and places, the vessels' branching. The label of
the cord is the dural sac (cord and fluid), that of the trachea ends just below its fork.
"""

from __future__ import annotations

import argparse
import gzip
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from _phantom import abdomen, bones, chest, wall
from _phantom.grid import Array, Grid
from _phantom.patient import Layer, Patient
from _phantom.shapes import Waves
from _phantom.tables import LABELS

__all__ = ["LABELS", "Phantom", "make_phantom", "write_nifti"]

DEFAULT_EXTENT_MM = (420.0, 300.0, 384.0)
"""Field of view (slices, rows, columns): from the shoulders to just below the iliac crest."""

CENTER_MM = (0.0, -46.0, 2.0)
"""What the field of view is centred on: x, y, z in the phantom's frame."""

AIR_HU = -1000.0
WARP_MM = 3.0
SLAB_VOXELS = 1_500_000
THREADS = 2


PAINTING_ORDER = (
    wall.draw_wall,
    chest.shape_heart,
    chest.draw_lungs,
    bones.draw_bones,
    chest.draw_lung_vessels,
    abdomen.draw_psoas,
    abdomen.draw_small_bowel,
    abdomen.draw_colon,
    abdomen.draw_stomach,
    abdomen.draw_liver,
    abdomen.draw_spleen,
    abdomen.draw_pancreas,
    abdomen.draw_kidneys,
    chest.draw_neck,
    chest.draw_chest_veins,
    chest.draw_heart,
    chest.draw_esophagus,
    chest.draw_airways,
    chest.draw_aorta,
)
"""What is painted later covers what is painted earlier."""


@dataclass(frozen=True, slots=True)
class Phantom:
    """A CT that was made, not measured.

    Attributes:
        hu: HU, int16, (k, j, i) = (slice, row, column).
        labels: Organ values, uint8, same shape; `LABELS` names them, 0 is background.
        affine: 4x4 float64, maps (k, j, i, 1) to millimetres in LPS.
    """

    hu: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]


def make_phantom(
    seed: int = 0,
    spacing_mm: tuple[float, float, float] = (3.0, 1.5, 1.5),
    shape: tuple[int, int, int] | None = None,
    contrast: bool = True,
    noise_hu: float = 12.0,
    arms: bool = False,
    table: bool = True,
) -> Phantom:
    """Make the CT of one invented patient.

    Args:
        seed: Chooses the patient; the same seed and options give the same bytes.
        spacing_mm: Distance of slices, rows and columns.
        shape: Slices, rows and columns; by default what covers shoulders to pelvis.
        contrast: Portal venous phase, else no contrast.
        noise_hu: SD of the noise in the middle of the body.
        arms: Arms beside the trunk (else raised, as in most torso scans).
        table: With the scanner's table.

    Raises:
        ValueError: A spacing is not above 0, or a shape is below 1.
    """
    if min(spacing_mm) <= 0:
        raise ValueError(f"spacing_mm is {spacing_mm}; give three distances above 0.")
    if shape is None:
        k, j, i = (max(1, round(e / s)) for e, s in zip(DEFAULT_EXTENT_MM, spacing_mm, strict=True))
        shape = (k, j, i)
    if min(shape) < 1:
        raise ValueError(f"shape is {shape}; give at least one slice, row and column.")
    patient = draw_patient(seed, contrast, arms, table)
    affine = affine_of(shape, spacing_mm)
    hu = np.empty(shape, np.int16)
    labels = np.empty(shape, np.uint8)
    warp = (patient.waves(220, 420, 4), patient.waves(220, 420, 4))
    scale = patient.sized((1.0, 1.0, 1.0), 0.04)
    step = max(1, SLAB_VOXELS // (shape[1] * shape[2]))

    def fill(first: int) -> None:
        slices = range(first, min(first + step, shape[0]))
        grid = slab_grid(affine, shape, slices, warp, scale)
        values, marks = paint_slab(patient.layers, grid, spacing_mm)
        add_noise(values, noise_hu, seed, slices, spacing_mm)
        part = slice(slices.start, slices.stop)
        hu[part] = np.clip(np.rint(values), -1024, 3071).astype(np.int16)
        labels[part] = marks

    with ThreadPoolExecutor(THREADS) as pool:  # slabs share nothing, and numpy frees the lock
        for _ in pool.map(fill, range(0, shape[0], step)):
            pass
    return Phantom(hu, labels, affine)


def draw_patient(seed: int, contrast: bool, arms: bool, table: bool) -> Patient:
    """Return a patient with all layers in painting order."""
    patient = Patient(seed, contrast, arms, table)
    for draw in PAINTING_ORDER:
        draw(patient)
    return patient


def affine_of(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> npt.NDArray[np.float64]:
    """Return the affine from (k, j, i) to LPS mm with the field of view on its centre."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing_mm
    middle = (np.array(shape) - 1) / 2
    affine[:3, 3] = np.array(CENTER_MM) - affine[:3, :3] @ middle
    affine[3, 3] = 1
    return affine


def slab_grid(
    affine: npt.NDArray[np.float64],
    shape: tuple[int, int, int],
    slices: range,
    warp: tuple[Waves, Waves],
    scale: tuple[float, float, float],
) -> Grid:
    """Return the sample points of some slices in the patient's own, slowly bent frame."""
    zs = ((affine[2, 0] * np.array(slices) + affine[2, 3]) / scale[2]).astype(np.float32)
    ys = ((affine[1, 1] * np.arange(shape[1]) + affine[1, 3]) / scale[1]).astype(np.float32)
    xs = ((affine[0, 2] * np.arange(shape[2]) + affine[0, 3]) / scale[0]).astype(np.float32)
    size = (len(zs), len(ys), len(xs))
    flat = Grid(xs, ys, zs, np.broadcast_to(xs, size), np.broadcast_to(ys[:, None], size), 0.0)
    x = flat.x + np.float32(WARP_MM) * warp[0].sample(flat)
    y = flat.y + np.float32(WARP_MM) * warp[1].sample(flat)
    return Grid(xs, ys, zs, x, y, 3 * WARP_MM)


def paint_slab(
    layers: list[Layer], grid: Grid, spacing_mm: tuple[float, float, float]
) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Return HU without noise, and labels; edges blend over about a voxel (partial volume)."""
    edge = np.float32(0.7 + 0.5 * (spacing_mm[1] + spacing_mm[2]) / 2 + 0.25 * spacing_mm[0])
    hu = np.full(grid.x.shape, AIR_HU, np.float32)
    marks = np.zeros(grid.x.shape, np.uint8)
    for layer in layers:
        part = grid.inside(layer.shape.box.grown(float(edge)))
        if part is None:
            continue
        away = layer.shape.distance(part)
        if layer.label is not None:
            marks[part.window][away < 0] = layer.label
        cover = np.clip(np.float32(0.5) - away / edge, 0, 1)
        if not cover.any():
            continue
        value: Array | np.float32 = np.float32(layer.hu)
        if layer.grain is not None:
            value = value + layer.grain.sample(part) * np.float32(layer.texture_hu)
        target = hu[part.window]
        target += cover * (value - target)
    return hu, marks


def add_noise(
    hu: Array, noise_hu: float, seed: int, slices: range, spacing_mm: tuple[float, float, float]
) -> None:
    """Add noise in place: correlated within a slice as a soft kernel leaves it, less in air.

    Each slice has its own generator, so that the noise does not depend on the slab's size.
    """
    for k, plane in zip(slices, hu, strict=True):
        rng = np.random.default_rng([seed, 977, k])
        noise = rng.standard_normal(plane.shape, dtype=np.float32)
        for axis, spacing in ((0, spacing_mm[1]), (1, spacing_mm[2])):
            side = np.float32(np.exp(-((spacing / 1.3) ** 2) / 2))
            gain = np.float32(1 / np.sqrt(1 + 2 * side * side))
            noise = gain * (
                noise + side * (np.roll(noise, 1, axis=axis) + np.roll(noise, -1, axis=axis))
            )
        plane += noise * np.where(plane > -980, noise_hu, noise_hu / 8).astype(np.float32)


def write_nifti(
    array: npt.NDArray[np.generic], affine: npt.NDArray[np.float64], path: Path
) -> None:
    """Write a (k, j, i) array in LPS as a NIfTI file: (i, j, k), RAS, mm, codes 1.

    Args:
        array: HU or labels.
        affine: 4x4, (k, j, i, 1) to LPS mm.
        path: Ends in .nii or .nii.gz.
    """
    import nibabel as nib

    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine[:, [2, 1, 0, 3]]
    image = nib.Nifti1Image(np.transpose(array, (2, 1, 0)), to_ras)
    image.header.set_xyzt_units("mm")
    image.set_sform(to_ras, code=1)
    image.set_qform(to_ras, code=1)
    data = image.to_bytes()
    if path.suffix == ".gz":  # no file name and no time in it: the same seed, the same bytes
        data = gzip.compress(data, compresslevel=3, mtime=0)
    path.write_bytes(data)


def main(argv: list[str] | None = None) -> None:
    """Read the command line, make the phantom, write it."""
    parser = argparse.ArgumentParser(description="Make a torso CT phantom as NIfTI.")
    parser.add_argument("-o", "--out", type=Path, default=Path("phantom.nii.gz"))
    parser.add_argument("--labels", type=Path, help="also write the true labels here")
    parser.add_argument("--seed", type=int, default=0, help="which patient (default 0)")
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=("X", "Y", "Z"),
        default=(1.5, 1.5, 3.0),
        help="voxel size in mm: columns, rows, slices (default 1.5 1.5 3)",
    )
    parser.add_argument(
        "--size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="columns, rows, slices"
    )
    parser.add_argument("--slices", type=int, help="number of slices alone")
    parser.add_argument("--contrast", choices=("none", "portal"), default="portal")
    parser.add_argument("--noise-hu", type=float, default=12.0, help="SD of the noise")
    parser.add_argument("--arms", action="store_true", help="arms beside the trunk")
    parser.add_argument("--no-table", action="store_true")
    args = parser.parse_args(argv)
    x, y, z = args.spacing
    size = args.size or [
        max(1, round(e / s)) for e, s in zip(DEFAULT_EXTENT_MM[::-1], (x, y, z), strict=True)
    ]
    phantom = make_phantom(
        args.seed,
        (z, y, x),
        (args.slices or size[2], size[1], size[0]),
        args.contrast == "portal",
        args.noise_hu,
        args.arms,
        not args.no_table,
    )
    write_nifti(phantom.hu, phantom.affine, args.out)
    print(args.out)
    if args.labels:
        write_nifti(phantom.labels, phantom.affine, args.labels)
        print(args.labels)


if __name__ == "__main__":
    main()
