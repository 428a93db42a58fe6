"""The session that is begun before all else: only the one that a run will get, and unharmed."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from conftest import linear_network, threshold_network, write_bundle
from test_engines import external_network, fake_providers, with_files

from segmate_cli import sessions
from segmate_cli.bundle import open_bundle
from segmate_cli.engines import start_loading
from segmate_cli.errors import HashMismatchError, ModelError
from segmate_cli.memory import Cap
from segmate_cli.sessions import begin_early

NO_CAP = Cap(None, "none")


@pytest.fixture
def opened(monkeypatch):
    """Counts the sessions that are opened."""
    real, found = onnxruntime.InferenceSession, []

    def session(*args, **named):
        found.append(args[0])
        return real(*args, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return found


def test_the_session_that_was_begun_is_the_one_that_runs(tiny_bundle, opened):
    begun = begin_early(str(tiny_bundle), NO_CAP, threads=2)
    model = start_loading(open_bundle(tiny_bundle), threads=2, begun=begun).loaded()
    assert len(opened) == 1
    logits = model.runner.run(np.ones((1, 3, 8, 8), np.float32), None)
    assert logits.shape == (1, 1, 8, 8)


@pytest.mark.parametrize("other", [{"threads": 1}, {"threads": 2, "batch_size": 1}])
def test_one_for_other_options_is_not_taken(tiny_bundle, opened, other):
    begun = begin_early(str(tiny_bundle), NO_CAP, threads=2)
    start_loading(open_bundle(tiny_bundle), begun=begun, **other).loaded()
    assert len(opened) == 2


@pytest.mark.parametrize(
    "asked",
    [
        {"engine": "torchscript"},
        {"device": "cuda"},
        {"device": "cuda:1"},
        {"threads": 0},
        {"device": "nonsense"},
    ],
)
def test_none_is_begun_where_it_may_be_another(tiny_bundle, asked):
    assert begin_early(str(tiny_bundle), NO_CAP, **asked) is None


def test_none_is_begun_where_a_gpu_might_be_taken(tiny_bundle, monkeypatch):
    fake_providers(monkeypatch)
    assert begin_early(str(tiny_bundle), NO_CAP) is None
    assert begin_early(str(tiny_bundle), NO_CAP, device="cpu") is not None


def test_none_is_begun_where_another_engine_has_the_network_too(tmp_path):
    folder = with_files(tmp_path / "both", "onnx", "torchscript")
    assert begin_early(str(folder), NO_CAP) is None


def test_none_is_begun_over_the_cap(tiny_bundle):
    assert begin_early(str(tiny_bundle), Cap(80 * 10**6, "--memory-cap")) is None


@pytest.mark.parametrize(
    "manifest",
    [
        b"{",
        b"[]",
        b'{"network": {}}',
        b'{"network": {"files": [{"engine": "onnx"}]}}',
        b'{"network": {"files": [{"engine": "onnx", "file": "../secret", "sha256": "0"}]}}',
        b'{"network": {"files": [{"engine": "onnx", "file": 3, "sha256": "0"}]}}',
    ],
)
def test_a_manifest_that_names_none_is_left_to_others(tmp_path, manifest):
    folder = tmp_path / "odd"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(threshold_network())
    (folder / "manifest.json").write_bytes(manifest)
    assert begin_early(str(folder), NO_CAP) is None
    with pytest.raises(ModelError):
        open_bundle(folder)


def test_a_missing_model_is_left_to_others(tmp_path):
    assert begin_early(str(tmp_path / "none"), NO_CAP) is None


def test_a_changed_network_is_never_handed_to_the_engine(tmp_path, opened):
    folder = write_bundle(tmp_path / "b")
    (folder / "model.onnx").write_bytes(threshold_network(2))
    begun = begin_early(str(folder), NO_CAP)
    assert begun is not None
    with pytest.raises(HashMismatchError):
        start_loading(open_bundle(folder), begun=begun)
    assert opened == []


def test_external_data_is_refused_here_too(tmp_path, opened):
    folder = write_bundle(tmp_path / "b", external_network("weights.bin", value_first=False))
    begun = begin_early(str(folder), NO_CAP)
    with pytest.raises(ModelError, match="weights outside itself"):
        start_loading(open_bundle(folder), begun=begun).loaded()
    assert opened == []


def test_a_manifest_of_another_network_takes_its_own(tmp_path, opened):
    first = write_bundle(tmp_path / "a")
    second = write_bundle(tmp_path / "b", linear_network([(5.0, 0.0)]))
    begun = begin_early(str(first), NO_CAP)
    start_loading(open_bundle(second), begun=begun).loaded()
    assert len(opened) == 2


def test_calls_share_out_the_threads():
    assert sessions.workers_for("onnx", "cpu", 4) == 4
    assert sessions.workers_for("onnx", "cpu", 4, batch_size=1) == 1
    assert sessions.workers_for("torchscript", "cpu", 4) == 1
