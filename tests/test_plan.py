"""The plan: one for ``predict`` and ``segmate plan``, from the header alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ball_scan, write_bundle
from dicom_maker import Recipe, make_series
from hypothesis import given, settings
from hypothesis import strategies as st

from segmate_cli import memory, plan
from segmate_cli.bundle import open_bundle
from segmate_cli.engines import load_model
from segmate_cli.errors import MemoryCapError, UsageError
from segmate_cli.geometry import Geometry
from segmate_cli.memory import Cap
from segmate_cli.scans import find_scan
from segmate_cli.volume import Scan

NO_CAP = Cap(None, "none")


def unread(shape: tuple[int, int, int], spacing_mm: float = 2.0) -> Scan:
    """A scan whose voxels must not be looked at."""

    def fail() -> None:
        raise AssertionError("the plan read voxels")

    return Scan(Geometry(np.diag([spacing_mm] * 3 + [1.0])[[2, 1, 0, 3]], shape), fail)


@pytest.fixture(scope="module")
def default():
    return open_bundle()


@given(st.integers(1, 3000), st.integers(1, 1024), st.sampled_from([1, 2, 3, None]))
@settings(deadline=None, max_examples=30)
def test_the_least_cap_is_the_least_that_is_taken(default, slices, side, batch_size):
    scan = unread((slices, side, side), 0.8)
    least = plan.make_plan(scan, default, NO_CAP, batch_size=batch_size).least_cap_bytes
    made = plan.make_plan(scan, default, Cap(least, "test"), batch_size=batch_size)
    assert made.expected_peak_bytes <= least
    assert made.batch_size <= (batch_size or slices)
    with pytest.raises(MemoryCapError) as caught:
        plan.make_plan(scan, default, Cap(least - 1, "test"), batch_size=batch_size)
    assert f"at least {memory.human(least)} is needed" in str(caught.value)


def test_more_room_takes_a_larger_batch_up_to_what_is_useful(default):
    scan = unread((100, 256, 256))
    one = plan.make_plan(scan, default, NO_CAP, batch_size=1)
    tight = plan.make_plan(scan, default, Cap(one.least_cap_bytes, "test"))
    roomy = plan.make_plan(scan, default, NO_CAP)
    assert tight.batch_size == 1 < roomy.batch_size
    assert roomy.expected_peak_bytes > tight.expected_peak_bytes
    assert roomy.least_cap_bytes == tight.least_cap_bytes


def test_a_loaded_model_counts_with_what_the_process_holds(tiny_bundle):
    model = load_model(open_bundle(tiny_bundle), threads=3)
    made = plan.make_plan(unread((10, 20, 20)), model, NO_CAP)
    assert made.expected_peak_bytes > memory.resident_bytes() > 0
    assert made.threads == 3


def test_a_batch_size_of_nothing_is_refused(default):
    with pytest.raises(UsageError, match="batch-size 0"):
        plan.make_plan(unread((1, 1, 1)), default, NO_CAP, batch_size=0)


def test_a_cap_that_does_not_hold_the_network_is_known_before_it_is_loaded(run, tmp_path, scan):
    folder = write_bundle(tmp_path / "large", network__parameters=10**9)
    assert not plan.fits_to_load(open_bundle(folder), Cap(10**9, "test"))
    (folder / "model.onnx").unlink()  # whoever tried to load it would fail by another code
    code, _, err = run("plan", scan, "--model", folder, "--memory-cap", "1GB")
    assert code == 5
    assert "at least" in err


@pytest.fixture
def scan(tmp_path):
    return ball_scan(tmp_path / "scan.nii.gz")


def test_plan_prints_what_predict_then_does(run, tiny_bundle, tmp_path, scan):
    options = ("--model", tiny_bundle, "--memory-cap", "30GB", "--threads", 1, "--batch-size", 3)
    code, out, _ = run("plan", scan, *options, "--format", "json")
    printed = json.loads(out)
    assert code == 0
    assert run("predict", scan, "-o", tmp_path / "labels.nii.gz", *options)[0] == 0
    sidecar = json.loads((tmp_path / "labels.json").read_text())
    assert sidecar["peak_memory_bytes"] > 0
    for name in ("batch_size", "threads", "device", "scan_shape_kji", "model_grid_shape"):
        assert sidecar["plan"][name] == printed[name]
    near = pytest.approx(printed["expected_peak_bytes"], rel=0.05)  # the process has run on
    assert sidecar["plan"]["expected_peak_bytes"] == near


def test_plan_as_a_table_adds_up(run, tiny_bundle, scan):
    code, out, _ = run("plan", scan, "--model", tiny_bundle)
    assert code == 0
    assert "24 x 24 x 24" in out
    sums = [float(line.split()[-1]) for line in out.splitlines() if "together" in line]
    (peak,) = (line.split()[-2] for line in out.splitlines() if line.startswith("expected peak"))
    assert int(peak) - 1 <= max(sums) <= int(peak)


@pytest.mark.parametrize(
    ("cap", "code", "words"),
    [("1MB", 5, "at least"), ("lots", 2, "write it like 500MB"), ("0GB", 2, "500MB")],
)
def test_caps_that_are_refused(run, tiny_bundle, scan, cap, code, words):
    got, out, err = run("plan", scan, "--model", tiny_bundle, "--memory-cap", cap)
    assert (got, out) == (code, "")
    assert err.count("\n") == 1
    assert words in err


def test_a_cap_above_the_machines_memory_says_so(run, tiny_bundle, scan):
    code, _, err = run("plan", scan, "--model", tiny_bundle, "--memory-cap", "900TB")
    assert code == 0
    assert "counts instead of the memory cap of 900000.0 GB" in err


@pytest.mark.parametrize(
    ("syntax", "least_mb"),
    [("1.2.840.10008.1.2.1", 0), ("1.2.840.10008.1.2.4.80", 50), ("1.2.840.10008.1.2.4.90", 70)],
    ids=["uncompressed", "JPEG-LS", "JPEG 2000"],
)
def test_processes_that_decode_are_planned(tmp_path, default, syntax, least_mb):
    folder = tmp_path / "series"
    make_series(folder, Recipe(syntax=syntax, shape=(4, 64, 64)))
    made = plan.make_plan(find_scan(folder), default, NO_CAP)
    held = {
        stage.name: sum(
            b.size_bytes + b.spare_bytes  # what a cap holds
            for b in stage.buffers
            if b.name == "processes that decode"
        )
        for stage in made.stages
    }
    assert held["segment"] == held["load model"] >= least_mb * 10**6
    assert (held["segment"] > 0) == (least_mb > 0)
    assert held["clean up"] == held["write"] == 0  # they have ended


def test_a_cap_holds_for_more_slices_in_the_network_than_are_expected_to_peak_at_once(default):
    scan = unread((100, 256, 256))
    grow = [
        plan.make_plan(scan, default, NO_CAP, batch_size=n, threads=n).expected_peak_bytes
        for n in (1, 2, 3)
    ]
    least = [
        plan.make_plan(scan, default, NO_CAP, batch_size=n, threads=n).least_cap_bytes
        for n in (1, 2, 3)
    ]
    assert grow[2] - grow[1] < grow[1] - grow[0]
    assert least[2] - least[1] == pytest.approx(least[1] - least[0], rel=0.05)
