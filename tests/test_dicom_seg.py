from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from conftest import SHARED, save_nifti
from dicom_maker import PATIENT, Recipe, make_series
from seg_maker import (
    ORGANS,
    RUN,
    STUDY,
    WHOLE,
    FakeClock,
    complaints,
    labels_on,
    read_by_dcmqi,
    series_and_labels,
)

pytest.importorskip("highdicom", reason="needs highdicom: pip install 'segmate-cli[dicom]'")
import highdicom

from segmate_cli import saving, scans
from segmate_cli.dicom.reference import Reference, SegOptions, reference_for
from segmate_cli.dicom.seg import check_places, write_seg
from segmate_cli.errors import GeometryError, NothingFoundError, UsageError
from segmate_cli.volume import Labels

SCANS = SHARED / "ct" / "scans"
DEFLATED = "1.2.840.10008.1.2.1.99"
KINDS = [("binary", False), ("binary", True), ("labelmap", False), ("labelmap", True)]
DIRECTIONS = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "axial, head last": ((-1, 0, 0), (0, 1, 0)),
    "prone": ((-1, 0, 0), (0, -1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "oblique": ((0.8, 0.6, 0.0), (-0.48, 0.64, 0.6)),
}


def write(labels: Labels, path: Path, **options) -> pydicom.Dataset:
    chosen = SegOptions(**options)
    write_seg(labels, path, reference_for(labels.geometry, labels.source, chosen), chosen)
    return pydicom.dcmread(path)


def planes_by_source(seg: pydicom.Dataset) -> dict[str, np.ndarray]:
    """Segment numbers on each source slice, read frame by frame with pydicom alone."""
    pixels = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    planes: dict[str, np.ndarray] = {}
    for frame, shown in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        plane = planes.setdefault(source.ReferencedSOPInstanceUID, np.zeros(shown.shape, int))
        number = 1
        # With a single segment, the frames share its number.
        if "SegmentIdentificationSequence" in frame:
            number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        plane += shown.astype(int) * number
    return planes


def assert_on_sources(seg: pydicom.Dataset, folder: Path, labels: Labels) -> None:
    """Each frame lies on its source slice and shows the labels at that place, by the files."""
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    places = {one.SOPInstanceUID: np.array(one.ImagePositionPatient, float) for one in slices}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        assert np.allclose(place, places[source.ReferencedSOPInstanceUID], atol=1e-6)
    shown = planes_by_source(seg)
    seen = 0
    for k, plane in enumerate(labels.values):
        corner = labels.geometry.to_lps_mm((k, 0, 0))
        (uid,) = [uid for uid, place in places.items() if np.linalg.norm(place - corner) < 0.01]
        assert np.array_equal(shown.get(uid, np.zeros(plane.shape)), plane)
        seen += uid in shown
    assert seen == len(shown) > 2
    orientation = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    assert np.allclose(
        np.array(orientation.ImageOrientationPatient, float),
        np.array(slices[0].ImageOrientationPatient, float),
    )


@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("seg_type", ["binary", "labelmap"])
def test_frames_lie_on_their_sources_however_slices_lie(tmp_path, name, seg_type):
    row, column = DIRECTIONS[name]
    _, labels = series_and_labels(tmp_path / "dicom", WHOLE.but(row=row, column=column))
    seg = write(labels, tmp_path / "seg.dcm", seg_type=seg_type)
    assert_on_sources(seg, tmp_path / "dicom", labels)


def test_a_tilted_stack_keeps_its_own_frames(tmp_path):
    volume, _ = series_and_labels(tmp_path / "upright")
    made = make_series(tmp_path / "tilted", WHOLE.but(tilt_deg=12.0))
    tilted = dataclasses.replace(volume.geometry, affine=made.affine)
    labels = dataclasses.replace(labels_on(volume), geometry=tilted)
    seg = write(labels, tmp_path / "seg.dcm", reference=tmp_path / "tilted")
    assert_on_sources(seg, tmp_path / "tilted", labels)


@pytest.mark.parametrize(("seg_type", "compress"), KINDS)
def test_highdicom_reads_the_same_voxels(tmp_path, seg_type, compress):
    _, labels = series_and_labels(tmp_path / "dicom")
    write(labels, tmp_path / "seg.dcm", seg_type=seg_type, compress=compress)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    volume = seg.get_volume(combine_segments=True, skip_overlap_checks=True)
    within = labels.values[1:5]
    assert np.array_equal(np.asarray(volume.array), within) or np.array_equal(
        np.asarray(volume.array)[::-1], within
    )
    assert seg.segment_numbers == [1, 2, 3, 4]
    syntax = {("binary", False): "1.2.840.10008.1.2.1", ("labelmap", False): "1.2.840.10008.1.2.5"}
    expected = syntax.get((seg_type, compress), DEFLATED)
    assert seg.file_meta.TransferSyntaxUID == expected


def test_segments_carry_codes_sides_colours_tracking_and_model(tmp_path):
    _, labels = series_and_labels(tmp_path / "dicom")
    seg = write(labels, tmp_path / "seg.dcm")
    left, right, liver, heart = seg.SegmentSequence
    kind = left.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == (
        "39607008",
        "SCT",
        "Lung",
    )
    sides = [
        each.SegmentedPropertyTypeCodeSequence[0].get("SegmentedPropertyTypeModifierCodeSequence")
        for each in seg.SegmentSequence
    ]
    assert [side[0].CodeMeaning if side else None for side in sides] == [
        *("Left", "Right"),
        *(None, None),
    ]
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert liver.RecommendedDisplayCIELabValue != heart.RecommendedDisplayCIELabValue
    assert [each.TrackingID for each in seg.SegmentSequence] == list(ORGANS.values())
    assert len({each.TrackingUID for each in seg.SegmentSequence}) == 4
    algorithm = right.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "segmate tiny"
    assert RUN["model"]["weights_sha256"] in algorithm.AlgorithmParameters
    assert "SegmentDescription" not in liver
    assert heart.SegmentDescription == "Not found in this scan"


def test_all_slices_are_referenced_in_their_series(tmp_path):
    volume, labels = series_and_labels(tmp_path / "dicom")
    seg = write(labels, tmp_path / "seg.dcm")
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == volume.source.series_uid
    uids = [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence]
    assert tuple(uids) == volume.source.sop_instance_uids
    assert seg.FrameOfReferenceUID == volume.source.frame_of_reference_uid
    assert seg.SeriesNumber == 300
    assert seg.ContentCreatorName == "segmate^"


@pytest.mark.parametrize(("seg_type", "compress"), KINDS)
def test_the_same_input_gives_the_same_bytes_whatever_the_files_are_called(
    tmp_path, monkeypatch, seg_type, compress
):
    first, second = tmp_path / "a.dcm", tmp_path / "b.dcm"
    how = {"seg_type": seg_type, "compress": compress}
    _, labels = series_and_labels(tmp_path / "one")
    write(labels, first, **how)
    monkeypatch.setattr("highdicom.base.datetime", FakeClock)
    _, labels = series_and_labels(tmp_path / "two", WHOLE.but(shuffle=False, name="{k}.ima"))
    write(labels, second, **how)
    assert first.read_bytes() == second.read_bytes()


def test_another_input_gives_another_object(tmp_path):
    volume, labels = series_and_labels(tmp_path / "dicom")
    values = labels.values.copy()
    values[2, 2, 2] = 3
    model = {"model": {**RUN["model"], "weights_sha256": "cd" * 32}}
    uids = {
        write(labels, tmp_path / "a.dcm").SOPInstanceUID,
        write(Labels(values, *rest(labels)), tmp_path / "b.dcm").SOPInstanceUID,
        write(labels_on(volume, model), tmp_path / "c.dcm").SOPInstanceUID,
        write(labels, tmp_path / "d.dcm", seg_type="labelmap").SOPInstanceUID,
        write(labels, tmp_path / "e.dcm", uid_root="1.2.3").SOPInstanceUID,
    }
    assert len(uids) == 5
    assert sum(uid.startswith("1.2.3.") for uid in uids) == 1


def rest(labels: Labels):
    return labels.geometry, labels.organs, labels.source, labels.run


MAY_NAME = {"PatientName", "PatientID", "ReferringPhysicianName", "AccessionNumber"}


def test_only_what_a_study_shares_names_the_patient(tmp_path):
    _, labels = series_and_labels(tmp_path / "dicom")
    seg = write(labels, tmp_path / "seg.dcm")
    naming = {element.keyword for element in seg.iterall() if PATIENT in str(element.value)}
    assert naming == MAY_NAME
    assert seg.PatientBirthDate == "19010203"


def test_odd_attributes_are_kept_and_not_told(tmp_path, capfd, caplog):
    tags = {
        **STUDY,
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": "Müller^Jürgen",
        "PatientSex": "X",
    }
    folder = tmp_path / "dicom"
    _, labels = series_and_labels(folder, WHOLE.but(tags=tags))
    for path in folder.iterdir():  # pydicom would not write such a date
        path.write_bytes(path.read_bytes().replace(b"19010203", b"01.02.03"))
    seg = write(labels, tmp_path / "seg.dcm")
    assert seg.PatientName == "Müller^Jürgen"
    assert b"01.02.03" in (tmp_path / "seg.dcm").read_bytes()
    assert seg.PatientSex == "X"
    told = "".join(capfd.readouterr()) + caplog.text
    assert told == ""


def test_missing_attributes_of_the_patient_are_left_empty(tmp_path):
    gone = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber")
    tags = {**STUDY, **dict.fromkeys((*gone, "StudyID", "StudyDate", "ReferringPhysicianName"))}
    _, labels = series_and_labels(tmp_path / "dicom", WHOLE.but(tags=tags))
    seg = write(labels, tmp_path / "seg.dcm")
    assert [str(seg[keyword].value or "") for keyword in gone] == [""] * len(gone)
    assert seg.StudyInstanceUID
    assert "IssuerOfPatientID" not in seg


def test_nothing_found_writes_nothing(tmp_path):
    _, labels = series_and_labels(tmp_path / "dicom")
    empty = Labels(np.zeros_like(labels.values), *rest(labels))
    with pytest.raises(NothingFoundError, match="no organ was found"):
        write(empty, tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()


def test_labels_of_unknown_origin_are_refused(tmp_path):
    volume, _ = series_and_labels(tmp_path / "dicom")
    with pytest.raises(UsageError, match="which model"):
        write(labels_on(volume, run=None), tmp_path / "seg.dcm")


def test_a_value_without_a_name_is_refused(tmp_path):
    _, labels = series_and_labels(tmp_path / "dicom")
    named = {value: organ for value, organ in labels.organs.items() if value != 3}
    with pytest.raises(UsageError, match="label 3"):
        write(dataclasses.replace(labels, organs=named), tmp_path / "seg.dcm")


def swap(seg):
    first, second = seg.PerFrameFunctionalGroupsSequence[:2]
    moved = first.PlanePositionSequence
    first.PlanePositionSequence, second.PlanePositionSequence = second.PlanePositionSequence, moved


def shift(seg):
    place = seg.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    place.ImagePositionPatient[0] += 0.01


def strange(seg):
    frame = seg.PerFrameFunctionalGroupsSequence[1].DerivationImageSequence[0]
    frame.SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


@pytest.mark.parametrize("spoil", [swap, shift, strange])
def test_a_frame_that_does_not_lie_on_its_source_fails_the_run(tmp_path, spoil):
    _, labels = series_and_labels(tmp_path / "dicom")
    reference: Reference = reference_for(labels.geometry, labels.source, SegOptions())
    seg = write(labels, tmp_path / "seg.dcm")
    check_places(seg, reference)
    spoil(seg)
    with pytest.raises(GeometryError, match="does not lie on its source"):
        check_places(seg, reference)


@pytest.mark.parametrize("seg_type", ["binary", "labelmap"])
def test_dciodvfy_has_nothing_to_say(tmp_path, seg_type):
    _, labels = series_and_labels(tmp_path / "dicom")
    write(labels, tmp_path / "seg.dcm", seg_type=seg_type)
    assert complaints(tmp_path / "seg.dcm") == []


@pytest.mark.parametrize("name", DIRECTIONS)
def test_dcmqi_reads_the_same_voxels(tmp_path, name):
    row, column = DIRECTIONS[name]
    _, labels = series_and_labels(tmp_path / "dicom", WHOLE.but(row=row, column=column))
    write(labels, tmp_path / "seg.dcm")
    saving.save(labels, tmp_path / "labels.nii.gz")
    read = read_by_dcmqi(tmp_path / "seg.dcm", tmp_path / "out", tmp_path / "labels.nii.gz")
    assert np.array_equal(read, labels.values)


# The command line, with a network that calls all that is denser than -300 HU "liver".
FROM_AIR = WHOLE.but(tags={**STUDY, "RescaleSlope": 4, "RescaleIntercept": -4200})


@pytest.fixture
def predict(run, tiny_bundle, tmp_path):
    def call(scan, *args):
        return run("predict", scan, "--model", tiny_bundle, *args)

    return call


@pytest.fixture
def series(tmp_path) -> Path:
    make_series(tmp_path / "dicom", FROM_AIR)
    return tmp_path / "dicom"


def test_several_outputs_of_one_run_hold_the_same(predict, series, tmp_path):
    nifti, seg = tmp_path / "labels.nii.gz", tmp_path / "seg.dcm"
    code, out, err = predict(series, "-o", seg, "-o", nifti)
    assert (code, out) == (0, f"{nifti}\n{seg}\n"), err
    assert (tmp_path / "labels.json").exists()
    assert not (tmp_path / "seg.json").exists()
    values = np.asarray(nibabel.load(nifti).dataobj).T
    assert 10 < np.count_nonzero(values) < values.size - 10
    labels = Labels(values, scans.load(series).geometry, {})
    assert_on_sources(pydicom.dcmread(seg), series, labels)


def test_a_lone_seg_has_the_sidecar(predict, series, tmp_path):
    code, out, _ = predict(series, "-o", tmp_path / "seg.dcm", "--uid-root", "1.2.3")
    assert (code, out) == (0, f"{tmp_path / 'seg.dcm'}\n")
    sidecar = json.loads((tmp_path / "seg.json").read_text())
    assert sidecar["output"]["file"] == "seg.dcm"
    assert sidecar["input"]["dicom"]["series_uid"]
    assert pydicom.dcmread(tmp_path / "seg.dcm").SOPInstanceUID.startswith("1.2.3.")


def test_a_nifti_scan_with_its_dicom(predict, series, tmp_path):
    volume = scans.load(series)
    geometry, turn = volume.geometry.reoriented(("I", "A", "L"))
    scan = save_nifti(tmp_path / "scan.nii.gz", np.array(turn.view(volume.hu)), geometry)
    nifti, seg = tmp_path / "labels.nii.gz", tmp_path / "seg.dcm"
    code, _, err = predict(scan, "-o", nifti, "-o", seg, "--reference-dicom", series)
    assert code == 0, err
    values = np.asarray(nibabel.load(nifti).dataobj).T
    labels = Labels(np.array(turn.inverse().view(values)), volume.geometry, {})
    assert_on_sources(pydicom.dcmread(seg), series, labels)


def assert_refused(result, code, *words):
    assert result[0] == code, result
    assert result[1] == ""
    for word in words:
        assert word in result[2]


def test_what_cannot_be_is_refused_before_the_network_runs(predict, series, tmp_path):
    scan = save_nifti(tmp_path / "scan.nii.gz", *hu_and_geometry(scans.load(series)))
    far = make_series(tmp_path / "far", Recipe(series=2, origin=(0.0, 0.0, 0.0))).folder
    make_series(tmp_path / "twice" / "a", WHOLE)
    make_series(tmp_path / "twice" / "b", WHOLE.but(series=3))
    seg = ("-o", tmp_path / "seg.dcm")
    assert_refused(predict(scan, *seg), 2, "--reference-dicom")
    assert_refused(predict(scan, *seg, "--reference-dicom", far), 6, "series 1", "mm apart")
    twice = ("--reference-dicom", tmp_path / "twice")
    assert_refused(predict(scan, *seg, *twice), 4, "--series")
    assert_refused(predict(scan, "-o", tmp_path / "x.nii.gz", *twice), 2, "-o seg.dcm")
    assert_refused(predict(series, *seg, "--uid-root", "9.9"), 2, "--uid-root")
    assert_refused(predict(series, *seg, *seg), 2, "same name")
    assert not (tmp_path / "seg.dcm").exists()
    assert predict(scan, *seg, *twice, "--series", "1")[0] == 0


def hu_and_geometry(volume):
    return np.array(volume.hu), volume.geometry


def test_a_cap_that_cannot_hold_the_seg_is_refused(predict, series, tmp_path, monkeypatch):
    monkeypatch.setattr("segmate_cli.saving._SEG_BYTES_A_VOXEL", 10**9)
    outputs = ("-o", tmp_path / "seg.dcm", "--memory-cap", "9GB")
    assert_refused(predict(series, *outputs), 5, "DICOM SEG", "at least 72")


def test_without_highdicom_the_extra_is_named(predict, series, tmp_path, monkeypatch):
    find = importlib.util.find_spec  # by which engines are found, too
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "highdicom" else find(name)
    )
    assert_refused(predict(series, "-o", tmp_path / "seg.dcm"), 2, "segmate-cli[dicom]")


def test_nothing_found_is_for_review_and_only_nifti_is_written(predict, series, tmp_path):
    scan = np.full((6, 12, 10), -1000, np.int16)
    scan[0, 0, :4] = (-1010, -990, -980, -1020)
    air = save_nifti(tmp_path / "air.nii.gz", scan, scans.load(series).geometry)
    nifti, seg = tmp_path / "labels.nii.gz", tmp_path / "seg.dcm"
    outputs = ("-o", seg, "-o", nifti, "--no-hu-check")
    code, out, err = predict(air, *outputs, "--reference-dicom", series)
    assert (code, out) == (3, f"{nifti}\n")
    assert "no organ was found" in err
    assert not seg.exists()


@pytest.mark.skipif(not SCANS.is_dir(), reason="needs the real scans of ../shared/ct/scans")
@pytest.mark.parametrize(
    ("name", "series", "missing"),
    [
        ("petct_two_series_dicom.zip", "1", ()),
        ("petct_two_series_dicom.zip", "2", ()),
        ("abdomen20_dicom", "auto", ("SeriesInstanceUID", "StudyInstanceUID")),
        ("ircad01_dicom.zip", "auto", ("FrameOfReferenceUID",)),
    ],
)
def test_a_real_series_reads_the_same_in_dcmqi(predict, tmp_path, name, series, missing):
    nifti, seg = tmp_path / "labels.nii.gz", tmp_path / "seg.dcm"
    code, _, err = predict(SCANS / name, "--series", series, "-o", nifti, "-o", seg)
    assert code == 0, err
    assert all(keyword in err for keyword in missing)
    read = read_by_dcmqi(seg, tmp_path / "out", nifti)
    assert np.array_equal(read, np.asarray(nibabel.load(nifti).dataobj).T)
    # An archive's own names are in no form of a person's name, and anonymising leaves ids empty;
    # nothing else is said.
    anonymous = ("/PatientID(0010,0020)", "/StudyID(0020,0010)")
    assert all("[PN]" in line or any(one in line for one in anonymous) for line in complaints(seg))
