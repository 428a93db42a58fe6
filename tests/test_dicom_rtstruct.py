from __future__ import annotations

import json
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from conftest import SHARED
from dicom_maker import PATIENT, make_series
from seg_maker import (
    STUDY,
    WHOLE,
    FakeClock,
    complaints,
    labels_on,
    series_and_labels,
    tool,
)

pytest.importorskip("contourpy", reason="needs contourpy: pip install 'segmate-cli[dicom]'")

from segmate_cli import saving, scans
from segmate_cli.dicom.reference import SegOptions, reference_for
from segmate_cli.dicom.rtstruct import write_rtstruct
from segmate_cli.errors import NothingFoundError
from segmate_cli.volume import Labels

SCANS = SHARED / "ct" / "scans"
OBLIQUE = {"row": (0.8, 0.6, 0.0), "column": (-0.48, 0.64, 0.6)}
LARGER = WHOLE.but(shape=(8, 60, 70))


def rings_on(volume) -> Labels:
    """Two organs, one around the other's hole, and specks; nothing on the outer slices."""
    k, j, i = np.indices(volume.geometry.shape)
    values = np.zeros(volume.geometry.shape, np.uint8)
    off = np.hypot(j - 28 - k, 1.2 * (i - 30))
    values[off < 24] = 1
    values[off < 11 - k / 2] = 0
    values[off < 5] = 3
    values[(j == 55) & (i % 5 == 0)] = 2
    values[[0, -1]] = 0
    labels = labels_on(volume)
    return Labels(values, volume.geometry, labels.organs, volume.source, labels.run)


def write(labels: Labels, path: Path, **options) -> pydicom.Dataset:
    chosen = SegOptions(**options)
    reference = reference_for(labels.geometry, labels.source, chosen)
    write_rtstruct(labels, path, reference, chosen.uid_root)
    return pydicom.dcmread(path)


def written(folder: Path, recipe=LARGER) -> tuple[Labels, pydicom.Dataset]:
    make_series(folder / "dicom", recipe)
    labels = rings_on(scans.load(folder / "dicom"))
    return labels, write(labels, folder / "rtstruct.dcm")


def contours(found: pydicom.Dataset, number: int) -> list[pydicom.Dataset]:
    return found.ROIContourSequence[number - 1].get("ContourSequence") or []


@pytest.mark.parametrize("turn", [{}, {"column": (0, 0, -1)}, OBLIQUE], ids=len)
def test_each_contour_lies_on_the_slice_that_it_names_with_the_masks_area(tmp_path, turn):
    labels, found = written(tmp_path, LARGER.but(**turn))
    slices = [pydicom.dcmread(path) for path in (tmp_path / "dicom").iterdir()]
    by_uid = {one.SOPInstanceUID: one for one in slices}
    k_of = {uid: k for k, uid in enumerate(labels.source.sop_instance_uids)}
    pixel_mm2 = 0.8 * 0.7
    for number in (1, 2, 3):
        drawn: dict[int, float] = {}
        for contour in contours(found, number):
            (image,) = contour.ContourImageSequence
            source = by_uid[image.ReferencedSOPInstanceUID]
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints >= 3
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            row, column = np.array(source.ImageOrientationPatient, float).reshape(2, 3)
            off = points - np.array(source.ImagePositionPatient, float)
            assert np.abs(off @ np.cross(row, column)).max() < 1e-3
            x, y = off @ row, off @ column
            k = k_of[source.SOPInstanceUID]
            area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
            drawn[k] = drawn.get(k, 0.0) + area
        masks = [np.count_nonzero(plane == number) for plane in labels.values]
        assert drawn == {
            k: pytest.approx(count * pixel_mm2, rel=0.02) for k, count in enumerate(masks) if count
        }


