from __future__ import annotations

import json
import re
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from dicom_maker import PATIENT, make_series
from seg_maker import ORGANS, STUDY, WHOLE, FakeClock, complaints, series_and_labels, tool

pytest.importorskip("highdicom", reason="needs highdicom: pip install 'segmate-cli[dicom]'")
import highdicom

from segmate_cli import saving, scans
from segmate_cli.dicom.reference import SegOptions, reference_for
from segmate_cli.dicom.seg import write_seg
from segmate_cli.dicom.sr import write_sr
from segmate_cli.dicom.subject import Subject, of_seg
from segmate_cli.doubt.words import STATUS_KINDS, OrganStatus
from segmate_cli.errors import InputError, NothingFoundError, UsageError
from segmate_cli.measurement import OrganStats, measure
from segmate_cli.organs import organ


def measured(folder: Path, recipe=WHOLE, **options) -> tuple[Path, list[OrganStats]]:
    """A SEG, and its organs' measurements with the CT."""
    volume, labels = series_and_labels(folder / "dicom", recipe)
    chosen = SegOptions(**options)
    path = folder / "seg.dcm"
    write_seg(labels, path, reference_for(labels.geometry, labels.source, chosen), chosen)
    return path, list(measure(labels, volume))


def written(folder: Path, recipe=WHOLE, uid_root=None) -> tuple[Path, Path, list[OrganStats]]:
    seg, stats = measured(folder, recipe)
    write_sr(stats, subject_of(seg, uid_root), folder / "sr.dcm")
    return folder / "sr.dcm", seg, stats


def subject_of(seg: Path, uid_root=None) -> Subject:
    return of_seg(seg, scans.load_labels(seg).organs, uid_root)


def items(parent: pydicom.Dataset, code: str) -> list[pydicom.Dataset]:
    """Content items below ``parent``, at any depth, whose concept has a code value."""
    found = []
    for item in parent.get("ContentSequence") or []:
        concept = item.get("ConceptNameCodeSequence") or [pydicom.Dataset()]
        found += [item] * (concept[0].get("CodeValue") == code) + items(item, code)
    return found


def numbers(group: pydicom.Dataset) -> list[float]:
    nums = [item for item in group.ContentSequence if item.ValueType == "NUM"]
    return [float(item.MeasuredValueSequence[0].NumericValue) for item in nums]


def test_each_organ_has_its_values_and_its_segment(tmp_path):
    path, seg_path, stats = written(tmp_path)
    report, seg = pydicom.dcmread(path), pydicom.dcmread(seg_path)
    groups = items(report, "125007")
    assert len(groups) == 4
    for group, each, segment in zip(groups[:3], stats, seg.SegmentSequence, strict=False):
        assert numbers(group) == pytest.approx([each.volume_ml, each.mean_hu, each.sd_hu])
        (reference,) = items(group, "121191")
        (referenced,) = reference.ReferencedSOPSequence
        assert referenced.ReferencedSOPInstanceUID == seg.SOPInstanceUID
        assert referenced.ReferencedSegmentNumber == segment.SegmentNumber
        (tracking,) = items(group, "112040")
        assert segment.TrackingUID == tracking.UID
        (finding,) = items(group, "121071")
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        assert finding.ConceptCodeSequence[0].CodeValue == kind.CodeValue
        (series,) = items(group, "121232")
        assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == series.UID
    sides = [side.ConceptCodeSequence[0].CodeMeaning for side in items(report, "272741003")]
    assert sides == ["Left", "Right"]


def codes(group: pydicom.Dataset, name: str) -> list[str]:
    return [item.ConceptCodeSequence[0].CodeValue for item in items(group, name)]


def test_an_organ_that_was_not_found_has_no_volume_but_is_said(tmp_path):
    path, _, _ = written(tmp_path)
    heart = items(pydicom.dcmread(path), "125007")[3]
    assert numbers(heart) == []
    (presence,) = items(heart, "121052")
    assert presence.ConceptCodeSequence[0].CodeMeaning == "Not visualized"


def test_an_organ_at_the_edge_is_said_to_be_cut(tmp_path):
    path, _, stats = written(tmp_path)
    groups = items(pydicom.dcmread(path), "125007")
    for group, each in zip(groups[:3], stats, strict=False):
        assert codes(group, "121052") == (["130576"] if each.touches_edge else [])
    assert {each.touches_edge for each in stats[:3]} == {True}


