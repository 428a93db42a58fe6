from __future__ import annotations

import json
import subprocess

import nibabel
import numpy as np
import pydicom
import pytest
from conftest import save_nifti
from dicom_maker import PATIENT, make_series
from seg_maker import ORGANS, WHOLE, complaints, series_and_labels, tool

pytest.importorskip("highdicom", reason="needs highdicom: pip install 'segmate-cli[dicom]'")
from test_dicom_sr import items, numbers

from segmate_cli import saving
from segmate_cli.dicom.reference import SegOptions
from segmate_cli.measurement import measure


@pytest.fixture
def saved(tmp_path):
    """labels.nii.gz with its sidecar and seg.dcm of one run, and the scan's folder."""
    volume, labels = series_and_labels(tmp_path / "dicom")
    saving.save(labels, tmp_path / "labels.nii.gz", seconds={})
    saving.save(labels, tmp_path / "seg.dcm", seg=SegOptions(), with_sidecar=False)
    return volume, labels


def as_sr(run, tmp_path, *args, name="sr.dcm"):
    path = tmp_path / name
    code, out, err = run("report", *args, "--format", "dicom-sr", "-o", path)
    assert (code, out) == (0, f"{path}\n"), err
    return pydicom.dcmread(path), err


def tracking(report) -> dict[str, str]:
    groups = items(report, "125007")
    names = [items(group, "112039")[0].TextValue for group in groups]
    return dict(zip(names, (items(group, "112040")[0].UID for group in groups), strict=True))


def test_the_sidecar_alone_tells_the_series_and_no_patient(run, tmp_path, saved):
    volume, labels = saved
    report, err = as_sr(run, tmp_path, tmp_path / "labels.nii.gz")
    assert "names no patient" in err
    assert report.StudyInstanceUID == volume.source.study_uid
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == volume.source.series_uid
    uids = [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence]
    assert tuple(uids) == volume.source.sop_instance_uids
    listed = [item.ReferencedSOPSequence[0] for item in items(report, "121112")]
    assert [item.ReferencedSOPInstanceUID for item in listed] == uids
    groups = items(report, "125007")
    expected = [[each.volume_ml] if each.voxels else [] for each in measure(labels)]
    assert [numbers(group) for group in groups] == [pytest.approx(one) for one in expected]
    assert PATIENT not in str(report)
    assert PATIENT not in (tmp_path / "labels.json").read_text()


def test_tracking_uids_are_those_of_the_seg_and_its_report(run, tmp_path, saved):
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    told = {item.TrackingID: item.TrackingUID for item in seg.SegmentSequence}
    alone, _ = as_sr(run, tmp_path, tmp_path / "labels.nii.gz")
    of_seg, _ = as_sr(run, tmp_path, tmp_path / "seg.dcm", name="b.dcm")
    assert tracking(alone) == tracking(of_seg) == told
    assert list(told) == list(ORGANS.values())
    assert alone.SOPInstanceUID != of_seg.SOPInstanceUID


@pytest.mark.parametrize("how", ["--ct", "--reference-dicom"])
def test_the_series_itself_tells_the_patient_too(run, tmp_path, saved, how):
    volume, labels = saved
    # Another series on the same voxels: the sidecar says which one it was.
    make_series(tmp_path / "dicom" / "other", WHOLE.but(series=2))
    report, err = as_sr(run, tmp_path, tmp_path / "labels.nii.gz", how, tmp_path / "dicom")
    assert "names no patient" not in err
    assert report.PatientID == f"{PATIENT}-id"
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    assert evidence.ReferencedSeriesSequence[0].SeriesInstanceUID == volume.source.series_uid
    # The series that the labels lie on is the CT.
    for group, each in zip(items(report, "125007"), measure(labels, volume), strict=True):
        values = [each.volume_ml, each.mean_hu, each.sd_hu]
        assert numbers(group) == pytest.approx([one for one in values if one is not None])


def test_each_organ_has_its_status(run, tmp_path, saved):
    _, labels = saved
    report, _ = as_sr(run, tmp_path, tmp_path / "labels.nii.gz")
    told = [
        [item.ConceptCodeSequence[0].CodeMeaning for item in items(group, "121052")]
        for group in items(report, "125007")
    ]
    words = {
        "truncated": ["Anatomy coverage incomplete"],
        "complete": [],
        "absent": ["Not visualized"],
        "not_found": ["Presence Undetermined"],
    }
    assert told == [words[each.status.kind] for each in measure(labels)]


