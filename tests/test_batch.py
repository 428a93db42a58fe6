"""``segmate batch`` from the command line: outputs, tables, what is done again and what is not."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import zipfile

import pytest
from conftest import ball_scan, write_bundle
from dicom_maker import PATIENT, Recipe, make_series

from segmate_cli import cli, files
from segmate_cli.batch import finish, work
from segmate_cli.batch.cases import Case
from segmate_cli.batch.jobs import Job
from segmate_cli.batch.records import Record
from segmate_cli.batch.settings import Settings
from segmate_cli.errors import ChangedError

CT = Recipe(shape=(12, 24, 24))


@pytest.fixture
def batch(run, tiny_bundle):
    """Run ``segmate batch`` with the small model."""

    def call(*args):
        return run("batch", *args, "--model", tiny_bundle)

    return call


@pytest.fixture
def scans(tmp_path):
    """Two NIfTI scans and a DICOM series."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    ball_scan(folder / "one.nii.gz")
    ball_scan(folder / "sub" / "two.nii.gz", size=20)
    make_series(folder / "ct", CT)
    return folder


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def events(out, kind=None):
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [each for each in lines if kind in (None, each["event"])]


def started(out):
    """Names of the cases that a worker was given, in all runs."""
    return [each["case"] for each in events(out, "case_started")]


def comparable(out):
    """All that must be the same however a batch came to its end, by file name."""
    found = {}
    for path in [*sorted(out.glob("*/*")), out / "cohort.csv"]:
        if path.parent.name == ".segmate":
            continue
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            for name in ("created", "seconds", "peak_memory_bytes", "finished", "attempts"):
                content.pop(name, None)
            if path.name == "case.json":
                content.pop("stamp")
                content.pop("taken_from")
                content["outputs"] = sorted(content["outputs"])
            found[str(path.relative_to(out))] = content
        else:
            found[str(path.relative_to(out))] = path.read_bytes()
    return found


def test_a_tree_becomes_label_maps_and_tables(batch, scans, tmp_path):
    out = tmp_path / "out"
    code, printed, told = batch(scans, "-o", out, "--report")
    assert (code, printed) == (0, f"{out / 'cohort.csv'}\n")
    assert "3 cases: 3 done" in told
    cases = table(out / "cases.csv")
    assert [row["case"] for row in cases] == ["ct", "one", "sub--two"]
    assert {row["state"] for row in cases} == {"done"}
    for row in cases:
        labels = out / row["case"] / "labels.nii.gz"
        assert files.sha256_of_file(labels) == row["labels_sha256"]
        sidecar = json.loads((out / row["case"] / "labels.json").read_text())
        assert sidecar["input"]["pixels_sha256"] == row["pixels_sha256"]
        assert int(row["peak_memory_mb"]) > 10
    record = json.loads((out / "run.json").read_text())
    assert record["ended"] is not None
    assert (record["done"], record["failed"]) == (3, 0)
    kinds = [each["event"] for each in events(out)]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_ended"


def test_the_cohort_says_what_predict_and_report_say(batch, run, scans, tmp_path):
    out = tmp_path / "out"
    batch(scans, "-o", out, "--report")
    scan, labels = scans / "one.nii.gz", out / "one" / "labels.nii.gz"
    _, told, _ = run("report", labels, "--ct", scan, "--format", "json")
    (expected,) = json.loads(told)["rows"]
    (row,) = [row for row in table(out / "cohort.csv") if row["case"] == "one"]
    for name in ("organ", "volume_ml", "voxels", "mean_hu", "sd_hu"):
        assert row[name] == str(expected[name])
    (own,) = json.loads((out / "one" / "report.json").read_text())["rows"]
    assert {**own, "scan": ""} == {**expected, "scan": ""}