@pytest.mark.parametrize("kind", STATUS_KINDS)
@pytest.mark.parametrize("is_lower_bound", [True, False])
def test_each_organ_has_its_status_and_why(tmp_path, kind, is_lower_bound):
    seg, stats = measured(tmp_path)
    status = OrganStatus(kind, is_lower_bound=is_lower_bound, reasons=("one", "other"))
    write_sr([replace(stats[0], status=status)], subject_of(seg), tmp_path / "sr.dcm")
    (group,) = items(pydicom.dcmread(tmp_path / "sr.dcm"), "125007")
    cut = ["130576"] if is_lower_bound else []
    presence = {"truncated": ["130576"], "absent": ["122288"], "not_found": ["121059"]}
    assert codes(group, "121052") == presence.get(kind, cut)
    (comment,) = items(group, "121106")
    bound = "; the volume is a lower bound" if is_lower_bound else ""
    assert comment.TextValue == f"status: {kind}; one; other{bound}"
    assert complaints(tmp_path / "sr.dcm") == []


def test_it_is_preliminary_and_unverified_in_the_same_study(tmp_path):
    path, seg_path, _ = written(tmp_path)
    report, seg = pydicom.dcmread(path), pydicom.dcmread(seg_path)
    assert report.SOPClassUID.name == "Comprehensive 3D SR Storage"
    flags = (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag)
    assert flags == ("COMPLETE", "PRELIMINARY", "UNVERIFIED")
    assert report.StudyInstanceUID == seg.StudyInstanceUID
    assert report.PatientID == seg.PatientID == f"{PATIENT}-id"
    assert (report.SeriesNumber, report.SeriesDescription) == (301, "segmate measurements")
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seg.SOPInstanceUID


def test_the_same_input_gives_the_same_bytes(tmp_path, monkeypatch):
    first, _, _ = written(tmp_path / "a")
    monkeypatch.setattr("highdicom.base.datetime", FakeClock)
    second, _, _ = written(tmp_path / "b")
    third, _, _ = written(tmp_path / "c", uid_root="1.2.3")
    assert first.read_bytes() == second.read_bytes()
    assert pydicom.dcmread(third).SOPInstanceUID.startswith("1.2.3.")


def test_a_name_in_another_alphabet_comes_through(tmp_path, capfd, caplog):
    tags = {**STUDY, "SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen"}
    path, _, _ = written(tmp_path, WHOLE.but(tags=tags))
    assert pydicom.dcmread(path).PatientName == "Müller^Jürgen"
    assert "".join(capfd.readouterr()) + caplog.text == ""


def test_only_a_binary_seg_can_be_referred_to(tmp_path):
    seg, stats = measured(tmp_path, seg_type="labelmap")
    with pytest.raises(UsageError, match="BINARY"):
        write_sr(stats, subject_of(seg), tmp_path / "sr.dcm")
    assert not (tmp_path / "sr.dcm").exists()


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "ReferencedSeriesSequence"])
def test_a_seg_that_lacks_what_a_report_refers_to_is_refused(tmp_path, keyword):
    seg, stats = measured(tmp_path)
    data = pydicom.dcmread(seg)
    delattr(data, keyword)
    data.save_as(seg)
    with pytest.raises(InputError, match=seg.name):
        write_sr(stats, subject_of(seg), tmp_path / "sr.dcm")


def test_two_segments_of_one_organ_are_refused(tmp_path):
    seg, _ = measured(tmp_path)
    organs = {**scans.load_labels(seg).organs, 4: organ("liver")}
    with pytest.raises(InputError, match="two segments"):
        of_seg(seg, organs)


@pytest.mark.parametrize(
    ("date", "time", "made_at"),
    [
        ("20240102", "9:30", ("20240102", "000000")),
        ("2024-1-2", "093000", ("19000101", "000000")),
        ("20240230", "", ("19000101", "000000")),
        ("20240102", "093000.123456", ("20240102", "093000")),
    ],
)
def test_times_that_no_reader_takes_are_not_repeated(tmp_path, date, time, made_at):
    seg, stats = measured(tmp_path)
    data = pydicom.dcmread(seg)
    data["ContentDate"]._value, data["ContentTime"]._value = date, time
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.save_as(seg)
    write_sr(stats, subject_of(seg), tmp_path / "sr.dcm")
    report = pydicom.dcmread(tmp_path / "sr.dcm")
    assert (report.ContentDate, report.ContentTime) == made_at


def test_nothing_found_writes_nothing(tmp_path):
    seg, stats = measured(tmp_path)
    with pytest.raises(NothingFoundError):
        write_sr(stats[3:], subject_of(seg), tmp_path / "sr.dcm")


