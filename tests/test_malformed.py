"""A few cases of `malformed.py` and `malformed_objects.py`; long runs are started by hand."""

from __future__ import annotations

import pytest
from conftest import write_bundle
from malformed import MUTATIONS, Bench, memory_mb


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("malformed")
    return Bench(folder, write_bundle(folder / "model"))


@pytest.mark.parametrize(("packed", "count"), [(False, 100), (True, 6)], ids=["plain", "packed"])
def test_damaged_series_end_in_one_sentence_or_a_right_result(bench, packed, count):
    before, _ = memory_mb()
    seen = [bench.run(seed, packed=packed) for seed in range(count)]
    faults = [(seed, outcome) for seed, (_, outcome, _) in enumerate(seen) if "FAULT" in outcome]
    assert faults == []
    if not packed:
        assert {outcome for _, outcome, _ in seen} >= {"exit 0", "exit 6"}
        assert {mutation for mutation, _, _ in seen} == {each.__name__ for each in MUTATIONS}
    assert memory_mb()[0] - before < 300


def test_damaged_objects_end_in_one_sentence_or_a_report(tmp_path):
    pytest.importorskip("highdicom", reason="needs highdicom: pip install 'segmate-cli[dicom]'")
    from malformed_objects import ObjectBench

    bench = ObjectBench(tmp_path)
    seen = [(seed, *each) for seed in range(40) for each in bench.run(seed)]
    assert [each for each in seen if "FAULT" in each[2]] == []
    assert {each[2] for each in seen} >= {"exit 0", "exit 3", "exit 6"}


def test_the_bench_sees_what_is_wrong(bench):
    assert "names" in (bench.fault(6, "", "segmate: error: ZzDoe is ill", 1.0) or "")
    assert "exit 1" in (bench.fault(1, "", "segmate: error: this is a bug", 1.0) or "")
    assert "took" in (bench.fault(0, "", "", 31.0) or "")
    assert "sentence" in (bench.fault(0, "", "RuntimeWarning: overflow", 1.0) or "")
    assert "sentence" in (bench.fault(6, "", "Traceback", 1.0) or "")
    made = next(iter(bench.made.values()))
    made.hu[2, 3, 3] += 1
    assert bench.wrong_result(made.folder, made, {0}) == "FAULT slice 2 has other values"
    made.hu[2, 3, 3] -= 1