def test_labels_are_those_of_predict_byte_for_byte(batch, run, scans, tmp_path, tiny_bundle):
    batch(scans, "-o", tmp_path / "out")
    alone = tmp_path / "alone.nii.gz"
    run("predict", scans / "one.nii.gz", "-o", alone, "--model", tiny_bundle)
    assert alone.read_bytes() == (tmp_path / "out" / "one" / "labels.nii.gz").read_bytes()


def test_a_second_run_does_nothing_and_says_so(batch, scans, tmp_path):
    out = tmp_path / "out"
    batch(scans, "-o", out)
    before = comparable(out)
    code, _, told = batch(scans, "-o", out)
    assert code == 0
    assert "0 done, 3 known" in told
    assert len(started(out)) == 3
    assert comparable(out) == before


def test_what_changed_is_done_again_and_nothing_else(batch, scans, tmp_path):
    out = tmp_path / "out"
    batch(scans, "-o", out)
    ball_scan(scans / "one.nii.gz", size=26)
    batch(scans, "-o", out)
    assert started(out)[3:] == ["one"]
    (out / "sub--two" / "labels.nii.gz").write_bytes(b"cut")
    batch(scans, "-o", out)
    assert started(out)[4:] == ["sub--two"]
    (out / "ct" / "labels.json").unlink()
    batch(scans, "-o", out)
    assert started(out)[5:] == ["ct"]


def test_an_output_damaged_behind_the_clocks_back_is_found_by_paranoid(batch, scans, tmp_path):
    out = tmp_path / "out"
    batch(scans, "-o", out)
    labels = out / "one" / "labels.nii.gz"
    status, data = labels.stat(), labels.read_bytes()
    with labels.open("r+b") as file:
        file.seek(20)
        file.write(bytes([data[20] ^ 255]))
    os.utime(labels, ns=(status.st_atime_ns, status.st_mtime_ns))
    batch(scans, "-o", out)
    assert labels.read_bytes() != data
    batch(scans, "-o", out, "--paranoid")
    assert labels.read_bytes() == data


def network_runs(out):
    """Cases that went through the network, in all runs: the others were found done."""
    return [each["case"] for each in events(out, "case_done") if each["how"] == "segmented"]


def test_touched_copied_again_and_repacked_scans_are_not_segmented_again(batch, scans, tmp_path):
    out = tmp_path / "out"
    batch(scans, "-o", out)
    labels = out / "one" / "labels.nii.gz"
    before = labels.stat().st_ino
    os.utime(scans / "one.nii.gz", ns=(5, 5))
    assert batch(scans, "-o", out)[0] == 0
    assert labels.stat().st_ino == before
    packed = (scans / "one.nii.gz").read_bytes()
    import gzip

    (scans / "one.nii.gz").write_bytes(gzip.compress(gzip.decompress(packed), 1))
    assert batch(scans, "-o", out)[0] == 0
    assert labels.stat().st_ino == before
    started_before = len(started(out))
    batch(scans, "-o", out)
    assert len(started(out)) == started_before  # the records have been brought up to date


def test_a_moved_scan_takes_its_results_along(batch, scans, tmp_path):
    out = tmp_path / "out"
    batch(scans, "-o", out)
    labels = (out / "one" / "labels.nii.gz").read_bytes()
    (scans / "one.nii.gz").rename(scans / "sub" / "renamed.nii.gz")
    shutil.move(scans / "ct", scans / "sub" / "series")
    code, _, _ = batch(scans, "-o", out)
    assert code == 0
    assert network_runs(out).count("sub--renamed") == 0
    assert (out / "sub--renamed" / "labels.nii.gz").read_bytes() == labels
    names = [row["case"] for row in table(out / "cases.csv")]
    assert names == ["sub--renamed", "sub--series", "sub--two"]  # nothing counts twice
    sidecar = json.loads((out / "sub--renamed" / "labels.json").read_text())
    assert sidecar["input"]["path"] == str(scans / "sub" / "renamed.nii.gz")


