from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from conftest import save_nifti
from dicom_maker import PATIENT, Recipe, make_series
from seg_maker import STUDY, WHOLE, series_and_labels

from segmate_cli import scans
from segmate_cli.dicom import reference as dicom_reference
from segmate_cli.dicom.reference import SegOptions, of_folder, of_source, reference_for
from segmate_cli.errors import (
    AmbiguousSeriesError,
    GeometryError,
    InputError,
    UnreadableError,
    UsageError,
)
from segmate_cli.geometry import Geometry

OBLIQUE = WHOLE.but(row=(0.8, 0.6, 0.0), column=(0.0, 0.0, -1.0))


@pytest.mark.parametrize("recipe", [WHOLE, OBLIQUE], ids=["axial", "oblique coronal"])
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_any_storage_order_of_a_nifti_finds_its_slices(tmp_path, recipe, axes):
    volume, _ = series_and_labels(tmp_path / "dicom", recipe)
    letters = [volume.geometry.directions[axis] for axis in axes]
    opposite = dict(zip("LRPASI", "RLAPIS", strict=True))
    for flips in itertools.product((False, True), repeat=3):
        want = [opposite[d] if flip else d for d, flip in zip(letters, flips, strict=True)]
        geometry, turn = volume.geometry.reoriented(want)
        hu = np.ascontiguousarray(turn.view(volume.hu))
        path = save_nifti(tmp_path / "scan.nii.gz", hu, geometry)
        stored = scans.load(path)
        found = of_folder(stored.geometry, tmp_path / "dicom")
        assert np.array_equal(found.turn.view(stored.hu), volume.hu)
        assert [one.sop_uid for one in found.slices] == list(volume.source.sop_instance_uids)


def moved(geometry, **changes):
    affine = geometry.affine.copy()
    affine[:3, 3] += changes.get("by", 0.0)
    affine[:3, :3] *= changes.get("stretch", 1.0)
    return Geometry(affine, changes.get("shape", geometry.shape))


@pytest.mark.parametrize(
    "changes", [{"by": 2.0}, {"stretch": 1.1}, {"shape": (5, 12, 10)}, {"by": -2.5}], ids=str
)
def test_a_series_that_lies_elsewhere_is_refused(tmp_path, changes):
    volume, _ = series_and_labels(tmp_path)
    with pytest.raises(GeometryError, match="no series has its voxels where the scan has them"):
        of_folder(moved(volume.geometry, **changes), tmp_path)
    with pytest.raises(GeometryError, match="do not lie on the label map"):
        of_source(moved(volume.geometry, **changes), volume.source)


def test_of_several_series_the_one_that_fits_is_taken(tmp_path):
    volume, _ = series_and_labels(tmp_path / "a")
    make_series(tmp_path / "b", WHOLE.but(series=2, origin=(0.0, 0.0, 0.0)))
    found = of_folder(volume.geometry, tmp_path)
    assert found.slices[0].series_uid == volume.source.series_uid


def test_two_series_on_the_same_voxels_must_be_told_apart(tmp_path):
    volume, _ = series_and_labels(tmp_path / "a")
    other = make_series(tmp_path / "b", WHOLE.but(series=2))
    with pytest.raises(AmbiguousSeriesError, match="--series"):
        of_folder(volume.geometry, tmp_path)
    found = of_folder(volume.geometry, tmp_path, other.series_uid)
    assert found.slices[0].series_uid == other.series_uid


IDENTIFIERS = {
    "StudyInstanceUID": "study_uid",
    "SeriesInstanceUID": "series_uid",
    "FrameOfReferenceUID": "frame_of_reference_uid",
    "SOPClassUID": "sop_class_uid",
    "SOPInstanceUID": "sop_uid",
}


def without(folder, keywords):
    """A series without these, also where the file's preamble repeats them."""
    taken = dict.fromkeys(keywords)
    files = make_series(folder, WHOLE.but(tags={**STUDY, **taken})).folder
    for path in files.iterdir():
        data = pydicom.dcmread(path)
        for keyword in set(keywords) & {"SOPClassUID", "SOPInstanceUID"}:
            setattr(data.file_meta, f"MediaStorage{keyword}", "")
        data.save_as(path)
    volume = scans.load(folder)
    return of_source(volume.geometry, volume.source)


