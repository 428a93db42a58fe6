"""Folders full of scans as a night brings them: good ones in many forms, broken ones of every kind.

Each maker gets a path without a suffix and gives the path that it made; a case is named after it.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import dicom_maker as maker
import nibabel
import numpy as np
from conftest import ball_scan
from dicom_maker import Recipe, make_series

Maker = Callable[[Path], object]
CT = Recipe(shape=(12, 24, 24))
_SYNTAXES = (maker.EXPLICIT, maker.IMPLICIT, maker.BIG_ENDIAN, maker.RLE, maker.JPEG_LS)


def make_good(folder: Path, count: int) -> list[str]:
    """Write good scans, each of other voxels; gives their cases."""
    names = [f"good{n:03}" for n in range(count)]
    for n, name in enumerate(names):
        path, size = folder / name, 16 + n % 40
        if n % 5 == 0:
            recipe = CT.but(shape=(8 + n % 9, 24, 24), series=n + 1, step_mm=2.0 + 0.01 * n)
            make_series(path, recipe.but(syntax=_SYNTAXES[n // 5 % len(_SYNTAXES)]))
        elif n % 5 == 1:
            made = make_series(path, CT.but(series=n + 1, step_mm=2.0 + 0.01 * n))
            pack = zip_of if n % 2 else tar_of
            pack(made.folder, path.with_name(f"{name}.{'zip' if n % 2 else 'tar'}"))
        elif n % 5 == 2:
            ball_scan(path.with_name(f"{name}.nii"), size, 2.0 + 0.001 * n)
        else:
            ball_scan(path.with_name(f"{name}.nii.gz"), size, 2.0 + 0.001 * n)
    return names


def make_broken(folder: Path, count: int) -> list[str]:
    """Write broken scans, all kinds by turns; gives their cases."""
    kinds = list(BROKEN.items())
    names = []
    for n in range(count):
        kind, make = kinds[n % len(kinds)]
        names.append(f"broken{n:03}-{kind}")
        make(folder / names[-1])
    return names


def zip_of(folder: Path, target: Path) -> None:
    """Pack a folder, and take it away."""
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
            file.unlink()
    folder.rmdir()


def tar_of(folder: Path, target: Path) -> None:
    """Roll a folder up, and take it away."""
    with tarfile.open(target, "w") as archive:
        archive.add(folder, "series")
    shutil.rmtree(folder)


def _bytes(data: bytes, suffix: str = ".nii.gz") -> Maker:
    return lambda path: path.with_name(path.name + suffix).write_bytes(data)


def _nifti(change: Callable[[nibabel.Nifti1Image], nibabel.Nifti1Image]) -> Maker:
    """A scan of which ``change`` makes another."""

    def make(path: Path) -> None:
        target = path.with_name(f"{path.name}.nii.gz")
        scan = nibabel.load(ball_scan(target, 20))
        image = change(nibabel.Nifti1Image(np.asarray(scan.dataobj), scan.affine))
        nibabel.save(image, target)

    return make


def _file(change: Callable[[bytes], bytes]) -> Maker:
    """A scan whose uncompressed bytes ``change`` spoils."""

    def make(path: Path) -> None:
        target = path.with_name(f"{path.name}.nii.gz")
        data = gzip.decompress(ball_scan(target, 20).read_bytes())
        target.write_bytes(gzip.compress(change(data)))

    return make


def _like(image: nibabel.Nifti1Image, array: np.ndarray) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(array, image.affine)


def _lost(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    return image


def _series(**changes: object) -> Maker:
    return lambda path: make_series(path, CT.but(**changes))


def _series_with(change: Callable[[Path], object]) -> Maker:
    """A series of which one file is spoiled."""
    return lambda path: change(sorted(make_series(path, CT).folder.iterdir())[3])


def _cut_archive(path: Path) -> None:
    target = path.with_name(f"{path.name}.zip")
    zip_of(make_series(path, CT).folder, target)
    target.write_bytes(target.read_bytes()[:-30])


def _cut_tar(path: Path) -> None:
    target = path.with_name(f"{path.name}.tar")
    tar_of(make_series(path, CT).folder, target)
    target.write_bytes(target.read_bytes()[: 3 * 512])


def _text_archive(path: Path) -> None:
    with zipfile.ZipFile(path.with_name(f"{path.name}.zip"), "w") as archive:
        archive.writestr("readme.txt", "nothing here")


BROKEN: dict[str, Maker] = {
    "empty": _bytes(b""),
    "text": _bytes(b"no scan, whatever the name says"),
    "not-gzip": _bytes(b"\x5c\x01\0\0" + bytes(700)),
    "cut-in-header": lambda path: _cut(ball_scan(path.with_name(f"{path.name}.nii.gz"), 20), 400),
    "cut": lambda path: _cut(ball_scan(path.with_name(f"{path.name}.nii.gz"), 40), 100),
    "cut-plain": lambda path: _cut(ball_scan(path.with_name(f"{path.name}.nii"), 20), 400),
    "header-only": _file(lambda data: data[:352]),
    "no-magic": _file(lambda data: data[:344] + b"xyz\0" + data[348:]),
    "huge": _file(lambda data: data[:42] + b"\xff\x7f\xff\x7f\xff\x7f" + data[48:]),
    "not-hu": _nifti(lambda image: _like(image, np.full(image.shape, 7000, np.int16))),
    "four-d": _nifti(lambda image: _like(image, np.zeros((8, 8, 8, 3), np.int16))),
    "not-a-number": _nifti(lambda image: _like(image, np.full(image.shape, np.nan, np.float32))),
    "lost": _nifti(_lost),
    "dangling": lambda path: path.with_name(f"{path.name}.nii.gz").symlink_to("gone.nii.gz"),
    "bad-zip": _bytes(b"PK\x03\x04 and no more", ".zip"),
    "cut-zip": _cut_archive,
    "text-zip": _text_archive,
    "cut-tar": _cut_tar,
    "empty-dicom": lambda path: (path.mkdir(), (path / "a.dcm").write_bytes(b"")),
    "text-dicom": lambda path: (path.mkdir(), (path / "a.dcm").write_text("no DICOM" * 99)),
    "gap": _series(shape=(30, 24, 24), leave_out=tuple(range(8, 22))),
    "far": _series(positions_mm=[*range(0, 22, 2), 90]),
    "mr": _series(tags={"Modality": "MR"}),
    "one-slice": _series(shape=(1, 24, 24)),
    "no-slope": _series(slice_tags={2: {"RescaleSlope": 0}}),
    "no-pixels": _series(slice_tags={2: {"PixelData": None}}),
    "no-place": _series(slice_tags={2: {"ImagePositionPatient": None}}),
    "cut-dicom": _series_with(lambda file: _cut(file, 300)),
    "other-size": _series(slice_tags={2: {"Rows": 12}}),
}


# What is no 6: a header may ask for more memory than there is.
EXIT_CODES = {"huge": 5}


def exit_code(case: str) -> int:
    """What a case that was made here ends with."""
    return 0 if case.startswith("good") else EXIT_CODES.get(case.partition("-")[2], 6)


def _cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])
