"""The FHIR bundle is R4 by somebody else's model, says what the report says, and names nobody."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import save_nifti
from fhir.resources.R4B.bundle import Bundle
from look_maker import write_case
from test_geometry import make

from segmate_cli import organs, report
from segmate_cli.fhir import Reported, body_site, render_fhir


@pytest.fixture
def bundle(tmp_path, run):
    labels, scan = write_case(tmp_path)
    code, out, _ = run("report", labels, "--ct", scan, "--format", "fhir")
    assert code == 3  # as the table's
    return json.loads(out)


def observations(bundle) -> dict[str, dict]:
    """By organ's title; that of the whole has the key "whole"."""
    found = [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] != "Device"]
    return {each.get("bodySite", {}).get("text", "whole"): each for each in found}


def assert_is_fhir(bundle) -> None:
    """By fhir.resources, whose R4B has R4's Bundle, Observation and Device."""
    parsed = Bundle.model_validate(bundle)
    assert len(parsed.entry) == len(bundle["entry"])
    addresses = [entry["fullUrl"] for entry in bundle["entry"]]
    assert len(set(addresses)) == len(addresses)
    for each in observations(bundle).values():
        assert each["device"]["reference"] in addresses
        for member in each.get("hasMember", ()):
            assert member["reference"] in addresses


def test_it_is_fhir(bundle):
    assert_is_fhir(bundle)


@pytest.mark.parametrize(
    ("name", "value"),
    [("status", None), ("valueQuantity", {"value": "much"}), ("organ", "liver"), ("note", "words")],
)
def test_what_is_not_fhir_is_refused(bundle, name, value):
    bundle["entry"][2]["resource"][name] = value
    with pytest.raises(ValueError, match=name):
        assert_is_fhir(bundle)