@pytest.mark.parametrize("keywords", [*((one,) for one in IDENTIFIERS), tuple(IDENTIFIERS)])
def test_identifiers_that_anonymising_took_are_made_up_of_the_files_and_told(tmp_path, keywords):
    found, again = (without(tmp_path / one, keywords) for one in "ab")
    assert found.made_up == tuple(one for one in dicom_reference._IDENTIFIERS if one in keywords)
    assert found.slices == tuple(
        replace(one, file=ours.file) for one, ours in zip(again.slices, found.slices, strict=True)
    )
    for name in IDENTIFIERS.values():
        values = {getattr(one, name) for one in found.slices}
        assert len(values) == (6 if name == "sop_uid" else 1)
        assert all(value and len(value) <= 64 for value in values)
    assert found.shared["StudyInstanceUID"].decode().rstrip("\0") == found.slices[0].study_uid
    (warning,) = found.warnings
    assert all(keyword in warning for keyword in keywords)
    assert PATIENT not in warning


def test_identifiers_that_only_some_slices_have_are_refused(tmp_path):
    recipe = WHOLE.but(tags=STUDY, slice_tags={2: {"StudyInstanceUID": None}})
    with pytest.raises(InputError, match="several StudyInstanceUIDs") as caught:
        series_and_labels_reference(tmp_path, recipe)
    assert PATIENT not in str(caught.value)


def test_slices_that_share_an_instance_uid_are_refused(tmp_path):
    recipe = WHOLE.but(tags={**STUDY, "SOPInstanceUID": "1.2.3"})
    with pytest.raises(InputError, match="SOPInstanceUID of their own"):
        series_and_labels_reference(tmp_path, recipe)


def series_and_labels_reference(folder, recipe):
    volume, _ = series_and_labels(folder, recipe)
    return of_source(volume.geometry, volume.source)


def test_attributes_are_carried_as_they_stand(tmp_path):
    name = "Müller^Jürgen"
    tags = {**STUDY, "SpecificCharacterSet": "ISO_IR 100", "PatientName": name}
    found = series_and_labels_reference(tmp_path, WHOLE.but(tags=tags))
    assert found.shared["PatientName"].rstrip() == name.encode("latin-1")
    assert set(found.shared) == set(dicom_reference.SHARED)
    assert found.made_at == ("20240102", "030405")


@pytest.mark.parametrize(
    ("tags", "made_at"),
    [
        ({"StudyDate": "20240102", "StudyTime": "0304"}, ("20240102", "000000")),
        ({"SeriesDate": "", "StudyDate": "20230405"}, ("20230405", "000000")),
        ({}, ("19000101", "000000")),
    ],
)
def test_times_come_from_the_scan_or_are_fixed(tmp_path, tags, made_at):
    assert series_and_labels_reference(tmp_path, Recipe(tags=tags)).made_at == made_at


def test_a_scan_of_nifti_needs_a_reference(tmp_path):
    volume, _ = series_and_labels(tmp_path)
    with pytest.raises(UsageError, match="--reference-dicom"):
        reference_for(volume.geometry, None, SegOptions())


def test_files_that_changed_since_they_were_read_are_noticed(tmp_path):
    volume, _ = series_and_labels(tmp_path)
    (tmp_path / volume.source.files[2]).unlink()
    with pytest.raises(UnreadableError, match="have changed"):
        of_source(volume.geometry, volume.source)


def test_a_tilt_is_warned_of_with_the_readers_that_fail(tmp_path):
    volume, _ = series_and_labels(tmp_path / "upright")
    assert of_source(volume.geometry, volume.source).warnings == ()
    made = make_series(tmp_path / "tilted", WHOLE.but(tilt_deg=12.0))
    found = of_folder(Geometry(made.affine, made.hu.shape), tmp_path / "tilted")
    (warning,) = found.warnings
    assert "12.0 degrees" in warning
    assert "3D Slicer" in warning