def test_highdicom_reads_it(tmp_path):
    path, _, stats = written(tmp_path)
    report = highdicom.sr.srread(path)
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == list(ORGANS.values())[:3]
    volumes = [group.get_measurements()[0].value for group in groups]
    assert volumes == pytest.approx([each.volume_ml for each in stats[:3]])


def test_dciodvfy_has_nothing_to_say(tmp_path):
    path, _, _ = written(tmp_path)
    assert complaints(path) == []


QUANTITIES = [
    ("118565006", "mL", None),
    ("112031", "[hnsf'U]", "373098007"),
    ("112031", "[hnsf'U]", "386136009"),
]


def test_dcmqi_reads_every_value(tmp_path):
    path, seg_path, stats = written(tmp_path)
    command = [tool("tid1500reader"), "--inputDICOM", str(path)]
    subprocess.run(
        [*command, "--outputMetadata", str(tmp_path / "sr.json")], check=True, capture_output=True
    )
    groups = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    segments = pydicom.dcmread(seg_path).SegmentSequence
    tracking = {segment.TrackingID: segment.TrackingUID for segment in segments}
    for group, each in zip(groups[:3], stats, strict=False):
        read = [float(item["value"]) for item in group["measurementItems"]]
        assert read == pytest.approx([each.volume_ml, each.mean_hu, each.sd_hu])
        assert group["TrackingIdentifier"] == each.organ.key
        assert group["Finding"]["CodeValue"] == each.organ.code
        assert group["FindingSite"]["CodeValue"] == each.organ.code
        side = group.get("Laterality", {}).get("CodeMeaning", "").lower() or None
        assert side == each.organ.side
        assert group["TrackingUniqueIdentifier"] == tracking[each.organ.key]
        algorithm = group["measurementAlgorithmIdentification"]
        assert algorithm["AlgorithmName"] == "segmate tiny"
        said = [
            (
                item["quantity"]["CodeValue"],
                item["units"]["CodeValue"],
                item.get("derivationModifier", {}).get("CodeValue"),
            )
            for item in group["measurementItems"]
        ]
        assert said == QUANTITIES


def test_dcmtk_renders_every_value_without_a_complaint(tmp_path):
    path, _, stats = written(tmp_path)
    done = subprocess.run(
        [tool("dsrdump"), "-Ec", "+Pc", str(path)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    read = [float(value) for value in re.findall(r'NUM:\(.*\)="(\S+)"', done.stdout)]
    said = [(each.volume_ml, each.mean_hu, each.sd_hu) for each in stats[:3]]
    assert read == pytest.approx([value for three in said for value in three])
    kinds = re.findall(r"status: (\w+)", done.stdout)
    assert kinds == [each.status.kind for each in stats]


def test_the_command(run, tmp_path):
    seg, _ = measured(tmp_path)
    make_series(tmp_path / "dicom" / "other", WHOLE.but(series=2))
    sr = tmp_path / "sr.dcm"
    how = ("--format", "dicom-sr", "-o", sr, "--ct", tmp_path / "dicom")
    code, out, err = run("report", seg, *how, "--organs", "lung,heart", "--uid-root", "1.2.3")
    assert (code, out) == (0, f"{sr}\n"), err
    groups = items(pydicom.dcmread(sr), "125007")
    # The SEG names its series, so that a second one beside it is no question.
    assert [len(numbers(group)) for group in groups] == [3, 3, 0]


def test_what_the_command_cannot_do_it_says(run, tmp_path):
    seg, _ = measured(tmp_path)
    nifti = tmp_path / "labels.nii.gz"
    saving.save(scans.load_labels(seg), nifti)
    (tmp_path / "labels.json").unlink()
    sr = ("--format", "dicom-sr", "-o", tmp_path / "sr.dcm")
    for arguments, words in (
        ((seg, "--format", "dicom-sr"), "-o sr.dcm"),
        ((seg, seg, *sr), "one label map"),
        ((nifti, *sr), "--reference-dicom FOLDER, or the DICOM SEG of the same run"),
        ((seg, "--uid-root", "1.2"), "--format dicom-sr"),
        ((seg, "--reference-dicom", seg), "--format dicom-sr"),
        ((seg, *sr, "--uid-root", "x"), "--uid-root"),
    ):
        code, out, err = run("report", *arguments)
        assert (code, out) == (2, ""), err
        assert words in err
    assert not (tmp_path / "sr.dcm").exists()
