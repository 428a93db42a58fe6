"""NIfTI in: every stored form to HU, bad files to one sentence."""

from __future__ import annotations

import gzip
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from conftest import ball_scan, save_nifti
from test_geometry import make

from segmate_cli import nifti
from segmate_cli.errors import GeometryError, NotHounsfieldError, UnreadableError
from segmate_cli.geometry import ras_affine

GEOMETRY = make("SPL", spacing=(3.0, 0.9, 0.8), shape=(4, 5, 6))
HU = np.random.default_rng(0).integers(-1000, 1500, GEOMETRY.shape).astype(np.int16)


def read(path, **options):
    return nifti.read_volume(nifti.open_nifti(path, **options))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32, np.float64])
def test_every_stored_type_gives_the_same_hu(tmp_path, kind, suffix):
    path = tmp_path / "scan.nii.gz"
    save_nifti(path, HU.astype(kind), GEOMETRY)
    if not suffix.lower().endswith(".gz"):
        path.with_name("scan.nii").write_bytes(gzip.decompress(path.read_bytes()))
    volume = read(
        path.rename(tmp_path / f"it{suffix}")
        if suffix.endswith(".GZ")
        else path.with_name("scan" + suffix)
    )
    assert volume.hu.dtype == np.int16
    assert np.array_equal(volume.hu, HU)
    assert volume.geometry.same_as(GEOMETRY)


def test_unsigned_with_intercept_and_slope(tmp_path):
    image = nibabel.Nifti1Image(((HU + 1024) // 2).astype(np.uint16).T, ras_affine(GEOMETRY))
    image.header.set_slope_inter(2.0, -1024.0)
    # nibabel would scale again when saving an image, so write the parts by hand.
    image.header.set_data_dtype(np.uint16)
    path = tmp_path / "scaled.nii"
    raw = ((HU + 1024) // 2).astype("<u2")
    header = image.header.copy()
    with path.open("wb") as stream:
        header.write_to(stream)
        stream.write(raw.tobytes())
    assert np.array_equal(read(path).hu, raw.astype(int) * 2 - 1024)
    want = nibabel.load(path).get_fdata().T
    assert np.array_equal(read(path).hu, want)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.uint32, np.int64])
def test_other_whole_numbers(tmp_path, kind):
    values = np.arange(120).reshape(GEOMETRY.shape).astype(kind)
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values.T, ras_affine(GEOMETRY), dtype=kind), path)
    assert np.array_equal(read(path).hu, values)


def test_big_endian(tmp_path):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = nibabel.Nifti1Image(HU.T, ras_affine(GEOMETRY), header)
    path = tmp_path / "big.nii.gz"
    nibabel.save(image, path)
    assert nibabel.load(path).header.endianness == ">"
    assert np.array_equal(read(path).hu, HU)


def test_nifti_2_and_one_frame(tmp_path):
    path = tmp_path / "two.nii.gz"
    image = nibabel.Nifti2Image(HU.T[..., None], ras_affine(GEOMETRY))
    nibabel.save(image, path)
    assert np.array_equal(read(path).hu, HU)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_counted(tmp_path, bad):
    values = HU.astype(np.float32)
    values[0, :2, 0] = bad
    path = save_nifti(tmp_path / "scan.nii.gz", values, GEOMETRY)
    with pytest.raises(NotHounsfieldError, match="2 voxels are NaN or infinite"):
        read(path)


def test_values_beyond_int16_are_clipped(tmp_path):
    values = HU.astype(np.float32)
    values[0, 0, :2] = (-1e6, 1e6)
    hu = read(save_nifti(tmp_path / "scan.nii.gz", values, GEOMETRY)).hu
    assert hu[0, 0, :2].tolist() == [-32768, 32767]


def damaged(tmp_path, change) -> str:
    """A header field changed behind nibabel's back."""
    path = tmp_path / "bad.nii"
    save_nifti(path, HU, GEOMETRY)
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def put(offset: int, kind: str, *values: float):
    raw = np.array(values, kind).tobytes()
    return lambda data: data.__setitem__(slice(offset, offset + len(raw)), raw)


