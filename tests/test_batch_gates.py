"""``segmate batch --gates``: cases are judged by the limits given, and by others later."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ball_scan, write_bundle
from dicom_maker import Recipe, make_series
from test_batch import comparable, network_runs, table

from segmate_cli import examining, measurement
from segmate_cli.batch.judging import can_judge
from segmate_cli.batch.records import Record
from segmate_cli.batch.settings import Settings, gates_sha256
from segmate_cli.doubt.gates_file import parse_gates
from segmate_cli.doubt.rules import RULES

OFF = "".join(f"[{rule.id}]\nenabled = false\n" for rule in RULES if rule.id != "hu")
LOOSE = f"{OFF}[hu]\nlimits = {{ liver = [-900, 900] }}\n"
TIGHT = f"{OFF}[hu]\nlimits = {{ liver = [500, 900] }}\n"


@pytest.fixture
def gates(tmp_path):
    """Files of gates, by name."""
    found = {}
    for name, text in ("loose", LOOSE), ("tight", TIGHT), ("again", f"# the same\n{TIGHT}"):
        found[name] = tmp_path / f"{name}.toml"
        found[name].write_text(text)
    return found


@pytest.fixture
def scan_folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    ball_scan(folder / "ball.nii.gz")
    make_series(folder / "ct", Recipe(shape=(12, 24, 24)))
    make_series(folder / "uneven", Recipe(shape=(12, 24, 24), series=2, leave_out=(5,)))
    return folder


@pytest.fixture
def judged(run, tmp_path):
    """Run a batch with a model for which gates hold."""
    model = write_bundle(tmp_path / "model", gates="adult_ct")
    return lambda *args: run("batch", *args, "--model", model)


def content(out, case, name):
    return json.loads((out / case / name).read_text())


def less_resources(found):
    """Sidecars' plans and caps tell of the memory that was free at that moment."""
    for name, content in found.items():
        if name.endswith("labels.json"):
            content.pop("plan")
            content.pop("options")
    return found


def test_other_gates_judge_again_and_the_result_is_as_if_made_with_them(
    judged, scan_folder, gates, tmp_path
):
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    more = ("--report", "--format", "sr")
    tight = ("--gates", gates["tight"])
    assert judged(scan_folder, "-o", fresh, *more, *tight)[0] == 3
    assert "Liver: its mean is" in content(fresh, "ct", "case.json")["message"]
    assert content(fresh, "ct", "labels.json")["doubt"]["verdict"] == "review"
    assert {row["status"] for row in table(fresh / "cohort.csv")} == {"implausible"}

    judged(scan_folder, "-o", out, *more, "--gates", gates["loose"])
    assert content(out, "ct", "case.json")["state"] == "done"
    labels = {path: path.stat().st_ino for path in out.glob("*/labels.nii.gz")}
    code, _, told = judged(scan_folder, "-o", out, *more, *tight)
    assert (code, "(gates)" in told) == (8, True)
    _, printed, _ = judged(scan_folder, "-o", out, *more, *tight, "--mix", "--dry-run")
    assert [line.split("\t")[1] for line in printed.splitlines()[1:]] == ["judge"] * 3
    assert judged(scan_folder, "-o", out, *more, *tight, "--mix")[0] == 3
    assert sorted(network_runs(out)) == ["ball", "ct", "uneven"]
    assert {path: path.stat().st_ino for path in out.glob("*/labels.nii.gz")} == labels
    assert less_resources(comparable(out)) == less_resources(comparable(fresh))
    _, _, told = judged(scan_folder, "-o", out, *more, "--gates", gates["again"])
    assert "0 done, 3 known" in told
    of_a_second_look(out)


def of_a_second_look(out):
    """The rows of a batch, which surveys a case once, are those of ``report`` on its files."""
    for row in table(out / "cohort.csv"):
        case = content(out, row["case"], "case.json")
        (again,) = examining.examine_path(
            out / row["case"] / "labels.nii.gz", ct=case["path"], rules=parse_gates(TIGHT, "")
        ).stats
        assert (row["voxels"], row["status"]) == (str(again.voxels), again.status.kind)
        assert float(row["volume_ml"]) == pytest.approx(again.volume_ml, abs=0.001)
        assert float(row["mean_hu"]) == pytest.approx(again.mean_hu, abs=0.01)


def test_where_organs_were_left_out_gates_need_the_network_again():
    own = Record(case="a", state="done", exit_code=0, path="a", config_sha256="0", notes=())
    assert can_judge(own, Settings())
    assert not can_judge(own, Settings(organs=("liver",)))
    assert not can_judge(own.model_copy(update={"notes": None}), Settings())


def test_gates_that_make_no_sense_are_refused_at_once(judged, scan_folder, tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text("[volum]\n")
    code, _, told = judged(scan_folder, "-o", tmp_path / "out", "--gates", bad)
    assert (code, "volum" in told) == (2, True)
    assert judged(scan_folder, "-o", tmp_path / "out", "--gates", tmp_path / "none")[0] == 2
    assert not (tmp_path / "out").exists()


def test_comments_do_not_make_other_gates():
    assert gates_sha256(TIGHT) == gates_sha256(f"# a comment\n{TIGHT}") != gates_sha256(LOOSE)


def test_hu_sums_are_of_the_values_asked_for():
    sums = measurement.HuSums(2)
    sums.add(np.array([[0, 1], [2, 2]], np.uint8), np.array([[9, 10], [20, 40]], np.int16))
    assert sums.of([1]) == (1, 10.0, 0.0)
    assert sums.of([2]) == (2, 30.0, 10.0)
    assert sums.of([3]) == (0, None, None)
