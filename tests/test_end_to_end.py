"""The real command line on real files: outputs, streams, exit codes, every kind of bad input."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import ball_scan, save_nifti, threshold_network, write_bundle
from test_geometry import make

from segmate_cli.geometry import geometry_from_ras

SEGMATE = [sys.executable, "-m", "segmate_cli"]


@pytest.fixture
def scan(tmp_path) -> Path:
    return ball_scan(tmp_path / "scan.nii.gz")


@pytest.fixture
def predict(run, scan, tiny_bundle, tmp_path):
    """Run predict on the ball; further arguments as given."""

    def call(*args, path=scan, out=tmp_path / "labels.nii.gz"):
        return run("predict", path, "-o", out, "--model", tiny_bundle, *args)

    return call


def test_predict_prints_the_path_and_nothing_else(predict, tmp_path):
    code, out, err = predict()
    assert (code, out) == (0, f"{tmp_path / 'labels.nii.gz'}\n")
    assert "ONNX Runtime" in err  # the engine chosen is said


def test_quiet_is_silent(predict):
    assert predict("--quiet")[2] == ""


def test_the_label_map_is_right(predict, scan, tmp_path):
    predict()
    labels = nibabel.load(tmp_path / "labels.nii.gz")
    assert labels.get_data_dtype() == np.uint8
    ct = nibabel.load(scan)
    assert np.array_equal(labels.affine, ct.affine)
    assert np.array_equal(np.asarray(labels.dataobj), np.asarray(ct.dataobj) > -300)


def test_the_sidecar_says_how_it_was_made(predict, scan, tiny_bundle, tmp_path):
    predict("--organs", "liver", "--threads", "1")
    sidecar = json.loads((tmp_path / "labels.json").read_text())
    assert (sidecar["schema"], sidecar["schema_version"]) == ("segmate-labels", 1)
    (row,) = sidecar["labels"]
    assert row["value"] == 1
    assert row["organ"] == "liver"
    assert row["code"]["value"] == "10200004"
    hu = np.asarray(nibabel.load(scan).dataobj).T.astype("<i2")
    assert sidecar["input"]["pixels_sha256"] == hashlib.sha256(hu.tobytes()).hexdigest()
    labels = tmp_path / "labels.nii.gz"
    assert sidecar["output"]["file_sha256"] == hashlib.sha256(labels.read_bytes()).hexdigest()
    weights = (tiny_bundle / "model.onnx").read_bytes()
    assert sidecar["model"]["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert sidecar["engine"] == "onnx"
    assert sidecar["device"] == "cpu"
    assert sidecar["options"]["threads"] == 1
    assert sidecar["packages"]["numpy"] == np.__version__
    assert {"read", "network", "hash", "clean_up", "write"} <= sidecar["seconds"].keys()


def test_fast_takes_every_second_slice(predict, tmp_path):
    assert predict("--fast")[0] == 0
    sidecar = json.loads((tmp_path / "labels.json").read_text())
    assert sidecar["options"]["fast"] is True
    assert predict("--overwrite")[0] == 0
    sidecar = json.loads((tmp_path / "labels.json").read_text())
    assert sidecar["options"]["fast"] is False


def test_progress_as_json_lines(predict):
    _, out, err = predict("--progress", "json")
    lines = [json.loads(line) for line in err.splitlines()]
    stages = [line for line in lines if "stage" in line]
    assert {"stage", "done", "total", "seconds"} == stages[0].keys()
    assert [s["stage"] for s in stages if s["done"] == s["total"]] == ["segment", "write"]
    assert out.count("\n") == 1


def test_itksnap_labels(predict, tmp_path):
    predict("--itksnap")
    text = (tmp_path / "labels.itksnap.txt").read_text()
    assert '"Liver"' in text
    assert text.splitlines()[1].split()[:4] == ["1", "150", "75", "50"]


def test_report_from_the_file_alone(predict, run, tmp_path):
    predict()
    (tmp_path / "labels.json").unlink()
    code, out, _ = run("report", tmp_path / "labels.nii.gz", "--format", "json")
    (row,) = json.loads(out)["rows"]
    voxels = int(np.asarray(nibabel.load(tmp_path / "labels.nii.gz").dataobj).sum())
    assert code == 0
    assert row["organ"] == "liver"
    assert row["voxels"] == voxels
    assert row["volume_ml"] == pytest.approx(voxels * 8 / 1000, abs=1e-3)


def test_report_with_the_ct(predict, run, scan, tmp_path):
    predict()
    _, out, _ = run("report", tmp_path / "labels.nii.gz", "--ct", scan, "--format", "json")
    (row,) = json.loads(out)["rows"]
    ct, mask = (np.asarray(nibabel.load(p).dataobj) for p in (scan, tmp_path / "labels.nii.gz"))
    assert row["mean_hu"] == pytest.approx(ct[mask == 1].mean(), abs=0.01)
    assert row["sd_hu"] == pytest.approx(ct[mask == 1].std(), abs=0.01)


def test_a_scan_taken_for_ras_is_reported_without_being_asked_again(
    predict, run, scan, tiny_bundle, tmp_path
):
    image = nibabel.load(scan)
    image.header["sform_code"] = image.header["qform_code"] = 0
    bare = nibabel.Nifti1Image(image.dataobj, None, image.header)
    bare.set_sform(None, 0)
    bare.set_qform(None, 0)
    nibabel.save(bare, tmp_path / "bare.nii.gz")
    labels = tmp_path / "bare_labels.nii.gz"
    options = ("--model", tiny_bundle, "--assume-ras", "--no-gate-exit")
    assert run("predict", tmp_path / "bare.nii.gz", "-o", labels, *options)[0] == 0
    assert nibabel.load(labels).header["sform_code"] == 0  # as the scan's, so that they overlay
    ct = ("--ct", tmp_path / "bare.nii.gz")
    for more in ((), ct, (*ct, "-o", tmp_path / "page.html")):
        code, _, err = run("report", labels, "--no-gate-exit", *more)
        assert (code, "cannot be known" in err) == (0, False)
    assert run("compare", labels, labels)[0] == run("inspect", labels)[0] == 0
    (tmp_path / "bare_labels.json").unlink()
    code, _, err = run("report", labels)
    assert (code, "cannot be known" in err) == (6, True)


def test_names_by_the_sidecar_of_another_file_are_told(predict, run, tmp_path):
    predict()
    labels = tmp_path / "labels.nii.gz"
    assert "another file" not in run("report", labels)[2]
    image = nibabel.load(labels)
    other = np.asarray(image.dataobj) * np.uint8(1)
    nibabel.save(nibabel.Nifti1Image(other, image.affine), labels)
    code, out, err = run("report", labels, "--no-gate-exit")
    assert (code, "liver" in out) == (0, True)
    assert "named by labels.json, which was written beside another file" in err
    (tmp_path / "t.csv").write_text("value,organ\n1,spleen\n")
    _, out, err = run("report", labels, "--labels", tmp_path / "t.csv", "--no-gate-exit")
    assert ("spleen" in out, "another file" in err) == (True, False)


def test_a_folder_is_no_label_map(run, tmp_path):
    code, _, err = run("report", tmp_path)
    assert (code, "is a folder; give its label maps" in err) == (2, True)


def test_report_tells_what_is_odd_about_the_label_maps_header(predict, run, tmp_path):
    predict()
    image = nibabel.load(tmp_path / "labels.nii.gz")
    moved = image.affine.copy()
    moved[0] *= -1
    image.set_sform(image.affine, code=1)
    image.set_qform(moved, code=1)
    nibabel.save(image, tmp_path / "odd.nii.gz")
    code, _, err = run("report", tmp_path / "odd.nii.gz", "--no-gate-exit")
    assert code == 0
    assert "odd.nii.gz: warning: sform and qform disagree" in err


def test_report_of_two_label_maps(predict, run, tmp_path):
    predict()
    predict(out=tmp_path / "more.nii.gz")
    maps = [tmp_path / "labels.nii.gz", tmp_path / "more.nii.gz"]
    code, out, _ = run("report", *maps, "--format", "csv")
    assert code == 0
    assert [line.split(",")[0] for line in out.splitlines()[1:]] == [str(path) for path in maps]


def test_report_to_a_file(predict, run, tmp_path):
    predict()
    target = tmp_path / "report.tsv"
    code, out, _ = run("report", tmp_path / "labels.nii.gz", "--format", "tsv", "-o", target)
    assert (code, out) == (0, f"{target}\n")
    assert target.read_text().startswith("scan\torgan\tvolume_ml\t")
    assert run("report", tmp_path / "labels.nii.gz", "-o", target)[0] == 8


def test_report_of_somebody_elses_labels(run, tmp_path):
    values = np.zeros((4, 5, 6), np.uint8)
    values[1, 2, 3] = 5
    path = save_nifti(tmp_path / "theirs.nii.gz", values, make("SPL"))
    code, _, err = run("report", path)
    assert code == 6
    assert "--labels" in err
    (tmp_path / "table.csv").write_text("value,name\n5,liver\n6,femur_left\n")
    code, out, _ = run("report", path, "--labels", tmp_path / "table.csv", "--format", "json")
    rows = json.loads(out)["rows"]
    assert [(r["organ"], r["voxels"], r["volume_ml"]) for r in rows] == [
        ("liver", 1, 0.001),
        ("femur_left", 0, None),
    ]


def test_the_pipe(scan, tiny_bundle, tmp_path):
    command = (
        f"{sys.executable} -m segmate_cli predict {scan} -o {tmp_path}/labels.nii.gz"
        f" --model {tiny_bundle} | {sys.executable} -m segmate_cli report --organs LIVER"
        " --format json"
    )
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["rows"][0]["organ"] == "liver"


def test_a_failed_predict_fails_the_pipe_with_words(run, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code, _, err = run("report")
    assert code == 2
    assert "did the command before it fail" in err


def test_the_python_api_is_what_the_readme_says(scan, tiny_bundle):
    import segmate_cli as segmate

    labels = segmate.predict(segmate.load(scan), tiny_bundle)
    (stats,) = segmate.measure(labels)
    assert stats.organ.key == "liver"
    assert stats.volume_ml == pytest.approx(stats.voxels * 0.008)
    # What the network told of itself counts, as in a report of the file.
    assert stats.certainty.confidence == labels.run["doubt"]["organs"][0]["confidence"] > 0
    assert callable(segmate.predict)  # still the function, now that its module is imported
    assert callable(segmate.measure)
    assert all(getattr(segmate, name) is not None for name in segmate.__all__)


def test_inspect_a_scan_and_a_label_map(predict, run, scan, tmp_path):
    predict()
    code, out, _ = run("inspect", scan, "--format", "json")
    found = json.loads(out)
    assert code == 0
    assert found["shape_ijk"] == [24, 24, 24]
    assert found["values_hu"] == {"min": -1005, "max": 900}
    assert found["predict_would"] == "segment it"
    code, out, _ = run("inspect", tmp_path / "labels.nii.gz")
    assert code == 0
    assert "1: liver" in out


def test_models(run, tiny_bundle):
    code, out, _ = run("models", "show", tiny_bundle)
    assert code == 0
    assert json.loads(out)["preprocessing"]["grid"]["spacing_mm"] == [2.0, 2.0, 2.0]
    code, out, _ = run("models", "verify", tiny_bundle)
    assert code == 0
    assert "ok" in out


def test_doctor(run):
    code, out, _ = run("doctor")
    assert code == 0
    assert "engine onnx:" in out
    assert "numpy" in out


def test_completion_is_a_script_of_the_shell(run, tmp_path):
    code, out, _ = run("completion", "bash")
    assert code == 0
    (tmp_path / "segmate.bash").write_text(out)
    subprocess.run(["bash", "-n", str(tmp_path / "segmate.bash")], check=True)
    assert "--memory-cap" in out


def test_version(run):
    from segmate_cli import __version__

    assert run("--version")[1] == f"segmate {__version__}\n"


# --- bad input: one sentence, one exit code, nothing left behind ---------------------------------


def bad_scan(folder: Path, kind: str) -> Path:
    """A scan that must be refused, by the name of what is wrong with it."""
    path = folder / "bad.nii.gz"
    good = ball_scan(folder / "good.nii.gz").read_bytes()
    image = nibabel.load(folder / "good.nii.gz")
    hu = np.asarray(image.dataobj).T
    geometry = geometry_from_ras(image.affine, image.shape)
    arrays = {
        "8-bit": (np.clip(hu, -1000, 400) + 1000) // 6,
        "raw": hu + 1024,
        "mr-like": np.abs(hu) % 900,
        "constant": np.full_like(hu, -1000),
        "zero-one": (hu > -300).astype(np.float32) * 0.7,
        "inverted": -hu,
        "nan": np.where(hu > 800, np.nan, hu.astype(np.float32)),
        "infinite": np.where(hu > 800, np.inf, hu.astype(np.float32)),
    }
    if kind in arrays:
        return save_nifti(path, arrays[kind].astype(np.float32), geometry)
    contents = {
        "empty": b"",
        "text": b"name,age\nsomebody,50\n",
        "cut": good[: len(good) // 2],
        "gzipped text": gzip.compress(b"nothing"),
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "no suffix":
        path = folder / "scan.xyz"
        path.write_bytes(good)
    elif kind == "empty folder":
        path = folder / "empty"
        path.mkdir()
    return path  # "missing" has no file


BAD_SCANS = [
    *("8-bit", "raw", "mr-like", "constant", "zero-one", "inverted", "nan", "infinite"),
    *("empty", "text", "cut", "gzipped text", "no suffix", "empty folder", "missing"),
]


@pytest.mark.parametrize("kind", BAD_SCANS)
def test_a_bad_scan_is_one_sentence_and_exit_6(predict, tmp_path, kind):
    path = bad_scan(tmp_path, kind)
    before = set(tmp_path.iterdir())
    code, out, err = predict("--quiet", path=path)
    assert code == 6
    assert out == ""
    assert err.startswith(f"segmate: error: {path}")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert set(tmp_path.iterdir()) == before


def test_what_is_not_hu_can_be_forced(predict, tmp_path):
    assert predict("--no-hu-check", path=bad_scan(tmp_path, "raw"))[0] == 0


def test_debug_shows_the_traceback(predict, tmp_path):
    assert "Traceback" in predict("--debug", path=bad_scan(tmp_path, "text"))[2]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--model", "nobody"], 7, "there is no model 'nobody'"),
        (["--organs", "hart"], 2, "unknown organ 'hart'"),
        (["--device", "cuda"], 2, "--device cuda"),
        (["--device", "tpu"], 2, "unknown device"),
        (["--engine", "torchscript"], 2, "torchscript"),
        (["--memory-cap", "10MB"], 5, "at least"),
        (["--memory-cap", "lots"], 2, "write it like 500MB"),
        (["--batch-size", "0"], 2, "at least 1"),
        (["--batch-size", "-3"], 2, "at least 1"),
        (["--threads", "0"], 2, "at least 1"),
        (["--threads", "1000000"], 2, "at most 1024"),
        (["--threads", "none"], 2, "whole number"),
        (["--organs", ","], 2, "names no one"),
        (["--nonsense"], 2, "unrecognized"),
    ],
)
def test_bad_options(predict, tmp_path, args, code, words):
    got, out, err = predict(*args)
    assert got == code
    assert out == ""
    assert words in err
    assert not (tmp_path / "labels.nii.gz").exists()


def test_an_existing_output_is_kept_unless_told(predict, tmp_path):
    out = tmp_path / "labels.nii.gz"
    out.write_bytes(b"precious")
    code, _, err = predict()
    assert code == 8
    assert "--overwrite" in err
    assert out.read_bytes() == b"precious"
    assert predict("--overwrite")[0] == 0
    assert out.read_bytes() != b"precious"


def test_an_existing_sidecar_is_kept_unless_told(predict, tmp_path):
    (tmp_path / "labels.json").write_text("{}")
    assert predict()[0] == 8
    assert (tmp_path / "labels.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("labels.png", 2, "unknown suffix"),
        ("labels.nii.gz.txt", 2, "unknown suffix"),
        ("nowhere/labels.nii.gz", 8, "no such folder"),
        ("scan.nii.gz", 8, "the input itself"),
    ],
)
def test_bad_outputs(predict, tmp_path, name, code, words):
    got, _, err = predict("--overwrite", out=tmp_path / name)
    assert got == code
    assert words in err


def test_a_folder_as_output(predict, tmp_path):
    (tmp_path / "labels.nii").mkdir()
    assert predict(out=tmp_path / "labels.nii")[0] == 8


def test_an_unwritable_folder(scan, tiny_bundle, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere; run as another user to test it")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    command = [*SEGMATE, "predict", str(scan), "-o", str(locked / "l.nii.gz")]
    assert subprocess.run([*command, "--model", str(tiny_bundle)], check=False).returncode == 8


def test_a_full_disk_leaves_nothing(tiny_bundle, tmp_path):
    noisy = make("SPL", spacing=(2.0, 2.0, 2.0), shape=(40, 64, 64))
    rng = np.random.default_rng(0)
    hu = rng.choice([-1000, 100], noisy.shape).astype(np.int16)
    scan = save_nifti(tmp_path / "noisy.nii.gz", hu, noisy)
    out = tmp_path / "labels.nii"
    # A limit on the size of files stands in for a full disk: the write itself fails.
    command = (
        f"ulimit -f 40; exec {' '.join(SEGMATE)} predict {scan} -o {out} --model {tiny_bundle}"
    )
    script = f"trap '' XFSZ; {command}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 8
    assert "cannot be written" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["noisy.nii.gz"]


def test_a_wrong_hash_stops_before_the_scan_is_read(run, tmp_path):
    folder = write_bundle(tmp_path / "tampered")
    with (folder / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    code, _, err = run(
        "predict", tmp_path / "none.nii.gz", "-o", tmp_path / "l.nii.gz", "--model", folder
    )
    assert code == 7
    assert "sha256" in err
    assert run("models", "verify", folder)[0] == 7


def test_no_engine_installed_is_told(predict, monkeypatch):
    from segmate_cli import engines

    monkeypatch.setattr(engines, "has_package", lambda package: False)
    code, _, err = predict()
    assert code == 2
    assert "pip install 'segmate-cli[cpu]'" in err


def test_a_bug_is_called_a_bug(predict, monkeypatch):
    from segmate_cli import segmenter

    monkeypatch.setattr(segmenter, "decide", lambda *_: 1 / 0)
    code, out, err = predict("--quiet")
    assert (code, out) == (1, "")
    assert "this is a bug in segmate (ZeroDivisionError)" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_leaves_nothing(tmp_path, sent, code):
    geometry = make("SPL", spacing=(0.2, 1.0, 1.0), shape=(1500, 200, 200))
    hu = np.full(geometry.shape, -1000, np.int16)
    hu[:, 50:150, 50:150] = 40
    scan = save_nifti(tmp_path / "long.nii", hu, geometry)
    folder = write_bundle(
        tmp_path / "fine",
        threshold_network(),
        preprocessing__grid={"spacing_mm": [0.2, 0.5, 0.5], "directions": ["S", "P", "L"]},
        preprocessing__neighbours_mm=[-0.2, 0.0, 0.2],
    )
    before = set(tmp_path.iterdir())
    out = tmp_path / "labels.nii.gz"
    command = [*SEGMATE, "predict", str(scan), "-o", str(out), "--model", str(folder)]
    process = subprocess.Popen(
        [*command, "--progress", "json"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A shell's background jobs ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stderr:
        if '"segment"' in line:
            break
    process.send_signal(sent)
    assert process.wait(timeout=20) == code
    process.stderr.close()
    time.sleep(0.1)
    assert set(tmp_path.iterdir()) == before


def test_the_engine_reports_to_nobody(scan, tiny_bundle, tmp_path):
    """ONNX Runtime's telemetry keeps an id in the temporary folder from its import on."""
    told = {"CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "TF_BUILD", "GITHUB_ACTIONS"}
    quiet = {key: value for key, value in os.environ.items() if key not in told}
    folder = tmp_path / "temporary"
    folder.mkdir()
    command = [sys.executable, "-m", "segmate_cli", "predict", str(scan), "--quiet"]
    command += ["-o", str(tmp_path / "l.nii.gz"), "--model", str(tiny_bundle), "--no-gate-exit"]
    subprocess.run(command, env={**quiet, "TMPDIR": str(folder)}, check=True)
    assert [*folder.iterdir()] == []


def test_the_main_job_opens_no_socket(scan, tiny_bundle, tmp_path):
    script = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise SystemExit('a socket was opened')\n"
        "socket.socket.__init__ = refuse\n"
        "from segmate_cli.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    out = tmp_path / "labels.nii.gz"
    command = [sys.executable, "-c", script, "predict", str(scan), "-o", str(out)]
    done = subprocess.run(
        [*command, "--model", str(tiny_bundle)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr


def test_a_stdout_that_takes_no_more_is_exit_8(predict, scan, tiny_bundle, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full, a device of Linux")
    out = tmp_path / "full.nii.gz"
    command = [*SEGMATE, "predict", str(scan), "-o", str(out), "--model", str(tiny_bundle)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 8
    assert "stdout takes no more" in done.stderr


def test_a_name_too_long_for_the_system_is_bad_input(run):
    assert run("report", "x" * 300 + ".nii.gz")[0] == 6
    assert run("inspect", "x" * 300)[0] == 6


def test_no_map_without_its_sidecar(predict, tmp_path, monkeypatch):
    from segmate_cli import sidecar
    from segmate_cli.errors import OutputError

    def fail(*args: object) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(sidecar, "write", fail)
    assert predict()[0] == 8
    assert not (tmp_path / "labels.nii.gz").exists()
