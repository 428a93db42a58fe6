"""`segmate inspect`: every file accounted for, in a table and in JSON, and no patient's name."""

from __future__ import annotations

import json

from conftest import SHARED, needs_shared
from dicom_maker import PATIENT, RLE, Recipe, make_series

SMALL = Recipe(shape=(8, 4, 4), step_mm=2.0)


def a_study(folder):
    thin = SMALL.but(series=2, syntax=RLE, tags={"ContrastBolusAgent": "some"})
    make_series(folder / "thin", thin)
    make_series(folder / "gap", SMALL.but(series=3, shape=(5, 4, 4), step_mm=6.0, leave_out=(2,)))
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    make_series(folder / "scout", SMALL.but(series=1, shape=(1, 4, 4), tags=scout))
    (folder / "notes.txt").write_text("no image")
    (folder / "empty").write_bytes(b"")


def test_json_has_everything(tmp_path, run):
    a_study(tmp_path)
    code, out, err = run("inspect", tmp_path, "--format", "json")
    assert (code, err) == (0, "")
    assert PATIENT not in out
    found = json.loads(out)
    assert found["files"] == {"in_series": 13, "not_dicom": 1, "skipped": 1}
    assert found["not_dicom"] == ["notes.txt"]
    assert found["skipped"] == [{"file": "empty", "reason": "empty"}]
    scout, thin, gap = found["series"]
    assert [one["taken"] for one in found["series"]] == [False, True, False]
    assert scout["score"] is None
    assert scout["reasons"] == ["not a stack of CT slices: localizer"]
    assert thin["score"] == 20 + 15 + 15 + 10 + 0 + 15
    assert "+15 axial" in thin["reasons"]
    assert thin["orientation"] == "axial"
    assert thin["contrast"] is True
    assert thin["kernel"] == "B30f"
    assert thin["body_part"] == "ABDOMEN"
    assert thin["coverage_mm"] == 16.0
    assert thin["transfer_syntaxes"] == [f"RLE ({RLE})"]
    assert len(gap["gaps"]) == 1
    assert "series 2 (made 2), 8 slices" in found["predict_would"]


def test_the_table_is_for_people(tmp_path, run):
    a_study(tmp_path)
    code, out, _ = run("inspect", tmp_path)
    assert code == 0
    assert PATIENT not in out
    head, first, second, third = out.splitlines()[:4]
    assert head.split()[:4] == ["no.", "description", "kind", "kernel"]
    assert "localizer" in first
    assert "75" in second.split()
    assert "made 3" in third
    assert "notes.txt" in out
    assert "thin/file0" not in out  # a line a slice is for programs
    assert "predict_would: take series 2" in out


def test_a_tie_is_said(tmp_path, run):
    make_series(tmp_path / "a", SMALL)
    make_series(tmp_path / "b", SMALL.but(series=2))
    code, out, _ = run("inspect", tmp_path)
    assert code == 0
    assert "ask for --series: several CT series fit, and none is clearly the best" in out


def test_predict_says_what_it_took_and_why(tmp_path, run, tiny_bundle):
    a_study(tmp_path / "in")
    command = ("predict", tmp_path / "in", "--model", tiny_bundle, "-o", tmp_path / "out.nii.gz")
    code, out, err = run(*command, "--no-hu-check")
    assert (code, out) == (0, f"{tmp_path / 'out.nii.gz'}\n")
    assert "segmate: series 2 (made 2), 8 slices: 75 points (+20 original" in err
    assert PATIENT not in err


@needs_shared
def test_petct_asks_then_reads_each_and_names_what_is_no_dicom(tmp_path, run, tiny_bundle):
    path = SHARED / "ct" / "scans" / "petct_two_series_dicom.zip"
    options = ("--model", tiny_bundle, "--overwrite", "-o", tmp_path / "labels.nii.gz")
    code, out, err = run("predict", path, *options)
    assert (code, out) == (4, "")
    assert err.count("PET-CT SERIES  image") == 2
    assert "not DICOM: 2.00 PET-CT SERIES - Subj1" in err
    found = json.loads(run("inspect", path, "--format", "json")[1])
    assert found["not_dicom"] == ["2.00 PET-CT SERIES - Subj1"]
    uids = [one["series_uid"] for one in found["series"]]
    assert len(set(uids)) == 2
    read = []
    for wanted in ("1", "2", *uids):
        code, _, err = run("predict", path, *options, "--series", wanted)
        assert code == 0, err
        sidecar = json.loads((tmp_path / "labels.json").read_text())
        read.append(sidecar["input"]["dicom"]["series_uid"])
    assert read == [*uids, *uids]