# Offsets of NIfTI-1 fields: dim 40, datatype 70, pixdim 76, qform_code 252, srow_x 280, magic 344.
BAD_FIELDS = {
    "magic": (put(344, "S4", b"abcd"), UnreadableError, "not a"),
    "zero spacing": (put(80, "<f4", 0.0), GeometryError, "voxel sizes"),
    "nan spacing": (put(84, "<f4", np.nan), GeometryError, "voxel sizes"),
    "negative spacing": (put(84, "<f4", -1.0), GeometryError, "voxel sizes"),
    "nanometres": (put(280, "<f4", *np.diag([1e5, 1e5, 1e5, 1])[:3].flat), GeometryError, "unit"),
    "metres": (put(280, "<f4", *np.diag([1e-3, 1e-3, 1e-3, 1])[:3].flat), GeometryError, "unit"),
    "singular affine": (put(280, "<f4", 0, 0, 0, 0), GeometryError, "zero|singular"),
    "nan affine": (put(280, "<f4", np.nan), GeometryError, "finite"),
    "rgb": (put(70, "<i2", 128, 24), UnreadableError, "RGB"),
    "complex": (put(70, "<i2", 32, 64), UnreadableError, "complex"),
    "unknown type": (put(70, "<i2", 999), UnreadableError, "not a"),
    "2D": (put(40, "<i2", 2, 6, 20, 1, 1), UnreadableError, "2D"),
    "4D": (put(40, "<i2", 4, 6, 5, 2, 2), UnreadableError, "2 frames"),
    "huge": (put(40, "<i2", 3, 32000, 32000, 4), UnreadableError, "cut short"),
    "no voxels": (put(40, "<i2", 3, 6, 0, 4), UnreadableError, "no voxels|not a"),
    "negative size": (put(40, "<i2", 3, 6, -5, 4), UnreadableError, "no voxels|not a"),
    "no orientation": (put(252, "<i2", 0, 0), GeometryError, "left and right cannot be known"),
    "voxels beyond the end": (put(108, "<f4", 90000.0), UnreadableError, "cut short"),
}


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_a_broken_header_is_one_sentence(tmp_path, field):
    change, error, words = BAD_FIELDS[field]
    path = damaged(tmp_path, change)
    with pytest.raises(error, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_orientation_can_be_taken_as_ras(tmp_path):
    path = damaged(tmp_path, put(252, "<i2", 0, 0))
    volume = read(path, assume_ras=True)
    assert volume.geometry.directions == ("S", "A", "R")
    assert "no orientation" in volume.warnings[0]


def test_disagreeing_sform_and_qform_are_told(tmp_path):
    path = tmp_path / "scan.nii.gz"
    image = nibabel.Nifti1Image(HU.T, ras_affine(GEOMETRY))
    image.set_sform(ras_affine(GEOMETRY), code=1)
    moved = ras_affine(GEOMETRY)
    moved[0, 3] += 25
    image.set_qform(moved, code=1)
    nibabel.save(image, path)
    assert "disagree by up to 25.0 mm" in read(path).warnings[0]


def test_cut_gzip_at_every_place(tmp_path):
    whole = save_nifti(tmp_path / "scan.nii.gz", HU, GEOMETRY).read_bytes()
    path = tmp_path / "cut.nii.gz"
    for end in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:end])
        with pytest.raises(UnreadableError):
            read(path)


def test_a_flipped_bit_anywhere_in_the_voxels_is_noticed(tmp_path):
    whole = save_nifti(tmp_path / "scan.nii.gz", HU, GEOMETRY).read_bytes()
    path = tmp_path / "flipped.nii.gz"
    for at in range(len(whole) // 2, len(whole) - 4, 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises((UnreadableError, GeometryError)):
            read(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.nii.gz", b"", "empty"),
        ("text.nii.gz", b"patient notes\n" * 90, "not gzip"),
        ("text.nii", b"patient notes\n" * 90, "not a"),
        ("zipped.nii", gzip.compress(b"x" * 500), "rename it"),
        ("nothing.nii.gz", gzip.compress(b""), "not a"),
        ("text_inside.nii.gz", gzip.compress(b"patient notes\n" * 90), "not a"),
    ],
)
def test_what_is_no_nifti_is_told(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=words):
        read(path)


def test_reading_needs_no_float_copy_of_the_scan(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("peak memory is measured with Linux's ru_maxrss")
    geometry = make("SPL", spacing=(1.0, 1.0, 1.0), shape=(120, 512, 512))
    path = save_nifti(tmp_path / "scan.nii.gz", np.zeros(geometry.shape, np.int16), geometry)
    script = (
        "import sys, resource, nibabel; from pathlib import Path; from segmate_cli import nifti;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "v = nifti.read_volume(nifti.open_nifti(Path(sys.argv[1])));"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / v.hu.nbytes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1.3


def test_the_command_reads_nifti_without_importing_pydicom(tmp_path):
    path = ball_scan(tmp_path / "scan.nii.gz")
    script = f"""
import sys
from pathlib import Path
from segmate_cli import nifti
nifti.import_reader()
nifti.read_volume(nifti.open_nifti(Path({str(path)!r})))
print("nibabel" in sys.modules, "pydicom" in sys.modules)
import pydicom
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]
