"""A few cases of `malformed.py` and `malformed_objects.py`; long runs are started by hand."""

from __future__ import annotations

import threading

import damage
import pytest
from conftest import write_bundle
from damage import Called, memory_mb
from malformed import MUTATIONS, Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("malformed")
    return Bench(folder, write_bundle(folder / "model"))


@pytest.mark.parametrize(("packed", "count"), [(False, 100), (True, 6)], ids=["plain", "packed"])
def test_damaged_series_end_in_one_sentence_or_a_right_result(bench, packed, count):
    before, _ = memory_mb()
    seen = [bench.one(seed, packed=packed) for seed in range(count)]
    assert [(seed, each) for seed, each in enumerate(seen) if "FAULT" in each.outcome] == []
    if not packed:
        assert {each.outcome for each in seen} >= {"exit 0", "exit 6"}
        assert {each.what for each in seen} == {each.__name__ for each in MUTATIONS}
    assert memory_mb()[0] - before < 300


def test_damaged_objects_end_in_one_sentence_or_a_report(tmp_path):
    pytest.importorskip("highdicom", reason="needs highdicom: pip install 'segmate-cli[dicom]'")
    from malformed_objects import ObjectBench

    bench = ObjectBench(tmp_path)
    seen = [(seed, each) for seed in range(40) for each in bench.run(seed)]
    assert [each for each in seen if "FAULT" in each[1].outcome] == []
    assert {each.outcome for _, each in seen} >= {"exit 0", "exit 3", "exit 6"}


def test_the_bench_sees_what_is_wrong(bench):
    def fault(*done):
        return bench.fault(Called(*done)) or ""

    assert "names" in fault(6, "", "segmate: error: ZzDoe is ill", 1.0)
    assert "exit 1" in fault(1, "", "segmate: error: this is a bug", 1.0)
    assert "exit 5" in fault(5, "", "segmate: error: memory ran out", 1.0)
    assert "took" in fault(0, "", "", 31.0)
    assert "sentence" in fault(0, "", "RuntimeWarning: overflow", 1.0)
    assert "sentence" in fault(6, "", "Traceback", 1.0)
    made = next(iter(bench.made.values()))
    made.hu[2, 3, 3] += 1
    assert bench.wrong_result(made.folder, made, {0}) == "FAULT slice 2 has other values"
    made.hu[2, 3, 3] -= 1


def test_a_command_that_waits_for_ever_is_ended(monkeypatch):
    monkeypatch.setattr(damage, "MOST_SECONDS", 0.2)
    monkeypatch.setattr(damage.cli, "main", lambda argv: wait_for_ever())
    done = damage.call([])
    assert done.code == -1
    assert "HangError" in done.err
    assert "took" in (damage.fault(done, {0}) or "")


def wait_for_ever():
    lock = threading.Lock()
    with lock:
        lock.acquire()
