"""Scores against values worked out by hand, matching by name, and partial references."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from conftest import save_nifti
from test_geometry import make

from segmate_cli import evaluation, nifti_labels
from segmate_cli.label_table import builtin_tables, read_label_table
from segmate_cli.organs import foreign_organ
from segmate_cli.volume import Labels

GRID = make("SPL", spacing=(2.0, 1.0, 1.0), shape=(20, 30, 40))


def block(value: int, slices: slice, rows: slice, columns: slice) -> np.ndarray:
    values = np.zeros(GRID.shape, np.uint8)
    values[slices, rows, columns] = value
    return values


def write(path, values, names, geometry=GRID):
    path.parent.mkdir(parents=True, exist_ok=True)
    organs = {value: foreign_organ(name, value) for value, name in names.items()}
    nifti_labels.write_labels(Labels(values, geometry, organs), path)
    return path


LIVER = block(1, slice(5, 15), slice(5, 15), slice(5, 25))
SHIFTED = block(1, slice(5, 15), slice(5, 15), slice(9, 29))


def test_figures_worked_out_by_hand(run, tmp_path):
    a = write(tmp_path / "a.nii.gz", SHIFTED, {1: "liver"})
    b = write(tmp_path / "b.nii.gz", LIVER, {1: "liver"})
    code, out, _ = run("evaluate", a, b, "--format", "json")
    content = json.loads(out)
    (row,) = content["cases"]
    assert code == 0
    assert row["dice"] == pytest.approx(16 / 20)  # 4 of 20 columns moved out, 4 in
    assert row["volume_ml"] == row["reference_ml"] == pytest.approx(10 * 10 * 20 * 0.002)
    assert row["hd95_mm"] == pytest.approx(4.0)
    # Two faces of 10 x 20 mm lie 4 mm away, those beside them partly, everything else at 0.
    assert 0.6 < row["surface_dice_2mm"] < 0.9
    assert content["mean_dice_of_organs"] == row["dice"]


def test_a_folder_by_case_names_and_the_lonely(run, tmp_path):
    for name, values in (("p1", LIVER), ("p2", SHIFTED), ("only_ours", LIVER)):
        write(tmp_path / "ours" / name / "labels.nii.gz", values, {1: "liver"})
    for name in ("p1", "p2", "only_theirs"):
        write(tmp_path / "theirs" / f"{name}.nii.gz", LIVER, {1: "liver"})
    code, out, err = run("evaluate", tmp_path / "ours", tmp_path / "theirs", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [(r["case"], r["dice"]) for r in rows] == [("p1", "1.0"), ("p2", "0.8")]
    assert "without a partner, so not scored: only_ours, only_theirs" in err


def test_the_table_has_mean_worst_and_interval(run, tmp_path):
    for name, values in (("good", LIVER), ("poor", SHIFTED)):
        write(tmp_path / "ours" / f"{name}.nii.gz", values, {1: "liver"})
        write(tmp_path / "theirs" / f"{name}.nii.gz", LIVER, {1: "liver"})
    _, out, _ = run("evaluate", tmp_path / "ours", tmp_path / "theirs")
    organ = out.splitlines()[1].split()
    assert organ[:6] == ["liver", "2", "0.900", "0.800-1.000", "0.800", "poor"]
    assert out.splitlines()[-1] == "mean of organs  0.900"


def test_what_the_reference_does_not_label_is_left_out_and_said(run, tmp_path):
    both = LIVER + block(2, slice(0, 3), slice(0, 3), slice(0, 3))
    ours = write(tmp_path / "ours.nii.gz", both, {1: "liver", 2: "spleen", 3: "heart"})
    theirs = write(tmp_path / "theirs.nii.gz", LIVER, {1: "liver", 2: "spleen"})
    _, out, err = run("evaluate", ours, theirs, "--format", "json")
    assert [row["organ"] for row in json.loads(out)["cases"]] == ["liver"]
    assert json.loads(out)["not_labelled"] == {"ours": ["spleen", "heart"]}
    assert "not labelled in the reference, left out: spleen, heart" in err
    _, out, _ = run("evaluate", ours, theirs, "--format", "json", "--count-absent")
    rows = json.loads(out)["cases"]
    assert [(r["organ"], r["dice"]) for r in rows] == [("liver", 1.0), ("spleen", 0.0)]
    assert rows[1]["hd95_mm"] is None


def test_swapped_kidneys_are_seen(run, tmp_path):
    left, right = (slice(5, 9), slice(5, 9), slice(30, 36)), (slice(5, 9), slice(5, 9), slice(4, 9))
    truth = block(1, *left) + block(2, *right)
    swapped = block(2, *left) + block(1, *right)
    names = {1: "kidney_left", 2: "kidney_right"}
    theirs = write(tmp_path / "theirs.nii.gz", truth, names)
    for values, want in ((swapped, [True, True]), (truth, [False, False])):
        ours = write(tmp_path / f"ours{want[0]}.nii.gz", values, names)
        _, out, _ = run("evaluate", ours, theirs, "--format", "json")
        assert [row["swapped"] for row in json.loads(out)["cases"]] == want


def test_lobes_make_lungs(run, tmp_path):
    # 10 upper and 11 lower left lobe, 12 to 14 right: no lung among TotalSegmentator's 117.
    lobes = block(10, slice(0, 5), slice(5, 9), slice(5, 9))
    lobes += block(11, slice(5, 9), slice(5, 9), slice(5, 9))
    theirs = save_nifti(tmp_path / "theirs.nii.gz", lobes, GRID)
    ours = write(tmp_path / "ours.nii.gz", (lobes > 0).astype(np.uint8), {1: "lung_left"})
    code, out, _ = run("evaluate", ours, theirs, "--labels", "totalsegmentator", "--format", "json")
    assert code == 0
    assert json.loads(out)["cases"][0]["dice"] == 1.0


def test_a_reference_stored_another_way_round_is_turned(run, tmp_path):
    turned, turn = GRID.reoriented("IAR")
    theirs = write(tmp_path / "theirs.nii.gz", turn.view(LIVER), {1: "liver"}, turned)
    ours = write(tmp_path / "ours.nii.gz", LIVER, {1: "liver"})
    _, out, _ = run("evaluate", ours, theirs, "--format", "json")
    assert json.loads(out)["cases"][0]["dice"] == 1.0


def test_other_grids_are_refused(run, tmp_path):
    other = make("SPL", spacing=(2.0, 1.0, 1.1), shape=GRID.shape)
    theirs = write(tmp_path / "theirs.nii.gz", LIVER, {1: "liver"}, other)
    ours = write(tmp_path / "ours.nii.gz", LIVER, {1: "liver"})
    code, out, err = run("evaluate", ours, theirs)
    assert (code, out) == (6, "")
    assert "do not lie on the same voxels" in err


def test_values_of_one_organ_count_together(run, tmp_path):
    parts = LIVER.copy()
    parts[:, :, 15:] *= 2
    ours = write(tmp_path / "ours.nii.gz", LIVER, {1: "liver"})
    theirs = write(tmp_path / "theirs.nii.gz", parts, {1: "liver", 2: "Liver"})
    for pair in ((ours, theirs), (theirs, ours)):
        _, out, _ = run("evaluate", *pair, "--format", "json")
        rows = json.loads(out)["cases"]
        assert [(row["organ"], row["dice"]) for row in rows] == [("liver", 1.0)]


def test_patients_whose_folders_are_called_alike_are_all_scored(run, tmp_path):
    for tree in ("ours", "theirs"):
        for patient, values in (("p1", LIVER), ("p2", SHIFTED)):
            write(tmp_path / tree / patient / "ct1" / "labels.nii.gz", values, {1: "liver"})
    _, out, _ = run("evaluate", tmp_path / "ours", tmp_path / "theirs", "--format", "json")
    assert [row["case"] for row in json.loads(out)["cases"]] == ["p1/ct1", "p2/ct1"]


def test_a_batch_of_one_case_finds_its_reference_among_many(run, tmp_path):
    write(tmp_path / "ours" / "p1" / "labels.nii.gz", SHIFTED, {1: "liver"})
    for name, values in (("p1", SHIFTED), ("p2", LIVER)):
        write(tmp_path / "theirs" / name / "labels.nii.gz", values, {1: "liver"})
        write(tmp_path / "theirs" / name / "teacher.nii.gz", 0 * LIVER, {1: "liver"})
    _, out, err = run("evaluate", tmp_path / "ours", tmp_path / "theirs", "--format", "json")
    assert [(row["case"], row["dice"]) for row in json.loads(out)["cases"]] == [("p1", 1.0)]
    assert "so not scored: p2" in err


def test_one_case_in_two_files_is_refused(run, tmp_path):
    for name in ("p1.nii", "p1.nii.gz", "p2.nii"):
        write(tmp_path / "ours" / name, LIVER, {1: "liver"})
    code, _, err = run("evaluate", tmp_path / "ours", tmp_path / "ours")
    assert code == 6
    assert "p1.nii is there as .nii and as .nii.gz" in err


def test_a_table_names_predictions_that_do_not_say_themselves(run, tmp_path):
    bare = save_nifti(tmp_path / "bare.nii.gz", LIVER, GRID)
    (tmp_path / "table.csv").write_text("value,organ\n1,liver\n")
    code, out, _ = run("evaluate", bare, bare, "--labels", tmp_path / "table.csv")
    assert (code, out.splitlines()[1].split()[0]) == (0, "liver")
    # But what says so itself is believed.
    named = write(tmp_path / "named.nii.gz", LIVER, {1: "spleen"})
    code, out, err = run("evaluate", named, bare, "--labels", tmp_path / "table.csv")
    assert (code, out) == (6, "")
    assert "nothing to score" in err
    assert "left out: spleen" in err


def test_the_suffix_says_what_is_written(run, tmp_path):
    ours = write(tmp_path / "a.nii.gz", LIVER, {1: "liver"})
    assert run("evaluate", ours, ours, "-o", tmp_path / "scores.csv")[0] == 0
    assert (tmp_path / "scores.csv").read_text().startswith("case,organ,dice,")
    assert run("evaluate", ours, ours, "-o", tmp_path / "scores.html")[0] == 2


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_one_case_that_cannot_be_read_ends_no_other(run, tmp_path, command):
    for tree in ("ours", "theirs"):
        for name in ("p1", "p2", "p3"):
            write(tmp_path / tree / f"{name}.nii.gz", LIVER, {1: "liver"})
    places = (tmp_path / "ours", tmp_path / "theirs")
    cut = tmp_path / "theirs" / "p2.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-60])
    code, out, err = run(command, *places, "--format", "csv", "--quiet")
    assert (code, [line.split(",")[0] for line in out.split()]) == (9, ["case", "p1", "p3"])
    assert "p2 failed: " in err
    assert "1 of 3 cases failed" in err
    for name in ("p1", "p3"):
        (tmp_path / "ours" / f"{name}.nii.gz").write_bytes(b"")
    assert run(command, *places)[:2] == (10, "")


@pytest.mark.parametrize(("there", "code"), [("missing", 6), ("empty", 6), ("one file", 2)])
def test_bad_places(run, tmp_path, there, code):
    ours = write(tmp_path / "ours" / "a.nii.gz", LIVER, {1: "liver"})
    (tmp_path / "empty").mkdir()
    place = {"missing": tmp_path / "no", "empty": tmp_path / "empty", "one file": ours}[there]
    assert run("evaluate", tmp_path / "ours", place)[0] == code


def test_the_interval_holds_the_mean_and_repeats():
    values = np.random.default_rng(0).uniform(0.7, 1.0, 12)
    low, high = evaluation.bootstrap_interval(values)
    assert low < values.mean() < high
    assert evaluation.bootstrap_interval(values) == (low, high)


@pytest.mark.parametrize(
    ("name", "count", "some"),
    [
        (
            "totalsegmentator",
            117,
            {5: "liver", 51: "heart", 79: "spinal_cord", 117: "costal_cartilages"},
        ),
        ("segthor", 4, {1: "esophagus", 4: "aorta"}),
        ("btcv", 13, {1: "spleen", 3: "kidney_left", 8: "aorta"}),
        ("amos22", 15, {2: "kidney_right", 10: "pancreas", 14: "urinary_bladder"}),
    ],
)
def test_the_tables_that_come_along(name, count, some):
    from pathlib import Path

    assert name in builtin_tables()
    table = read_label_table(Path(name))
    assert len(table) == count
    assert {value: table[value].key for value in some} == some


def test_what_was_found_is_never_nothing(run, tmp_path):
    fine = make("SPL", spacing=(0.3, 0.5, 0.5), shape=GRID.shape)
    one = write(tmp_path / "a.nii.gz", block(1, *[slice(3, 4)] * 3), {1: "liver"}, fine)
    (score,) = json.loads(run("evaluate", one, one, "--format", "json")[1])["cases"]
    (change,) = json.loads(run("compare", one, one, "--format", "json")[1])["rows"]
    volumes = [row[name] for row, name in ((score, "volume_ml"), (score, "reference_ml"))]
    volumes += [change["volume_a_ml"], change["volume_b_ml"]]
    assert volumes == [7.5e-05] * 4
