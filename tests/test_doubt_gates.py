"""Gates on a phantom with its true labels: quiet on the whole one, each built failure is caught."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from body_maker import FAILURES, Body, make_body, renamed
from conftest import ball_scan, write_bundle
from phantom import LABELS

from segmate_cli import organs
from segmate_cli.doubt.gates_file import read_gates, strange_names
from segmate_cli.doubt.rules import BY_ID, RULES
from segmate_cli.errors import UsageError


@pytest.fixture(scope="module")
def body() -> Body:
    return make_body()


def test_the_phantom_itself_is_well(body):
    measured = body.measured()
    assert measured.verdict.findings == ()
    assert measured.verdict.word == "ok"
    assert set(measured.judgement.regions) >= {"chest", "abdomen"}
    assert measured.judgement.phase == "portal venous or later"
    assert body.rules(ct=False) == set()


@pytest.mark.parametrize("name", FAILURES)
def test_a_built_failure_asks_for_a_review_by_the_right_rule(body, name):
    break_it, rules = FAILURES[name]
    assert rules <= break_it(body).rules()


def notes(body: Body) -> set[str]:
    return {each.rule for each in body.measured().verdict.findings if each.severity == "note"}


def test_noise_and_metal_are_noted(body):
    rng = np.random.default_rng(5)
    assert "scan-noise" in notes(body.but(hu=body.hu + rng.normal(0, 70, body.hu.shape)))
    assert notes(body.but(hu=body.hu + rng.normal(0, 15, body.hu.shape))) == set()
    hu = body.hu.copy()
    hu[20:40, :9, :9] = 3071
    assert notes(body.but(hu=hu)) == {"scan-metal"}


def test_a_slab_is_noted_as_too_short_and_not_judged_by_shapes(body):
    middle = len(body.hu) // 2
    slab = body.but(hu=body.hu[middle : middle + 12], labels=body.labels[middle : middle + 12])
    measured = slab.measured()
    assert "scan-height" in {each.rule for each in measured.verdict.findings}
    assert measured.verdict.word == "ok"


def test_a_mask_that_changes_from_slice_to_slice_is_no_jump(body):
    hu = body.hu.copy()
    for k in range(0, len(hu), 3):
        hu[k, : 20 + k % 9] = -1024
        hu[k, :, : 30 + k % 7] = -1024
    assert "scan-jump" not in body.but(hu=hu).rules()


def test_a_sliver_at_the_edge_is_not_judged_by_its_hu(body):
    heart = np.flatnonzero((body.labels == LABELS["heart"]).any(axis=(1, 2)))
    hu = body.hu.copy()
    hu[body.labels == LABELS["heart"]] = -90
    for kept, judged in ((3, False), (12, True)):
        part = slice(heart[-1] + 1 - kept, None)
        measured = body.but(hu=hu[part], labels=body.labels[part]).measured()
        found = {(each.rule, each.organ) for each in measured.verdict.findings}
        assert (("hu", "heart") in found) == judged


def test_the_head_is_a_region(body):
    from segmate_cli.doubt.status import OrganEvidence, regions

    cord = OrganEvidence(organs.organ("spinal_cord"), 9, 9.0, ("inferior",), 0.1, (0.0, 150.0))
    assert regions({"spinal_cord": cord}, 320.0)[:2] == ("head", "neck")


def test_a_speck_of_an_organ_is_implausible(body):
    values = body.labels.copy()
    at = np.argwhere(values == LABELS["spleen"])
    values[values == LABELS["spleen"]] = 0
    k, j, i = at[len(at) // 2]
    values[k - 2 : k + 2, j - 2 : j + 2, i - 2 : i + 2] = LABELS["spleen"]
    measured = body.but(labels=values).measured()
    (spleen,) = (each for each in measured.stats if each.organ.key == "spleen")
    assert spleen.status.kind == "implausible"
    assert any("Spleen: its volume is" in reason for reason in spleen.status.reasons)
    assert measured.verdict.word == "review"


def test_a_cut_liver_is_truncated_and_no_reason_for_a_review(body):
    low = np.argwhere(body.labels == LABELS["liver"])[:, 0]
    cut = int(np.percentile(low, 40))
    affine = body.affine.copy()
    affine[:3, 3] += affine[:3, 0] * cut
    measured = Body(body.hu[cut:], body.labels[cut:], affine).measured()
    (liver,) = (each for each in measured.stats if each.organ.key == "liver")
    assert (liver.status.kind, liver.status.faces) == ("truncated", ("inferior",))
    assert liver.status.is_lower_bound
    assert measured.verdict.word == "ok"


def test_what_is_about_organs_that_nobody_asked_for_does_not_count(body):
    broken = renamed(("kidney_left", ""))(body)
    assert broken.measured(organs=["liver"]).verdict.word == "ok"
    assert broken.measured(organs=["kidney"]).verdict.word == "review"


def test_a_number_just_beyond_its_limit_is_told_from_it(body):
    rule = BY_ID["volume"]
    (liver,) = body.measured(organs=["liver"]).stats
    told = []
    for by_ml in (3.0, 0.03, -3.0):
        rules = (dataclasses.replace(rule, limits={"liver": (liver.volume_ml + by_ml, None)}),)
        told.append([each.text for each in body.measured(rules=rules).verdict.findings])
    (clear,), (close,), none = told
    assert clear.startswith(f"Liver: its volume is {liver.volume_ml:.0f} ml, not")
    words = close.split()
    assert float(words[4]) < float(words[7])
    assert none == []


def test_every_rule_says_what_it_needs_to():
    assert len(BY_ID) == len(RULES)
    for rule in RULES:
        assert rule.source
        assert rule.why.endswith(".")
        for low, high in rule.limits.values():
            assert low is None or high is None or low < high


GATES = """
[volume]
limits = { liver = [10, 20] }
[side]
enabled = false
[scan-thickness]
severity = "review"
limits = { "*" = [-inf, 3] }
"""


def test_a_site_sets_its_own_limits(body, tmp_path):
    path = tmp_path / "gates.toml"
    path.write_text(GATES)
    rules = {rule.id: rule for rule in read_gates(path)}
    assert set(BY_ID) - set(rules) == {"side"}
    assert rules["volume"].limits["liver"] == (10.0, 20.0)
    assert rules["volume"].limits["spleen"] == BY_ID["volume"].limits["spleen"]
    found = body.measured(rules=tuple(rules.values())).verdict.findings
    assert {(each.rule, each.severity) for each in found} == {
        ("volume", "review"),
        ("scan-thickness", "review"),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[nope]", "no gate 'nope'"),
        ("[volume]\nlimit = 3", "takes enabled, severity and limits"),
        ("[volume]\nlimits = { liver = 3 }", "two numbers"),
        ("[volume]\nlimits = { liver = [3, nan] }", "two numbers"),
        ("[volume]\nlimits = { liver = [3, 2] }", "the first is larger"),
        ('[volume]\nseverity = "bad"', "not 'bad'"),
        ("[volume]\nenabled = 3", "true or false"),
        ("volume = 3", "takes enabled"),
        ("[volume", "no TOML"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path, text, said):
    path = tmp_path / "gates.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_gates(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_gates(tmp_path / "none.toml")


def test_limits_of_an_organ_that_nobody_knows_are_told(run, tmp_path):
    path = tmp_path / "gates.toml"
    path.write_text("[volume]\nlimits = { spleeen = [60, 900], liver = [400, 5000] }\n")
    assert strange_names(read_gates(path)) == ("[volume] spleeen",)
    assert strange_names(RULES) == ()
    code, _, err = run("gates", "list", "--gates", path)
    assert code == 0
    assert "[volume] spleeen: not in segmate's table of organs" in err
    assert "liver" not in err


def test_the_command_line_lists_and_explains(run):
    code, out, _ = run("gates", "list")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines()[1:]} == set(BY_ID)
    code, out, _ = run("gates", "explain", "volume")
    assert code == 0
    assert "Kim et al., Radiology 2021" in out
    assert "330 to 4250" in out
    listed = json.loads(run("gates", "list", "--format", "json")[1])
    assert [row["id"] for row in listed] == [rule.id for rule in RULES]
    assert run("gates", "explain", "nope")[0] == 2
    assert run("gates", "explain")[0] == 2


@pytest.fixture
def strict(tmp_path) -> tuple[Path, Path]:
    """A model for which the gates hold, and a scan of a ball that it takes for a liver."""
    return write_bundle(tmp_path / "strict", gates="adult_ct"), ball_scan(tmp_path / "a.nii.gz", 40)


def test_predict_and_report_end_with_3_and_say_why(run, tmp_path, strict):
    model, scan = strict
    labels = tmp_path / "labels.nii.gz"
    code, out, err = run("predict", scan, "-o", labels, "--model", model)
    assert (code, out) == (3, f"{labels}\n")
    assert "review: The cross-section of the body is" in err
    doubt = json.loads((tmp_path / "labels.json").read_text())["doubt"]
    assert doubt["verdict"] == "review"
    assert "scan-width" in {each["rule"] for each in doubt["findings"]}
    code, out, err = run("report", labels, "--format", "json")
    assert code == 3
    assert "review: The cross-section of the body is" in err
    (said,) = json.loads(out)["scans"]
    # What needs the scan is taken from the sidecar, so that both say the same.
    assert sorted(said["reasons"]) == sorted(doubt["reasons"])
    (row,) = json.loads(out)["rows"]
    assert (row["status"], row["verdict"]) == ("truncated", "review")
    (own,) = doubt["organs"]
    assert {key: row[key] for key in own} == own
    with_ct = json.loads(run("report", labels, "--ct", scan, "--format", "json")[1])
    assert sorted(with_ct["scans"][0]["reasons"]) == sorted(doubt["reasons"])


def test_the_exit_code_can_be_waived_and_gates_be_set(run, tmp_path, strict):
    model, scan = strict
    labels = tmp_path / "labels.nii.gz"
    options = ("-o", labels, "--model", model, "--overwrite")
    code, _, err = run("predict", scan, *options, "--no-gate-exit")
    assert code == 0
    assert "review: " in err
    assert run("report", labels, "--no-gate-exit")[0] == 0
    gates = tmp_path / "gates.toml"
    gates.write_text("".join(f"[{rule}]\nenabled = false\n" for rule in BY_ID))
    assert run("predict", scan, *options, "--gates", gates)[0] == 0
    gates.write_text("[nope]")
    code, _, err = run("predict", scan, *options, "--gates", gates)
    assert code == 2
    assert "no gate 'nope'" in err
    assert run("report", labels, "--gates", gates)[0] == 2


def test_a_batch_marks_such_a_case_for_review(run, tmp_path, strict):
    model, scan = strict
    run("batch", scan, "-o", tmp_path / "out", "--model", model, "--quiet", "--report")
    (record,) = (tmp_path / "out").glob("*/case.json")
    said = json.loads(record.read_text())
    assert said["state"] == "review"
    assert "The cross-section of the body is" in said["message"]
    assert said["organs"][0]["verdict"] == "review"
