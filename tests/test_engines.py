"""Engines: what is chosen, what is refused, and that nothing outside the bundle is ever read."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import threshold_network, write_bundle

from segmate_cli import engines, runners, sessions
from segmate_cli.bundle import open_bundle
from segmate_cli.engines import load_model
from segmate_cli.errors import EngineMissingError, MemoryCapError, ModelError, UsageError

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, of segmate-cli[cpu]")
# Not find_spec: the folder tests/torch would be found.
TORCH_IS_HERE = sessions.has_package("torch")


def network(
    *,
    inputs: tuple[tuple[str, int, list[Any]], ...] = (("slices", 1, ["n", 3, "h", "w"]),),
    output: str = "logits",
    channels: int = 1,
    nodes: list[Any] | None = None,
) -> bytes:
    """A 1 x 1 convolution of the first input, with names, types and shapes as a test wants."""
    from onnx import helper, numpy_helper

    weight = np.ones((channels, 3, 1, 1), np.float16 if inputs[0][1] == 10 else np.float32)
    graph = helper.make_graph(
        nodes or [helper.make_node("Conv", [inputs[0][0], "weight"], [output])],
        "odd",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(output, inputs[0][1], None)],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    length, coded = len(content), b""
    while length > 127:
        coded += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + coded + bytes([length]) + content


def external_network(location: str, *, value_first: bool) -> bytes:
    """A network whose weights lie in a file beside it, written byte by byte."""
    from onnx import TensorProto, helper

    weight = TensorProto(name="weight", data_type=1, dims=[1, 3, 1, 1], data_location=1)
    plain = weight.SerializeToString()
    key, value = field(1, b"location"), field(2, location.encode())
    outside = plain + field(13, value + key if value_first else key + value)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["slices", "weight"], ["logits"])],
        "outside",
        [helper.make_tensor_value_info("slices", 1, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("logits", 1, ["n", 1, "h", "w"])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inner = graph.SerializeToString()
    assert inner.count(field(5, plain)) == 1
    inner = inner.replace(field(5, plain), field(5, outside))
    model.ClearField("graph")
    return bytes(model.SerializeToString()) + field(7, inner)


def with_files(folder: Path, *names: str) -> Path:
    """A bundle that lists a file for each of the engines named."""
    import hashlib

    data = threshold_network()
    digest = hashlib.sha256(data).hexdigest()
    files = [{"engine": n, "file": f"model.{n}", "sha256": digest} for n in names]
    write_bundle(folder, network__files=files)
    for name in names:
        (folder / f"model.{name}").write_bytes(data)
    return folder


def run_once(model: engines.LoadedModel, slices: np.ndarray) -> np.ndarray:
    return model.runner.run(np.asarray(slices, np.float32), None)


# --- what is chosen --------------------------------------------------------------------------


def test_the_tiny_network_computes_what_it_should(tiny_bundle):
    model = load_model(open_bundle(tiny_bundle), threads=1)
    slices = np.random.default_rng(0).normal(size=(3, 3, 5, 7))
    logits = run_once(model, slices)
    assert logits.dtype == np.float32
    assert np.allclose(logits[:, 0], 10 * slices[:, 1], atol=1e-5)
    assert (model.engine, model.device, model.threads) == ("onnx", "cpu", 1)
    assert model.runner.description.startswith("ONNX Runtime ")
    assert "on cpu, 1 threads" in model.runner.description


def test_batch_and_threads_change_no_number(tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    slices = np.random.default_rng(1).normal(size=(7, 3, 16, 24)).astype(np.float32)
    want = run_once(load_model(bundle, threads=1), slices)
    for threads in (1, 2, None):
        model = load_model(bundle, threads=threads)
        parts = [run_once(model, slices[n : n + 3]) for n in range(0, 7, 3)]
        assert np.array_equal(np.concatenate(parts), want)


def test_threads_default_to_what_this_process_may_use(tiny_bundle):
    assert load_model(open_bundle(tiny_bundle)).threads == sessions.usable_cpus() >= 1


def test_onnx_comes_before_the_torch_forms_whatever_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "has_package", lambda package: True)
    monkeypatch.setattr(engines, "cuda_reachable", lambda engine: False)
    bundle = open_bundle(with_files(tmp_path, "pt2", "torchscript", "onnx"))
    assert load_model(bundle).engine == "onnx"


@pytest.mark.parametrize(
    "device", ["tpu", "cuda:", "cuda:x", "cuda:-1", "cpu:1", "auto:0", "", "CPU"]
)
def test_an_unknown_device_is_refused(tiny_bundle, device):
    with pytest.raises(UsageError, match=r"unknown device .* use auto, cpu, cuda or cuda:N"):
        load_model(open_bundle(tiny_bundle), device=device)


def test_an_unknown_engine_is_refused(tiny_bundle):
    with pytest.raises(UsageError, match="unknown engine 'tensorrt'; use auto, onnx"):
        load_model(open_bundle(tiny_bundle), engine="tensorrt")


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_are_refused(tiny_bundle, threads):
    with pytest.raises(UsageError, match="at least 1"):
        load_model(open_bundle(tiny_bundle), threads=threads)


def test_an_engine_that_the_bundle_has_no_file_for(tiny_bundle, monkeypatch):
    for installed in (True, False):
        monkeypatch.setattr(engines, "has_package", lambda package, answer=installed: answer)
        # Not "install torch": that would not help.
        with pytest.raises(EngineMissingError, match="no network for torchscript, only for onnx"):
            load_model(open_bundle(tiny_bundle), engine="torchscript")


@pytest.mark.skipif(TORCH_IS_HERE, reason="torch is installed here")
@pytest.mark.parametrize("engine", ["torchscript", "pt2"])
def test_torch_asked_for_where_it_is_missing(tmp_path, engine):
    bundle = open_bundle(with_files(tmp_path, "onnx", engine))
    with pytest.raises(EngineMissingError, match=r"no engine for .*segmate-cli\[torch\]"):
        load_model(bundle, engine=engine)
    assert load_model(bundle).engine == "onnx"


def test_no_engine_at_all_names_each_remedy_once(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "has_package", lambda package: False)
    with pytest.raises(EngineMissingError) as caught:
        load_model(open_bundle(with_files(tmp_path, "pt2", "torchscript", "onnx")))
    assert str(caught.value).count("segmate-cli[torch]") == 1
    assert "segmate-cli[cpu]" in str(caught.value)
    assert engines.engines_installed() == {"onnx": False, "torchscript": False, "pt2": False}


def test_an_engine_that_is_installed_but_broken(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # import raises ImportError
    monkeypatch.setattr(engines, "has_package", lambda package: True)
    with pytest.raises(EngineMissingError, match="cannot be imported"):
        load_model(open_bundle(tiny_bundle), device="cpu")


def test_a_folder_with_an_engines_name_is_no_engine(tmp_path, monkeypatch):
    (tmp_path / "no_such_engine").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.util.find_spec("no_such_engine") is not None
    assert not sessions.has_package("no_such_engine")


# --- CUDA, asked for or found ----------------------------------------------------------------


def fake_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_cuda_asked_for_where_the_engine_has_none(tiny_bundle, monkeypatch, device):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineMissingError, match=f"--device {device}: no CUDA .*--device cpu"):
        load_model(open_bundle(tiny_bundle), device=device)


@pytest.mark.parametrize("device", ["cuda", "cuda:12"])
def test_cuda_asked_for_that_does_not_start_is_no_silent_cpu(
    tiny_bundle, monkeypatch, capsys, device
):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine may well have CUDA")
    fake_providers(monkeypatch)
    with pytest.raises(EngineMissingError, match="could not start CUDA"):
        load_model(open_bundle(tiny_bundle), device=device)
    assert capsys.readouterr().out == ""  # ONNX Runtime's own fallback prints there


def test_auto_takes_the_cpu_where_cuda_is_built_in_but_does_not_start(
    tiny_bundle, monkeypatch, capsys
):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine may well have CUDA")
    fake_providers(monkeypatch)
    model = load_model(open_bundle(tiny_bundle), device="auto")
    assert model.device == "cpu"
    assert "on cpu" in model.runner.description
    assert capsys.readouterr().out == ""


class FakeSession:
    """Stands in for a session that did start on CUDA, and remembers how it was asked for."""

    asked: Any = None

    def __init__(self, data: bytes, options: Any, providers: Any, **_: Any) -> None:
        FakeSession.asked = providers

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_inputs(self) -> list[Any]:
        return [types.SimpleNamespace(name="slices")]

    def get_outputs(self) -> list[Any]:
        return [types.SimpleNamespace(name="logits")]

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [feed["slices"][:, :1]]


@pytest.mark.parametrize(
    ("device", "where", "number"),
    [("auto", "cuda:0", "0"), ("cuda", "cuda:0", "0"), ("cuda:3", "cuda:3", "3")],
)
def test_cuda_is_taken_first_and_by_number(tiny_bundle, monkeypatch, device, where, number):
    fake_providers(monkeypatch)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    model = load_model(open_bundle(tiny_bundle), device=device)
    assert model.device == where
    ((provider, options),) = FakeSession.asked
    assert (provider, options["device_id"]) == ("CUDAExecutionProvider", number)
    assert "gpu_mem_limit" not in options
    model = load_model(open_bundle(tiny_bundle), device="cpu")
    assert (model.device, FakeSession.asked) == ("cpu", ["CPUExecutionProvider"])


# --- networks that do not fit ----------------------------------------------------------------


def transposed() -> list[Any]:
    from onnx import helper

    return [helper.make_node("Transpose", ["slices"], ["logits"], perm=[0, 1, 3, 2])]


def strings() -> list[Any]:
    from onnx import helper

    cast = helper.make_node("Cast", ["slices"], ["words"], to=8)
    return [cast, helper.make_node("SequenceConstruct", ["words"], ["logits"])]


UNFIT = {
    "other input name": (lambda: network(inputs=(("x", 1, ["n", 3, "h", "w"]),)), "takes .*'x'"),
    "a second input": (
        lambda: network(inputs=(("slices", 1, ["n", 3, "h", "w"]), ("more", 1, ["n"]))),
        "'more', 'slices'",
    ),
    "other output name": (lambda: network(output="y"), "gives .*'y'"),
    "too many channels": (lambda: network(channels=2), r"gives \(2, 2, .* says \(2, 1"),
    "five slices": (lambda: threshold_network(1, 5), "does not take"),
    "fixed batch": (lambda: network(inputs=(("slices", 1, [1, 3, "h", "w"]),)), "does not take"),
    "fixed size": (lambda: network(inputs=(("slices", 1, ["n", 3, 32, 32]),)), "does not take"),
    "half precision": (
        lambda: network(inputs=(("slices", 10, ["n", 3, "h", "w"]),)),
        "does not take",
    ),
    "rows for columns": (lambda: network(nodes=transposed()), "gives .* where its manifest says"),
    "no numbers": (lambda: network(nodes=strings()), "cannot load|does not take"),
    "no network": (lambda: b"not a network", "cannot load"),
    "empty": (lambda: b"", "cannot load"),
    "cut": (lambda: threshold_network()[:-20], "cannot load"),
    "unknown operator": (
        lambda: threshold_network().replace(b"Conv", b"Xonv"),
        "cannot load .*Xonv",
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_network_that_does_not_fit_is_a_model_error(tmp_path, kind):
    make, words = UNFIT[kind]
    bundle = open_bundle(write_bundle(tmp_path, make()))
    with pytest.raises(ModelError, match=words) as caught:
        load_model(bundle, threads=1)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_network_that_needs_a_position_gets_one_and_only_then(tmp_path):
    from onnx import helper

    film = network(
        inputs=(("slices", 1, ["n", 3, "h", "w"]), ("slice_position", 1, ["n"])),
        nodes=[
            helper.make_node("Conv", ["slices", "weight"], ["plain"]),
            helper.make_node("Reshape", ["slice_position", "shape"], ["at"]),
            helper.make_node("Add", ["plain", "at"], ["logits"]),
        ],
    )
    import onnx

    model = onnx.load_from_string(film)
    shape = onnx.numpy_helper.from_array(np.array([-1, 1, 1, 1]), "shape")
    model.graph.initializer.append(shape)
    data = model.SerializeToString()
    with pytest.raises(ModelError, match=r"needs \['slices'\]"):
        load_model(open_bundle(write_bundle(tmp_path / "no", data)))
    takes = write_bundle(tmp_path / "yes", data, network__takes_slice_position=True)
    loaded = load_model(open_bundle(takes), threads=1)
    slices = np.zeros((2, 3, 4, 4), np.float32)
    logits = loaded.runner.run(slices, np.array([-1.0, 0.25], np.float32))
    assert logits[:, 0, 0, 0].tolist() == [-1.0, 0.25]


def test_a_batch_that_the_engine_refuses_is_a_model_error(tiny_bundle):
    model = load_model(open_bundle(tiny_bundle))
    with pytest.raises(ModelError, match="the engine failed"):
        run_once(model, np.zeros((1, 2, 8, 8)))


def test_an_engine_that_runs_out_of_memory_says_so(tiny_bundle):
    class Greedy:
        def run(self, *_: Any) -> None:
            raise RuntimeError("Failed to allocate memory\nfor requested buffer of size 9")

    runner = runners.OnnxRunner(Greedy(), "greedy")
    with pytest.raises(MemoryCapError, match="smaller --batch-size"):
        runner.run(np.zeros((1, 3, 8, 8), np.float32), None)


def test_numbers_that_are_none_come_out_as_they_are(tmp_path):
    # Whether a result may be used is the pipeline's question; the engine must not hide it.
    data = threshold_network().replace(np.float32(10.0).tobytes(), np.float32(np.nan).tobytes())
    model = load_model(open_bundle(write_bundle(tmp_path, data)))
    assert np.isnan(run_once(model, np.ones((1, 3, 8, 8)))).all()


def test_a_changed_network_is_never_handed_to_the_engine(tmp_path, monkeypatch):
    folder = write_bundle(tmp_path)
    (folder / "model.onnx").write_bytes(threshold_network(2))
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    with pytest.raises(ModelError, match="sha256"):
        load_model(open_bundle(folder))


# --- weights outside the file ----------------------------------------------------------------


@pytest.fixture
def lure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that holds the very weights which a network asks for."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    np.ones((1, 3, 1, 1), np.float32).tofile(folder / "weights.bin")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("value_first", [False, True])
@pytest.mark.parametrize("place", ["weights.bin", "./weights.bin", "absolute"])
def test_external_data_is_refused(lure, tmp_path, place, value_first):
    location = str(lure / "weights.bin") if place == "absolute" else place
    bundle = open_bundle(
        write_bundle(tmp_path / "b", external_network(location, value_first=value_first))
    )
    with pytest.raises(ModelError, match="weights outside itself"):
        load_model(bundle)


def test_the_crafted_file_is_one_that_onnx_would_read(lure, tmp_path):
    import onnx

    (lure / "model.onnx").write_bytes(external_network("weights.bin", value_first=True))
    model = onnx.load(lure / "model.onnx")
    assert onnx.numpy_helper.to_array(model.graph.initializer[0]).ravel().tolist() == [1.0] * 3


@pytest.mark.parametrize("value_first", [False, True])
def test_external_data_is_refused_by_the_runtime_too(lure, tmp_path, monkeypatch, value_first):
    # The second lock, should a file be written so that the search for the key misses it.
    monkeypatch.setattr(sessions, "_has_external_data", lambda data: False)
    data = external_network("weights.bin", value_first=value_first)
    with pytest.raises(ModelError, match="cannot load"):
        load_model(open_bundle(write_bundle(tmp_path / "b", data)))


def test_a_loaded_model_is_a_value(tiny_bundle):
    model = load_model(open_bundle(tiny_bundle), threads=1)
    assert model.manifest.name == "tiny"
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.device = "cuda:0"
