"""The cap while a run goes on: batches that halve, runs that stop, nothing left behind."""

from __future__ import annotations

import dataclasses
import mmap
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ball_scan
from test_pipeline import scan_of_shape

from segmate_cli import memory
from segmate_cli.bundle import open_bundle
from segmate_cli.engines import load_model
from segmate_cli.errors import MemoryCapError
from segmate_cli.flow import spread
from segmate_cli.guard import Batches, MemoryGuard
from segmate_cli.memory import Cap
from segmate_cli.pipeline import PredictOptions, predict

MB = 10**6
NO_CAP = Cap(None, "none")


class FakeRunner:
    """Takes so many slices at once and no more; the logits are the slices' first neighbour."""

    description = "fake"

    def __init__(self, most: int) -> None:
        self.most = most
        self.calls: list[int] = []

    def run(self, slices: np.ndarray, positions: np.ndarray | None) -> np.ndarray:
        self.calls.append(len(slices))
        if len(slices) > self.most:
            raise MemoryCapError("the engine ran out of memory")
        assert positions is None or len(positions) == len(slices)
        return slices[:, :1]


def run_all(batches: Batches, runner: FakeRunner, slices: np.ndarray) -> np.ndarray:
    positions = np.arange(len(slices), dtype=np.float32)
    return np.concatenate(list(batches.run(runner, slices, positions)))


SLICES = np.arange(8 * 3 * 4, dtype=np.float32).reshape(8, 3, 2, 2)


@pytest.mark.parametrize(("most", "calls"), [(8, [8]), (4, [8, 4, 4]), (1, [8, 4, 2, *[1] * 8])])
def test_an_engine_out_of_memory_halves_the_batch_and_goes_on(most, calls):
    runner, batches = FakeRunner(most), Batches(8, MemoryGuard(NO_CAP))
    assert np.array_equal(run_all(batches, runner, SLICES), SLICES[:, :1])
    assert runner.calls == calls
    assert batches.size == most  # and stays there


def test_an_engine_that_cannot_take_one_slice_ends_the_run():
    with pytest.raises(MemoryCapError, match="ran out"):
        run_all(Batches(2, MemoryGuard(NO_CAP)), FakeRunner(0), SLICES)


def test_a_halved_batch_changes_no_voxel(tiny_bundle):
    volume, _ = scan_of_shape("SPL", (2.0, 2.0, 2.0))
    model = load_model(open_bundle(tiny_bundle), threads=1)

    class Tight:
        description = "tight"

        def run(self, slices, positions):
            if len(slices) > 2:
                raise MemoryCapError("the engine ran out of memory")
            return model.runner.run(slices, positions)

    tight = dataclasses.replace(model, runner=Tight())
    want = predict(volume, model).values
    found = predict(volume, tight, PredictOptions(batch_size=16))
    assert np.array_equal(found.values, want)


def test_threads_together_stay_within_the_size():
    at_once: list[int] = []
    most = 3
    lock = threading.Lock()

    class Crowded:
        description = "crowded"

        def run(self, slices, positions):
            with lock:
                at_once.append(len(slices))
                inside = sum(at_once)
            time.sleep(0.02)
            with lock:
                at_once.remove(len(slices))
            if inside > most:
                raise MemoryCapError("the engine ran out of memory")
            return slices[:, :1]

    batches = Batches(8, MemoryGuard(NO_CAP))
    found = spread(lambda n: run_all(batches, Crowded(), SLICES[n : n + 1]), range(8), 8)
    assert np.array_equal(np.concatenate(list(found)), SLICES[:, :1])
    assert batches.size <= 4


def wait_for(condition, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False


def stops(guard: MemoryGuard) -> bool:
    try:
        guard.checkpoint()
    except MemoryCapError:
        return True
    return False


def fill(held: mmap.mmap, total_bytes: int) -> None:
    """Write until the process and its children hold this much."""
    while memory.total_bytes() < total_bytes:
        held.write(b"x" * 100_000)


def test_a_run_that_comes_up_to_its_cap_saves_and_then_stops():
    # Children count, too: the tracker of a pool that an earlier test left, say.
    cap = memory.total_bytes() + 60 * MB
    if cap == 60 * MB:
        pytest.skip("this system does not say how much a process holds")
    with MemoryGuard(Cap(cap, "test"), interval_s=0.005) as guard:
        time.sleep(0.05)
        assert not guard.must_save()
        guard.checkpoint()
        # Mapped anew: an array could take pages that earlier tests left to the allocator.
        with mmap.mmap(-1, 400 * MB) as held:
            fill(held, int(0.98 * cap))
            assert wait_for(guard.must_save)
            assert not stops(guard)
            # What the allocator kept is given back first, so that takes more than one filling.
            assert wait_for(lambda: fill(held, cap) or stops(guard))
        with pytest.raises(MemoryCapError, match=r"came up to its memory cap of .* MB \(test\)"):
            guard.checkpoint()


def test_a_pressed_run_goes_on_with_half_the_batch():
    guard = MemoryGuard(Cap(10**15, "test"))
    guard._pressed.set()
    runner, batches = FakeRunner(8), Batches(8, guard)
    run_all(batches, runner, SLICES)
    assert batches.size == 4


def test_children_count(monkeypatch):
    if not memory.resident_bytes():
        pytest.skip("this system does not say how much a process holds")
    script = "x = b'x' * 80_000_000; print(flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        child.stdout.readline()
        assert memory.total_bytes() > memory.resident_bytes() + 80 * MB
        assert memory.peak_bytes() > memory.resident_bytes() + 80 * MB
    finally:
        child.communicate(b"\n", timeout=10)


@pytest.mark.parametrize(("free_mb", "saves", "ends"), [(500, 0, 0), (100, 1, 0), (20, 1, 1)])
def test_another_process_that_eats_memory(monkeypatch, free_mb, saves, ends):
    monkeypatch.setattr(memory, "available_bytes", lambda: free_mb * MB)
    with MemoryGuard(Cap(10**13, "test"), interval_s=0.005) as guard:
        time.sleep(0.1)
        assert guard.must_save() == bool(saves)
        assert stops(guard) == bool(ends)
        if ends:
            with pytest.raises(MemoryCapError, match="other programs have left only 20 MB"):
                guard.checkpoint()


def test_a_process_alone_in_a_small_cgroup_is_not_pressed(monkeypatch):
    # What the cgroup leaves free is all this run's own: nobody else took anything.
    room = 20 * MB
    monkeypatch.setattr(memory, "available_bytes", lambda: room)
    monkeypatch.setattr(memory, "total_bytes", lambda: 500 * MB)
    with MemoryGuard(Cap(500 * MB + room, "test"), interval_s=0.005) as guard:
        time.sleep(0.1)
        assert not guard.must_save()
        assert not stops(guard)


GREEDY = """
import sys
import numpy as np
from segmate_cli import cli, clean_up, finishing
def greedy(*args):
    held = []
    while True:
        held.append(np.ones({mb} * 10**6, np.uint8))
        {checkpoint}
finishing.clean_up = greedy
sys.exit(cli.main(sys.argv[1:]))
"""


def test_what_would_go_through_the_roof_is_refused_by_the_system(tiny_bundle, tmp_path):
    scan = ball_scan(tmp_path / "scan.nii.gz")
    script = GREEDY.format(mb=1000, checkpoint="")
    command = [sys.executable, "-c", script, "predict", str(scan), "--model", str(tiny_bundle)]
    command += ["-o", str(tmp_path / "labels.nii.gz"), "--memory-cap", "600MB", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert done.stderr.startswith("segmate: error: the run came up to its memory cap of 600 MB")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]