def test_two_names_for_one_file_share_one_segmentation(batch, scans, tmp_path):
    (scans / "same.nii.gz").hardlink_to(scans / "one.nii.gz")
    (scans / "link.nii.gz").symlink_to(scans / "one.nii.gz")
    out = tmp_path / "out"
    assert batch(scans, "-o", out)[0] == 0
    assert len(network_runs(out)) == 3
    assert {row["case"] for row in table(out / "cohort.csv")} >= {"link", "one", "same"}


def test_scans_of_one_name_in_two_places_never_take_each_others_results(batch, tmp_path):
    out = tmp_path / "out"
    for night, size in ("monday", 18), ("tuesday", 22):
        (tmp_path / night).mkdir()
        ball_scan(tmp_path / night / "ct.nii.gz", size=size)
        assert batch(tmp_path / night, "-o", out)[0] == 0
    first, second = table(out / "cases.csv")
    assert first["case"] == "ct"
    assert first["path"] == str(tmp_path / "monday" / "ct.nii.gz")
    assert second["case"].startswith("ct-")
    code, _, told = batch(tmp_path / "tuesday" / "ct.nii.gz", "-o", out)
    assert (code, "0 done, 1 known" in told) == (0, True)
    assert len(network_runs(out)) == 2


def test_a_zip_of_a_series_is_the_same_content(batch, scans, tmp_path):
    out = tmp_path / "out"
    batch(scans, "-o", out)
    with zipfile.ZipFile(scans / "ct.zip", "w") as archive:
        for file in sorted((scans / "ct").iterdir()):
            archive.write(file, file.name)
    shutil.rmtree(scans / "ct")
    assert batch(scans, "-o", out)[0] == 0
    assert len(network_runs(out)) == 3


def test_another_configuration_is_refused_and_mix_redoes(batch, run, scans, tmp_path):
    out = tmp_path / "out"
    batch(scans, "-o", out)
    other = write_bundle(tmp_path / "other", version="2")
    code, _, told = run("batch", scans, "-o", out, "--model", other)
    assert code == 8
    assert "model_version" in told
    assert "--mix" in told
    code, _, _ = batch(scans, "-o", out, "--no-hu-check")
    assert code == 8
    code, _, _ = batch(scans / "sub", "-o", out, "--no-hu-check", "--mix")
    assert code == 0
    assert started(out)[3:] == ["two"]


def test_dicom_objects_come_where_the_scan_is_dicom(batch, scans, tmp_path):
    out = tmp_path / "out"
    code, _, told = batch(scans, "-o", out, "--format", "sr,rtstruct")
    assert code == 3
    states = {row["case"]: row["state"] for row in table(out / "cases.csv")}
    assert states == {"ct": "done", "one": "review", "sub--two": "review"}
    names = {path.name for path in (out / "ct").iterdir()}
    assert names == {
        "labels.nii.gz",
        "labels.json",
        "case.json",
        "seg.dcm",
        "sr.dcm",
        "rtstruct.dcm",
    }
    assert "no DICOM objects" in told


BROKEN = {
    "empty.nii.gz": lambda path: path.write_bytes(b""),
    "text.nii.gz": lambda path: path.write_text("no scan"),
    "cut.nii.gz": lambda path: path.write_bytes(ball_scan(path).read_bytes()[:-400]),
    "not_hu.nii.gz": lambda path: ball_scan(path),
    "bad.zip": lambda path: path.write_bytes(b"PK\x03\x04 and no more"),
    "empty_dicom": lambda path: (path.mkdir(), (path / "a.dcm").write_bytes(b""))[0],
    "gap": lambda path: make_series(path, CT.but(shape=(24, 24, 24), leave_out=range(4, 16))),
    "mr": lambda path: make_series(path, CT.but(tags={"Modality": "MR"})),
    "dangling.nii.gz": lambda path: path.symlink_to(path.parent / "gone"),
}


