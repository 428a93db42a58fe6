"""`predict --all-series`: each series into a file of its own, whatever becomes of the others."""

from __future__ import annotations

import json

import nibabel
import pytest
from conftest import ball_scan
from dicom_maker import PATIENT, Recipe, make_series

SMALL = Recipe(shape=(5, 6, 6))


@pytest.fixture
def study(tmp_path):
    """Two series that can be segmented, and a scout."""
    make_series(tmp_path / "in" / "a", SMALL.but(series=2))
    make_series(tmp_path / "in" / "b", SMALL.but(series=3, shape=(7, 6, 6)))
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    make_series(tmp_path / "in" / "s", SMALL.but(series=1, shape=(1, 6, 6), tags=scout))
    return tmp_path / "in"


@pytest.fixture
def predict(run, study, tiny_bundle):
    def call(*args):
        options = ("--all-series", "--no-hu-check", "--model", tiny_bundle)
        return run("predict", study, *options, *args)

    return call


def slices_of(path):
    return nibabel.load(path).shape[2]


def test_each_series_goes_into_a_folder_by_its_number(predict, tmp_path):
    folder = tmp_path / "out" / "deep"
    code, out, err = predict("-o", folder)
    assert code == 0, err
    assert out.split() == [f"{folder}/series_2.nii.gz", f"{folder}/series_3.nii.gz"]
    assert [slices_of(path) for path in out.split()] == [5, 7]
    sidecar = json.loads((folder / "series_3.json").read_text())
    assert sidecar["input"]["dicom"]["series_uid"].endswith(".3")
    assert "series 3: made 3" in err
    assert PATIENT not in err


def test_a_name_with_the_number_in_it_and_a_dicom_seg_as_well(predict, tmp_path):
    pytest.importorskip("highdicom")
    outputs = ("-o", tmp_path / "ct_{series}.nii.gz", "-o", tmp_path / "seg_{series}.dcm")
    code, out, err = predict(*outputs)
    assert code == 0, err
    names = ("ct_2.nii.gz", "seg_2.dcm", "ct_3.nii.gz", "seg_3.dcm")
    assert out.split() == [str(tmp_path / name) for name in names]


def test_one_that_fails_stops_no_other(predict, study, tmp_path):
    broken = study / "a" / "file0"
    broken.write_bytes(broken.read_bytes()[:-20])
    code, out, err = predict("-o", tmp_path / "out", "--quiet")
    assert code == 9
    assert out.split() == [f"{tmp_path}/out/series_3.nii.gz"]
    assert "series 2 failed: " in err
    assert "a/file0" in err
    assert "1 of 2 series failed" in err
    assert not (tmp_path / "out" / "series_2.nii.gz").exists()


def test_all_that_fail_are_told(predict, study, tmp_path):
    for name in ("a", "b"):
        broken = study / name / "file0"
        broken.write_bytes(broken.read_bytes()[:-20])
    code, out, err = predict("-o", tmp_path / "out")
    assert (code, out) == (10, "")
    assert "2 of 2 series failed" in err


def test_what_makes_no_sense_is_refused_before_the_work(predict, run, tmp_path, tiny_bundle):
    code, _, err = predict("-o", tmp_path / "one.nii.gz")
    assert code == 2
    assert "{series}" in err
    assert predict("-o", tmp_path / "out", "--series", "2")[0] == 2
    (tmp_path / "ct_3.nii.gz").write_bytes(b"there already")
    code, out, err = predict("-o", tmp_path / "ct_{series}.nii.gz")
    assert (code, out) == (8, "")
    scan = ball_scan(tmp_path / "scan.nii.gz")
    code, _, err = run("predict", scan, "--all-series", "-o", tmp_path / "out")
    assert code == 2
    assert "one scan" in err
    (tmp_path / "empty").mkdir()
    assert run("predict", tmp_path / "empty", "--all-series", "-o", tmp_path / "out")[0] == 6
