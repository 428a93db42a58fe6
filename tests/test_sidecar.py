"""The sidecar: whole, true, readable again, and silent about the patient."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
from pathlib import Path

import numpy as np
import pytest

from segmate_cli import __version__, organs, sidecar
from segmate_cli.errors import OutputError
from segmate_cli.geometry import Geometry
from segmate_cli.volume import DicomSource, Labels, NiftiSource

ORGANS = {2: organs.organ("liver"), 1: organs.organ("kidney_left")}
DICOM = DicomSource(
    path=Path("scan.zip"),
    study_uid="1.2.3",
    series_uid="1.2.3.4",
    frame_of_reference_uid=None,
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    sop_instance_uids=("1.2.3.4.1", "1.2.3.4.2"),
    files=("DOE^JANE/0001", "DOE^JANE/0002"),
    description="DOE JANE 19700101",
)
RUN = {
    "model": {"name": "tiny", "weights_sha256": "0" * 64},
    "pixels_sha256": "ab" * 32,
    "seconds": {"network": 1.5},
    "warnings": [],
}


def written(folder: Path, name: str = "labels.nii.gz", **changes: object) -> dict:
    parts = {
        "values": np.zeros((2, 3, 4), np.uint8),
        "geometry": Geometry(np.diag([2.0, 1.0, 0.5, 1.0]), (2, 3, 4)),
        "organs": ORGANS,
        "source": NiftiSource(Path("scan.nii.gz"), {"sform_code": 1, "qform_code": 0}),
        "run": RUN,
        **changes,
    }
    path = folder / name
    path.write_bytes(b"a label map")
    sidecar.write(Labels(**parts), path, "cd" * 32, {"write": 0.123456})
    return json.loads(sidecar.path_for(path).read_text())


@pytest.mark.parametrize(
    ("labels", "beside", "itksnap"),
    [
        ("labels.nii.gz", "labels.json", "labels.itksnap.txt"),
        ("labels.nii", "labels.json", "labels.itksnap.txt"),
        ("LABELS.NII.GZ", "LABELS.json", "LABELS.itksnap.txt"),
        ("a.b.nii.gz", "a.b.json", "a.b.itksnap.txt"),
        ("ct.gz.nii", "ct.gz.json", "ct.gz.itksnap.txt"),
    ],
)
def test_names_of_the_files_beside(labels, beside, itksnap):
    folder = Path("some.where")
    assert sidecar.path_for(folder / labels) == folder / beside
    assert sidecar.itksnap_path(folder / labels) == folder / itksnap


def test_it_says_what_was_made_of_what_by_what(tmp_path):
    found = written(tmp_path)
    assert (found["schema"], found["schema_version"]) == ("segmate-labels", 1)
    assert found["segmate_version"] == __version__
    assert datetime.datetime.fromisoformat(found["created"]).utcoffset() == datetime.timedelta(0)
    assert found["input"] == {
        "path": "scan.nii.gz",
        "kind": "nifti",
        "shape_kji": [2, 3, 4],
        "spacing_kji_mm": [2.0, 1.0, 0.5],
        "affine_kji_to_lps_mm": np.diag([2.0, 1.0, 0.5, 1.0]).tolist(),
        "pixels_sha256": "ab" * 32,
    }
    assert found["output"] == {
        "file": "labels.nii.gz",
        "file_sha256": hashlib.sha256(b"a label map").hexdigest(),
        "voxels_sha256": "cd" * 32,
    }
    assert found["model"] == RUN["model"]
    assert found["seconds"] == {"network": 1.5, "write": 0.1235}
    assert found["packages"]["numpy"] == np.__version__
    assert found["peak_memory_bytes"] >= 0


def test_the_platform_is_pythons_word_for_it():
    if platform.system() == "Darwin":
        pytest.skip("Python says macOS there, and its version")
    assert sidecar._platform() == platform.platform()


def test_labels_come_by_value_with_their_codes(tmp_path):
    kidney, liver = written(tmp_path)["labels"]
    assert kidney == {
        "value": 1,
        "organ": "kidney_left",
        "title": "Left kidney",
        "code": {
            "scheme": "SCT",
            "value": "64033007",
            "meaning": "Kidney",
            "modifier": {"scheme": "SCT", "value": "7771000", "meaning": "Left"},
        },
    }
    assert (liver["value"], liver["code"]["value"]) == (2, "10200004")
    assert "modifier" not in liver["code"]


def test_somebody_elses_label_has_no_code():
    row = sidecar.label_row(75, organs.foreign_organ("femur_left", 75))
    assert row == {"value": 75, "organ": "femur_left", "title": "Femur left", "code": None}


def test_labels_without_a_source_or_a_run(tmp_path):
    found = written(tmp_path, source=None, run=None)
    assert found["input"]["path"] is None
    assert found["input"]["kind"] is None
    assert found["input"]["pixels_sha256"] is None
    assert found["seconds"] == {"write": 0.1235}


def test_writing_changes_nothing_of_the_run(tmp_path):
    before = json.dumps(RUN)
    written(tmp_path)
    assert json.dumps(RUN) == before


def test_of_dicom_it_keeps_uids_and_nothing_that_names_the_patient(tmp_path):
    found = written(tmp_path, source=DICOM)
    assert found["input"]["kind"] == "dicom"
    assert found["input"]["dicom"] == {
        "study_uid": "1.2.3",
        "series_uid": "1.2.3.4",
        "frame_of_reference_uid": None,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "sop_instance_uids": ["1.2.3.4.1", "1.2.3.4.2"],
        "scanner": {"manufacturer": "", "model": "", "kernel": "", "year": "", "month": ""},
    }
    assert "DOE" not in (tmp_path / "labels.json").read_text()


def test_of_niftis_header_no_text_is_kept(tmp_path):
    import nibabel

    header = nibabel.Nifti1Header()
    header["descrip"] = header["db_name"] = b"DOE JANE"
    written(tmp_path, source=NiftiSource(Path("scan.nii"), header))
    assert "DOE" not in (tmp_path / "labels.json").read_text()


def test_names_come_back(tmp_path):
    written(tmp_path)
    assert sidecar.label_names(tmp_path / "labels.nii.gz") == ORGANS


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "[]",
        "7",
        '{"Modality": "CT", "KVP": 120}',
        '{"RepetitionTime": 2, "FlipAngle": 90}',
        '{"schema": "segmate-labels"}',
        '{"schema": "segmate-labels", "labels": [{}]}',
        "[" * 100_000,
        "\ud800",
    ],
)
def test_another_tools_file_of_that_name_says_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / "labels.json").write_text(content, errors="surrogatepass", encoding="utf-8")
    assert sidecar.label_names(tmp_path / "labels.nii.gz") == {}


def test_a_folder_of_that_name_says_nothing(tmp_path):
    (tmp_path / "labels.json").mkdir()
    assert sidecar.label_names(tmp_path / "labels.nii.gz") == {}
    with pytest.raises(OutputError):
        written(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.json", "labels.nii.gz"]


@pytest.mark.parametrize(
    ("where", "odd"),
    [
        (("input",), []),
        (("model",), 5),
        (("doubt",), "x"),
        (("seconds",), {"network": "x"}),
        (("input", "dicom"), 7),
        (("input", "dicom", "study_uid"), {"a": 1}),
        (("input", "dicom", "sop_class_uid"), ["a"]),
        (("model", "weights_sha256"), ["a"]),
    ],
)
def test_a_damaged_sidecar_stops_no_report(run, tmp_path, tiny_bundle, where, odd):
    from dicom_maker import make_series

    make_series(tmp_path / "dicom")
    labels, beside = tmp_path / "labels.nii.gz", tmp_path / "labels.json"
    options = ("--model", tiny_bundle, "--no-gate-exit")
    assert run("predict", tmp_path / "dicom", "-o", labels, *options)[0] == 0
    content = json.loads(beside.read_text())
    part = content
    for name in where[:-1]:
        part = part[name]
    part[where[-1]] = odd
    beside.write_text(json.dumps(content))
    for more in (
        ("--format", "fhir"),
        ("-o", tmp_path / "page.html"),
        ("--format", "dicom-sr", "-o", tmp_path / "sr.dcm"),
    ):
        code, _, err = run("report", labels, "--no-gate-exit", *more)
        assert code in (0, 2), err  # an SR of nobody knows what series


def test_versions_are_those_installed():
    versions = sidecar.package_versions()
    assert versions["numpy"] == np.__version__
    assert set(versions) <= set(sidecar._PACKAGES)


def test_of_the_acquisitions_date_it_keeps_the_year_and_the_month_on_request(
    run, tmp_path, tiny_bundle
):
    from dicom_maker import Recipe, make_series
    from seg_maker import STUDY

    make_series(tmp_path / "dicom", Recipe(shape=(6, 16, 12), tags=STUDY))
    path = tmp_path / "l.nii.gz"
    command = ("predict", tmp_path / "dicom", "-o", path, "--model", tiny_bundle, "--overwrite")
    for options, month in (((), ""), (("--keep-month",), "2024-01")):
        assert run(*command, *options)[0] == 0
        text = (tmp_path / "l.json").read_text()
        scanner = json.loads(text)["input"]["dicom"]["scanner"]
        assert (scanner["year"], scanner["month"]) == ("2024", month)
        assert ("2024-01" in text) == bool(month)
        assert "20240102" not in text
        assert "2024-01-02" not in text