def test_each_broken_scan_fails_alone_with_its_own_word(batch, scans, tmp_path):
    import nibabel
    import numpy as np

    for name, make in BROKEN.items():
        make(scans / name)
    nibabel.save(
        nibabel.Nifti1Image(np.full((20, 20, 20), 7000, np.int16), np.eye(4)),
        scans / "not_hu.nii.gz",
    )
    out = tmp_path / "out"
    code, printed, told = batch(scans, "-o", out)
    assert code == 9
    rows = {row["case"]: row for row in table(out / "cases.csv")}
    good = {"one", "sub--two", "ct"}
    assert {name for name, row in rows.items() if row["state"] == "done"} == good
    for name, row in rows.items():
        if name not in good:
            assert (row["state"], row["exit_code"], row["cause"]) == ("failed", "6", "input")
            assert row["message"].count("\n") == 0
            assert not (out / name / "labels.nii.gz").exists()
    assert f"{len(BROKEN)} failed ({len(BROKEN)} input)" in told
    assert PATIENT not in told + printed + (out / "cases.csv").read_text()


def test_exit_codes(batch, run, scans, tmp_path, tiny_bundle):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("nothing here")
    code, _, told = batch(empty, "-o", tmp_path / "o1")
    assert (code, "no scan was found" in told) == (6, True)
    (empty / "bad.nii.gz").write_bytes(b"x")
    assert batch(empty, "-o", tmp_path / "o2")[0] == 10
    assert batch(tmp_path / "gone", "-o", tmp_path / "o3")[0] == 6
    assert batch("-o", tmp_path / "o4")[0] == 2
    assert batch(scans, "-o", tmp_path / "o5", "--shard", "4/3")[0] == 2
    assert batch(scans, "-o", tmp_path / "o6", "--organs", "tail")[0] == 2
    assert batch(scans, "-o", tmp_path / "o7", "--memory-cap", "1MB")[0] == 5
    assert run("batch", scans, "-o", tmp_path / "o8", "--model", "none")[0] == 7
    (tiny_bundle / "model.onnx").rename(tiny_bundle / "away")
    try:
        assert batch(scans, "-o", tmp_path / "o9")[0] == 7
    finally:
        (tiny_bundle / "away").rename(tiny_bundle / "model.onnx")


def test_nothing_found_asks_for_review(run, scans, tmp_path):
    blind = write_bundle(tmp_path / "blind", organs=[{"key": "liver", "channel": 1}],
                         network__channels=2)  # fmt: skip
    from conftest import manifest_dict, threshold_network

    network = threshold_network(channels=2)
    (blind / "model.onnx").write_bytes(network)
    changes = {"organs": [{"key": "liver", "channel": 1}], "network__channels": 2}
    window = {"low_hu": -1000, "high_hu": -900, "scale": 1e-6, "offset": 0.0}
    content = manifest_dict(network, **changes, preprocessing__window=window)
    (blind / "manifest.json").write_text(json.dumps(content))
    code, _, _ = run("batch", scans / "one.nii.gz", "-o", tmp_path / "out", "--model", blind)
    assert code == 3
    (row,) = table(tmp_path / "out" / "cohort.csv")
    assert (row["volume_ml"], row["state"]) == ("", "review")