def test_it_names_code_colour_series_and_frame_of_reference(tmp_path):
    labels, found = written(tmp_path)
    assert [roi.ROIName for roi in found.StructureSetROISequence] == [
        *("Left lung", "Right lung"),
        *("Liver", "Heart"),
    ]
    assert {roi.ROIGenerationAlgorithm for roi in found.StructureSetROISequence} == {"AUTOMATIC"}
    assert found.StructureSetROISequence[3].ROIDescription == "Not found in this scan"
    assert contours(found, 4) == []
    kind = found.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("39607008", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    colours = [list(each.ROIDisplayColor) for each in found.ROIContourSequence]
    assert colours == [list(organ.rgb) for organ in labels.organs.values()]
    (frame,) = found.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == labels.source.frame_of_reference_uid
    (study,) = frame.RTReferencedStudySequence
    assert study.ReferencedSOPInstanceUID == found.StudyInstanceUID == labels.source.study_uid
    (series,) = study.RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == labels.source.series_uid
    uids = [item.ReferencedSOPInstanceUID for item in series.ContourImageSequence]
    assert tuple(uids) == labels.source.sop_instance_uids
    assert (found.SeriesNumber, found.ApprovalStatus) == (302, "UNAPPROVED")
    assert found.PatientID == f"{PATIENT}-id"


def test_only_what_a_study_shares_names_the_patient(tmp_path):
    _, found = written(tmp_path)
    naming = {each.keyword for each in found.iterall() if PATIENT in str(each.value)}
    assert naming == {"PatientName", "PatientID", "ReferringPhysicianName", "AccessionNumber"}


def test_the_same_input_gives_the_same_bytes(tmp_path, monkeypatch):
    written(tmp_path / "a")
    monkeypatch.setattr("highdicom.base.datetime", FakeClock)
    written(tmp_path / "b", LARGER.but(shuffle=False, name="{k}.ima"))
    first, second = (tmp_path / one / "rtstruct.dcm" for one in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_another_input_gives_another_object(tmp_path):
    labels, first = written(tmp_path)
    values = labels.values.copy()
    values[2, 2, 2] = 3
    other = Labels(values, labels.geometry, labels.organs, labels.source, labels.run)
    second = write(other, tmp_path / "b.dcm")
    third = write(labels, tmp_path / "c.dcm", uid_root="1.2.3")
    assert len({each.SOPInstanceUID for each in (first, second, third)}) == 3
    assert third.SOPInstanceUID.startswith("1.2.3.")


def test_nothing_found_writes_nothing(tmp_path):
    _, labels = series_and_labels(tmp_path / "dicom")
    empty = Labels(np.zeros_like(labels.values), labels.geometry, labels.organs, labels.source)
    with pytest.raises(NothingFoundError, match="no organ was found"):
        write(empty, tmp_path / "rtstruct.dcm")
    assert not (tmp_path / "rtstruct.dcm").exists()


def test_dciodvfy_has_nothing_to_say(tmp_path):
    written(tmp_path)
    assert complaints(tmp_path / "rtstruct.dcm") == []


def by_plastimatch(rtstruct: Path, nifti: Path, folder: Path) -> dict[str, np.ndarray]:
    """Masks by name, (i, j, k), as plastimatch reads an RTSTRUCT on the grid of a NIfTI file."""
    command = [tool("plastimatch"), "convert", "--input", rtstruct, "--fixed", nifti]
    command += ["--output-prefix", folder, "--prefix-format", "nii.gz"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return {
        path.name.removesuffix(".nii.gz"): np.asarray(nibabel.load(path).dataobj) > 0
        for path in folder.glob("*.nii.gz")
    }


def dice(one: np.ndarray, other: np.ndarray) -> float:
    both = np.count_nonzero(one & other)
    return 2 * both / (np.count_nonzero(one) + np.count_nonzero(other))


def test_plastimatch_reads_the_same_masks(tmp_path):
    labels, _ = written(tmp_path)
    saving.save(labels, tmp_path / "labels.nii.gz")
    read = by_plastimatch(tmp_path / "rtstruct.dcm", tmp_path / "labels.nii.gz", tmp_path / "masks")
    assert set(read) == {"Left lung", "Right lung", "Liver"}
    for value, title in ((1, "Left lung"), (2, "Right lung"), (3, "Liver")):
        assert dice(read[title], value == labels.values.T) >= 0.98


@pytest.mark.skipif(not SCANS.is_dir(), reason="needs the real scans of ../shared/ct/scans")
def test_plastimatch_reads_the_same_masks_of_a_real_series(run, tmp_path):
    nifti, rtstruct = tmp_path / "labels.nii.gz", tmp_path / "rtstruct.dcm"
    code, _, err = run("predict", SCANS / "abdomen20_dicom", "-o", nifti, "-o", rtstruct)
    assert code == 0, err
    read = by_plastimatch(rtstruct, nifti, tmp_path / "masks")
    values = np.asarray(nibabel.load(nifti).dataobj)
    rows = json.loads((tmp_path / "labels.json").read_text())["labels"]
    value_of = {row["title"]: row["value"] for row in rows}
    assert len(read) >= 3
    for title, mask in read.items():
        assert dice(mask, values == value_of[title]) >= 0.98


# The command line, with a network that calls all that is denser than -300 HU "liver".
FROM_AIR = WHOLE.but(tags={**STUDY, "RescaleSlope": 4, "RescaleIntercept": -4200})


@pytest.fixture
def predict(run, tiny_bundle, tmp_path):
    make_series(tmp_path / "dicom", FROM_AIR)

    def call(*args):
        return run("predict", tmp_path / "dicom", "--model", tiny_bundle, *args)

    return call


def test_the_name_decides_what_a_dcm_is(predict, tmp_path):
    names = ("labels.nii.gz", "seg.dcm", "case_RTSTRUCT.dcm", "rtss.dcm")
    outputs = [part for name in names for part in ("-o", tmp_path / name)]
    code, out, err = predict(*outputs)
    assert (code, out.split()) == (0, [str(tmp_path / name) for name in names]), err
    kinds = [pydicom.dcmread(tmp_path / name).Modality for name in names[1:]]
    assert kinds == ["SEG", "RTSTRUCT", "RTSTRUCT"]
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["labels.json"]


@pytest.mark.parametrize(("kind", "modality"), [("rtstruct", "RTSTRUCT"), ("seg", "SEG")])
def test_format_decides_against_the_name(predict, tmp_path, kind, modality):
    path = tmp_path / ("rtss.dcm" if kind == "seg" else "organs.bin")
    code, out, err = predict("-o", path, "--format", kind)
    assert (code, out) == (0, f"{path}\n"), err
    assert pydicom.dcmread(path).Modality == modality
    assert json.loads(path.with_suffix(".json").read_text())["output"]["file"] == path.name


def test_what_cannot_be_is_refused_before_the_network_runs(predict, tmp_path):
    one, other = ("-o", tmp_path / "rtstruct.dcm"), ("-o", tmp_path / "labels.nii.gz")
    for arguments, words in (
        ((*one, *other, "--format", "rtstruct"), "one output"),
        ((*other, "--format", "rtstruct"), "for NIfTI"),
        ((*one, "--format", "nifti"), "for NIfTI"),
        (("-o", tmp_path / "x.json", "--format", "seg"), "sidecar"),
        ((*one, "--seg-type", "labelmap"), "-o seg.dcm"),
        (("-o", tmp_path / "x.txt"), "rtstruct"),
    ):
        code, out, err = predict(*arguments)
        assert (code, out) == (2, ""), err
        assert words in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dicom"]
    assert predict(*one, "--uid-root", "1.2.3")[0] == 0