def test_statuses_are_those_of_the_table(run, tmp_path, tiny_bundle):
    series_and_labels(tmp_path / "dicom", WHOLE.but(shape=(6, 16, 12)))
    labels, beside = tmp_path / "l.nii.gz", tmp_path / "l.json"
    assert run("predict", tmp_path / "dicom", "-o", labels, "--model", tiny_bundle)[0] == 0
    told = json.loads(beside.read_text())
    # A network that is unsure, which no look at the voxels can tell.
    told["doubt"]["gates"] = ["confidence"]  # the tiny model has none
    told["doubt"]["organs"][0]["confidence"] = 0.5
    beside.write_text(json.dumps(told))
    _, out, _ = run("report", labels, "--format", "json", "--no-gate-exit")
    (row,) = json.loads(out)["rows"]
    assert row["status"] == "low_confidence"
    report, _ = as_sr(run, tmp_path, labels)
    (group,) = items(report, "125007")
    (comment,) = [each.TextValue for each in items(group, "121106")]
    assert comment.startswith("status: low_confidence; ")


def test_a_label_map_that_was_changed_needs_its_series_and_claims_no_model(run, tmp_path, saved):
    nifti = tmp_path / "labels.nii.gz"
    image = nibabel.load(nifti)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), nifti)
    code, _, err = run("report", nifti, "--format", "dicom-sr", "-o", tmp_path / "x.dcm")
    assert code == 2
    assert "--reference-dicom" in err
    report, _ = as_sr(run, tmp_path, nifti, "--reference-dicom", tmp_path / "dicom")
    (name,) = {item.TextValue for item in items(report, "111001")}
    assert name == "segmate"
    assert items(report, "111002") == []


def test_a_label_map_of_a_nifti_scan_needs_its_series(run, tmp_path, saved):
    _, labels = saved
    foreign = save_nifti(tmp_path / "foreign.nii.gz", labels.values, labels.geometry)
    (tmp_path / "names.csv").write_text("value,organ\n1,lung_left\n2,lung_right\n3,liver\n")
    how = (foreign, "--labels", tmp_path / "names.csv")
    code, _, err = run("report", *how, "--format", "dicom-sr", "-o", tmp_path / "x.dcm")
    assert code == 2
    assert "--reference-dicom" in err
    report, _ = as_sr(run, tmp_path, *how, "--reference-dicom", tmp_path / "dicom")
    assert list(tracking(report)) == ["lung_left", "lung_right", "liver"]


def test_the_same_input_gives_the_same_bytes(run, tmp_path, saved):
    for name in ("a.dcm", "b.dcm"):
        as_sr(run, tmp_path, tmp_path / "labels.nii.gz", name=name)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


def test_another_run_with_the_same_labels_gives_the_same_report(run, tmp_path, saved):
    as_sr(run, tmp_path, tmp_path / "labels.nii.gz", name="a.dcm")
    # As an hour later, on a machine that took longer.
    told = json.loads((tmp_path / "labels.json").read_text())
    told |= {"created": "2031-05-06T07:08:09+00:00", "seconds": {"network": 99.0}}
    (tmp_path / "labels.json").write_text(json.dumps(told))
    as_sr(run, tmp_path, tmp_path / "labels.nii.gz", name="b.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


def test_dciodvfy_says_only_that_nobody_is_named(run, tmp_path, saved):
    as_sr(run, tmp_path, tmp_path / "labels.nii.gz", "--ct", tmp_path / "dicom")
    assert complaints(tmp_path / "sr.dcm") == []
    as_sr(run, tmp_path, tmp_path / "labels.nii.gz", name="alone.dcm")
    # A sidecar holds no ids, and archives need both; the command has warned of it.
    said = complaints(tmp_path / "alone.dcm")
    assert {line.split(">")[0].rpartition("/")[2].partition("(")[0] for line in said} <= {
        *("PatientID", "StudyID", "StudyDate", "StudyTime"),
    }


def test_dcmqi_reads_every_value(run, tmp_path, saved):
    volume, labels = saved
    as_sr(run, tmp_path, tmp_path / "labels.nii.gz", "--ct", tmp_path / "dicom")
    command = [tool("tid1500reader"), "--inputDICOM", str(tmp_path / "sr.dcm")]
    command += ["--outputMetadata", str(tmp_path / "sr.json")]
    subprocess.run(command, check=True, capture_output=True)
    groups = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    found = [each for each in measure(labels, volume) if each.voxels]
    for group, each in zip(groups[:3], found, strict=True):
        read = [float(item["value"]) for item in group["measurementItems"]]
        assert read == pytest.approx([each.volume_ml, each.mean_hu, each.sd_hu])
        assert group["TrackingIdentifier"] == each.organ.key
