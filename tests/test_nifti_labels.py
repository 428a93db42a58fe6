"""Label maps as NIfTI: where the scan lies, as they were, named; bad ones to one sentence."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK
from conftest import save_nifti
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_geometry import directions, make

from segmate_cli import nifti, nifti_labels
from segmate_cli.errors import UnreadableError
from segmate_cli.geometry import ras_affine
from segmate_cli.organs import organ
from segmate_cli.volume import Labels

GEOMETRY = make("SPL", spacing=(3.0, 0.9, 0.8), shape=(4, 5, 6))
HU = np.random.default_rng(0).integers(-1000, 1500, GEOMETRY.shape).astype(np.int16)


def read(path):
    return nifti.read_volume(nifti.open_nifti(path))


def labels_on(volume) -> Labels:
    values = (np.arange(volume.hu.size) % 4).astype(np.uint8).reshape(volume.hu.shape)
    names = {n + 1: organ(key) for n, key in enumerate(("liver", "kidney_left", "aorta"))}
    return Labels(values, volume.geometry, names, volume.source)


def test_labels_of_nifti_2_with_one_frame_have_one_too(tmp_path):
    path, out = tmp_path / "two.nii.gz", tmp_path / "labels.nii.gz"
    nibabel.save(nibabel.Nifti2Image(HU.T[..., None], ras_affine(GEOMETRY)), path)
    nifti_labels.write_labels(labels_on(read(path)), out)
    back = nibabel.load(out)
    assert isinstance(back, nibabel.Nifti2Image)
    assert back.shape == (6, 5, 4, 1)


@settings(
    max_examples=48, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(directions, st.booleans())
def test_labels_lie_where_the_scan_lies_for_two_other_readers(tmp_path, letters, compressed):
    geometry = make(letters, spacing=(3.0, 0.9, 0.8), shape=(4, 5, 6))
    scan = save_nifti(tmp_path / "scan.nii.gz", HU, geometry)
    labels = labels_on(read(scan))
    out = tmp_path / ("labels.nii.gz" if compressed else "labels.nii")
    nifti_labels.write_labels(labels, out)
    by_nibabel = nibabel.load(out)
    assert np.array_equal(np.asarray(by_nibabel.dataobj).T, labels.values)
    assert np.array_equal(by_nibabel.affine, nibabel.load(scan).affine)
    scan_image, out_image = SimpleITK.ReadImage(str(scan)), SimpleITK.ReadImage(str(out))
    assert np.array_equal(SimpleITK.GetArrayFromImage(out_image), labels.values)
    for part in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert np.allclose(getattr(out_image, part)(), getattr(scan_image, part)(), atol=1e-5)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 1), (4, 4)])
def test_codes_units_and_affines_return_as_they_were(tmp_path, codes):
    path = tmp_path / "scan.nii.gz"
    image = nibabel.Nifti1Image(HU.T, ras_affine(GEOMETRY))
    image.set_sform(ras_affine(GEOMETRY), code=codes[0])
    image.set_qform(ras_affine(GEOMETRY), code=codes[1])
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    out = tmp_path / "labels.nii.gz"
    nifti_labels.write_labels(labels_on(read(path)), out)
    before, after = nibabel.load(path).header, nibabel.load(out).header
    for name in ("sform_code", "qform_code", "xyzt_units", "pixdim", "dim"):
        assert np.array_equal(before[name], after[name]), name
    for name in ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x"):
        assert np.array_equal(before[name], after[name]), name


def test_nothing_of_the_scans_texts_goes_into_the_labels(tmp_path):
    image = nibabel.Nifti1Image(HU.T, ras_affine(GEOMETRY))
    image.header["descrip"] = b"DOE^JANE"
    image.header["db_name"] = b"DOE^JANE"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"DOE^JANE born 1950"))
    scan = tmp_path / "scan.nii.gz"
    nibabel.save(image, scan)
    out = tmp_path / "labels.nii"
    nifti_labels.write_labels(labels_on(read(scan)), out)
    assert b"DOE" in gzip.decompress(scan.read_bytes())
    assert b"DOE" not in out.read_bytes()


def test_names_and_colours_are_in_the_header_as_totalsegmentator_reads_them(tmp_path):
    from xml.etree import ElementTree

    scan = save_nifti(tmp_path / "scan.nii.gz", HU, GEOMETRY)
    out = tmp_path / "labels.nii.gz"
    nifti_labels.write_labels(labels_on(read(scan)), out)
    # Its reader takes the first extension and goes down this path, with these attributes.
    content = nibabel.load(out).header.extensions[0].get_content()
    table = ElementTree.fromstring(content).find("VolumeInformation").find("LabelTable")
    assert {int(row.attrib["Key"]): row.text for row in table} == {
        1: "liver",
        2: "kidney_left",
        3: "aorta",
    }
    assert float(table[0].attrib["Red"]) == pytest.approx(organ("liver").rgb[0] / 255, abs=1e-3)
    names = nifti_labels.label_names(nifti.open_nifti(out))
    assert names == {1: organ("liver"), 2: organ("kidney_left"), 3: organ("aorta")}


def test_labels_are_read_as_they_were_written(tmp_path):
    scan = save_nifti(tmp_path / "scan.nii.gz", HU, GEOMETRY)
    labels = labels_on(read(scan))
    nifti_labels.write_labels(labels, tmp_path / "labels.nii.gz")
    back = nifti_labels.read_labels(nifti.open_nifti(tmp_path / "labels.nii.gz"))
    assert np.array_equal(back.values, labels.values)
    assert back.organs == labels.organs


def test_the_same_labels_give_the_same_bytes(tmp_path):
    labels = labels_on(read(save_nifti(tmp_path / "scan.nii.gz", HU, GEOMETRY)))
    nifti_labels.write_labels(labels, tmp_path / "a.nii.gz")
    nifti_labels.write_labels(labels, tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_large_and_float_label_values(tmp_path):
    values = np.zeros(GEOMETRY.shape, np.float32)
    values[3, 2, 1] = 300
    path = save_nifti(tmp_path / "labels.nii.gz", values, GEOMETRY)
    back = nifti_labels.read_labels(nifti.open_nifti(path), {300: organ("liver")})
    assert back.values.dtype == np.uint16
    assert back.values[3, 2, 1] == 300


@pytest.mark.parametrize("bad", [0.5, -1, np.nan, 70000])
def test_numbers_that_are_no_labels_are_refused(tmp_path, bad):
    values = np.zeros(GEOMETRY.shape, np.float32)
    values[1, 0, 0] = bad
    path = save_nifti(tmp_path / "labels.nii.gz", values, GEOMETRY)
    with pytest.raises(UnreadableError, match="slice 1 holds numbers that are no labels"):
        nifti_labels.read_labels(nifti.open_nifti(path))


def test_a_bomb_of_entities_in_the_label_table_is_refused(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><CaretExtension>&a;</CaretExtension>'
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, bomb))
    nibabel.save(image, tmp_path / "labels.nii.gz")
    with pytest.raises(UnreadableError, match="entities"):
        nifti_labels.label_names(nifti.open_nifti(tmp_path / "labels.nii.gz"))


@pytest.mark.parametrize(("stored", "highest"), [(np.int16, 117), (np.uint8, 3)])
def test_floats_under_a_header_of_whole_numbers_are_labels(tmp_path, stored, highest):
    labels = np.arange(120.0).reshape(GEOMETRY.shape) % (highest + 1)
    image = nibabel.Nifti1Image(labels.T, ras_affine(GEOMETRY))
    image.set_data_dtype(stored)  # nibabel scales, so that numbers are a little off
    nibabel.save(image, tmp_path / "labels.nii.gz")
    file = nifti.open_nifti(tmp_path / "labels.nii.gz")
    assert file.slope != 1.0
    assert np.array_equal(nifti_labels.read_labels(file).values, labels)


def test_floats_in_steps_too_coarse_for_labels_are_refused(tmp_path):
    image = nibabel.Nifti1Image(np.arange(120.0).reshape(6, 5, 4) * 5, ras_affine(GEOMETRY))
    image.set_data_dtype(np.uint8)
    nibabel.save(image, tmp_path / "labels.nii.gz")
    with pytest.raises(UnreadableError, match="no labels"):
        nifti_labels.read_labels(nifti.open_nifti(tmp_path / "labels.nii.gz"))