def test_it_says_what_the_report_says(bundle, tmp_path, run):
    _, out, _ = run(
        *("report", tmp_path / "labels.nii.gz", "--ct", tmp_path / "scan.nii.gz"),
        *("--format", "json"),
    )
    told = json.loads(out)
    found = observations(bundle)
    assert len(found) == 1 + len(told["rows"])
    for row in told["rows"]:
        each = found[organs.organ(row["organ"]).title]
        assert each["status"] == "preliminary"
        assert row["status"].replace("_", " ") in each["note"][0]["text"]
        if row["volume_ml"] is None:
            assert "valueQuantity" not in each
            assert each["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
            continue
        assert each["valueQuantity"]["value"] == row["volume_ml"]
        assert each["valueQuantity"].get("comparator") == (">=" if row["is_lower_bound"] else None)
        hu = [part["valueQuantity"]["value"] for part in each["component"]]
        assert hu == [row["mean_hu"], row["sd_hu"]]
    whole = found["whole"]
    assert whole["valueCodeableConcept"] == {"text": "review"}
    assert [note["text"] for note in whole["note"]] == told["scans"][0]["reasons"]
    assert len(whole["hasMember"]) == len(told["rows"])


def test_organs_have_the_table_s_codes():
    for organ in organs.ORGANS:
        codes = [coding["code"] for coding in body_site(organ)["coding"]]
        assert codes[-1] == organ.code
        side = {"left": "7771000", "right": "24028007", None: None}[organ.side]
        assert len(codes) == (1 if side is None else 2)
        if side:
            assert codes[0] == f"{organ.code}:272741003={side}"
    assert body_site(organs.foreign_organ("rib_left_1", 9)) == {"text": "Rib left 1"}


def rows(**changes):
    plain = {"organ": "liver", "volume_ml": 1500.0, "mean_hu": None, "sd_hu": None}
    status = {"status": "complete", "is_lower_bound": False, "reasons": []}
    return [{**plain, **status, **changes}]


def bundle_of(*reported):
    made = json.loads(render_fhir(reported))
    assert_is_fhir(made)
    return made


def test_an_interval_is_a_component():
    made = bundle_of(Reported("a", rows(volume_low_ml=1400.0, volume_high_ml=1600.0), None, None))
    (part,) = observations(made)["Liver"]["component"]
    assert part["valueRange"]["low"]["value"] == 1400.0
    assert part["valueRange"]["high"]["value"] == 1600.0


def test_without_gates_nothing_is_said_to_be_in_order():
    whole = observations(bundle_of(Reported("a", rows(), None, None)))["whole"]
    assert whole["dataAbsentReason"]["text"] == "no gate was applied"
    assert "valueCodeableConcept" not in whole


def test_not_found_is_not_out_of_view():
    found = rows(volume_ml=None, status="not_found")
    each = observations(bundle_of(Reported("a", found, None, None)))["Liver"]
    assert each["dataAbsentReason"]["coding"][0]["code"] == "unknown"


def test_the_same_label_map_has_the_same_identifiers(bundle, tmp_path, run):
    labels, scan = tmp_path / "labels.nii.gz", tmp_path / "scan.nii.gz"
    assert json.loads(run("report", labels, "--ct", scan, "--format", "fhir")[1]) == bundle
    two = bundle_of(Reported("a", rows(), None, None), Reported("b", rows(), None, None))
    assert len(two["entry"]) == 6


def test_a_label_map_given_twice_is_there_once(bundle, tmp_path, run):
    labels = tmp_path / "labels.nii.gz"
    code, out, _ = run("report", labels, labels, "--format", "fhir", "--no-gate-exit")
    assert code == 0
    assert_is_fhir(json.loads(out))
    assert len(json.loads(out)["entry"]) == len(bundle["entry"])


def test_equal_label_maps_of_two_scans_are_two(tmp_path, run, tiny_bundle):
    for name, hu in (("a", -1000), ("b", -990)):
        values = np.full((6, 20, 20), hu, np.int16)
        values[:, :2] = 0 if hu == -1000 else 10
        save_nifti(tmp_path / f"{name}.nii.gz", values, make("SPL", shape=values.shape))
        options = ("--model", tiny_bundle, "--no-hu-check", "--organs", "liver", "--no-gate-exit")
        scan, out = tmp_path / f"{name}.nii.gz", tmp_path / f"{name}_labels.nii.gz"
        assert run("predict", scan, "-o", out, *options)[0] == 0
    paths = [tmp_path / f"{name}_labels.nii.gz" for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    _, out, _ = run("report", *paths, "--format", "fhir", "--no-gate-exit")
    assert_is_fhir(json.loads(out))
    assert len(json.loads(out)["entry"]) == 6


def test_a_predicted_scan_names_its_study_and_no_patient(tmp_path, run, tiny_bundle):
    from dicom_maker import PATIENT
    from seg_maker import STUDY, WHOLE, series_and_labels

    tags = {**STUDY, "PatientName": "Doe^Jane"}
    series_and_labels(tmp_path / "dicom", WHOLE.but(shape=(6, 16, 12), tags=tags))
    labels = tmp_path / "l.nii.gz"
    assert run("predict", tmp_path / "dicom", "-o", labels, "--model", tiny_bundle)[0] == 0
    out = tmp_path / "observations.json"
    assert run("report", labels, "--format", "fhir", "-o", out)[:2] == (0, f"{out}\n")
    text = out.read_text()
    made = json.loads(text)
    assert_is_fhir(made)
    assert PATIENT not in text
    assert "Doe" not in text
    told = json.loads((tmp_path / "l.json").read_text())
    for each in observations(made).values():
        assert "subject" not in each
        identifier = each["derivedFrom"][0]["identifier"]
        assert identifier["value"] == f"urn:oid:{told['input']['dicom']['study_uid']}"
        assert each["issued"] == told["created"]
    device = made["entry"][0]["resource"]
    assert told["model"]["weights_sha256"] in [each["value"] for each in device["version"]]


def test_every_column_that_it_reads_is_a_report_s():
    names = {"organ", "volume_ml", "mean_hu", "sd_hu", "status", "is_lower_bound", "reasons"}
    assert names <= set(report.COLUMNS)