def test_shards_share_an_output_folder_and_merge(batch, run, scans, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    batch(scans, "-o", whole)
    for n in (1, 2, 3):
        code, printed, _ = batch(scans, "-o", out, "--shard", f"{n}/3")
        assert code == 0
        assert printed.strip().endswith(f"cohort.shard-{n}-of-3.csv")
    assert sorted(started_in(out)) == sorted(started(whole))
    code, printed, _ = run("batch", "--merge", out, "-o", tmp_path / "merged")
    assert code == 0
    assert (tmp_path / "merged" / "cohort.csv").read_bytes() == (whole / "cohort.csv").read_bytes()


def started_in(out):
    lines = [line for path in out.glob("events*.jsonl") for line in path.read_text().splitlines()]
    return [e["case"] for e in map(json.loads, lines) if e["event"] == "case_started"]


def test_stdin_and_lines_and_json(batch, scans, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{scans / 'one.nii.gz'}\n"))
    code, _, told = batch("-", "-o", tmp_path / "out", "--progress", "json")
    assert code == 0
    lines = [json.loads(line) for line in told.splitlines()]
    assert lines[0]["state"] == "done"
    assert "1 done" in lines[-1]["message"]


def test_a_file_that_changes_while_it_is_read_leaves_no_record(tmp_path, monkeypatch):
    scan = ball_scan(tmp_path / "a.nii.gz")

    def segment(job, *args):
        with scan.open("ab") as file:  # its copying has not ended
            file.write(b"more")
        return Record(case="a", state="done", exit_code=0, path="a", config_sha256="c")

    monkeypatch.setattr(work, "segment_case", segment)
    job = Job(Case("a", str(scan)), str(tmp_path / "out"), "c")
    with pytest.raises(ChangedError, match="still being copied"):
        work.run_case(job, Settings(), None)
    assert list((tmp_path / "out" / "a").iterdir()) == []


def test_parquet_has_the_cohort(batch, scans, tmp_path):
    pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
    from pyarrow import parquet

    names = ["0012", "1e5", "2024-01-02", "NA", "true"]
    for name in names:
        shutil.copy(scans / "one.nii.gz", tmp_path / f"{name}.nii.gz")
    listed = [tmp_path / f"{name}.nii.gz" for name in names]
    code, _, _ = batch(*listed, "-o", tmp_path / "out", "--parquet")
    assert code == 0
    table = parquet.read_table(tmp_path / "out" / "cohort.parquet")
    rows = table.to_pylist()
    assert [row["case"] for row in rows] == names
    for row in rows:
        assert row["volume_ml"] > 1
        assert (row["touches_edge"], row["confidence"] > 0) == (True, True)
        assert row["volume_low_ml"] is row["agreement"] is None
    # The same whatever the values are, so that the tables of two nights go together.
    csv_path = tmp_path / "empty" / "cohort.csv"
    csv_path.parent.mkdir()
    csv_path.write_text(",".join(finish.COHORT_COLUMNS) + "\n")
    assert parquet.read_schema(finish.write_parquet(csv_path)) == table.schema


def test_the_help_names_the_options():
    text = cli.build_parser().format_help()
    assert "batch" in text


def test_a_dry_run_says_what_why_and_at_what_cost_and_writes_nothing(batch, scans, tmp_path):
    out = tmp_path / "out"
    code, printed, told = batch(scans, "-o", out, "--dry-run")
    assert code == 0
    assert not out.exists()
    rows = list(csv.DictReader(io.StringIO(printed), delimiter="\t"))
    assert {(row["case"], row["action"], row["why"]) for row in rows} == {
        ("ct", "do", "new"),
        ("one", "do", "new"),
        ("sub--two", "do", "new"),
    }
    assert [row["slices"] for row in rows] == ["12", "24", "20"]
    assert all(int(row["peak_memory_mb"]) > 50 and float(row["seconds"]) >= 0 for row in rows)
    assert "3 to do" in told
    batch(scans, "-o", out)
    ball_scan(scans / "one.nii.gz", size=26)
    (out / "ct" / "labels.nii.gz").unlink()
    (scans / "bad.nii.gz").write_bytes(b"x")
    before = sorted(out.rglob("*"))
    _, printed, told = batch(scans, "-o", out, "--dry-run")
    rows = {row["case"]: row for row in csv.DictReader(io.StringIO(printed), delimiter="\t")}
    assert {name: row["action"] for name, row in rows.items()} == {
        **{"bad": "fail", "ct": "do", "one": "do", "sub--two": "keep"},
    }
    assert rows["ct"]["why"] == "outputs are missing or changed"
    assert rows["one"]["why"] == "its files changed"
    assert "1 done before" in told
    assert sorted(out.rglob("*")) == before
