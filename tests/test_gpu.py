"""A GPU's memory under a cap, on providers and a torch that only say that there is one."""

from __future__ import annotations

import dataclasses
import json
import types

import numpy as np
import onnxruntime
import pytest
from conftest import ball_scan, write_bundle
from test_engines import FakeSession, fake_providers

from segmate_cli import engines, gpu
from segmate_cli.bundle import open_bundle
from segmate_cli.engines import load_model
from segmate_cli.errors import MemoryCapError
from segmate_cli.geometry import Geometry
from segmate_cli.memory import Cap
from segmate_cli.pipeline import PredictOptions, predict
from segmate_cli.plan import make_plan
from segmate_cli.volume import Volume

MB = 10**6
NO_CAP = Cap(None, "none")


class CrampedSession(FakeSession):
    """Runs the first neighbour through, and has no room for more than two slices at once."""

    calls: list[int] = []  # noqa: RUF012 - one list for all, as FakeSession has

    def run(self, names, feed):
        slices = feed["slices"]
        CrampedSession.calls.append(len(slices))
        if len(slices) > 2:
            # The words of onnxruntime 1.20 with gpu_mem_limit.
            raise RuntimeError(
                "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Available memory of 0 is "
                "smaller than requested bytes of 1048576"
            )
        return [slices[:, 1:2]]


@pytest.fixture
def on_cuda(monkeypatch):
    """Pretend that CUDA starts, with a session of our own."""

    def call(session=FakeSession):
        fake_providers(monkeypatch)
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)

    return call


def volume() -> Volume:
    hu = np.full((9, 16, 16), -1000, np.int16)
    hu[3:6, 4:9, 4:9] = 100
    return Volume(hu, Geometry(np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]], hu.shape))


def test_a_cap_goes_to_onnx_runtimes_arena():
    assert gpu.onnx_providers("cpu", 295 * MB) == ["CPUExecutionProvider"]
    ((provider, options),) = gpu.onnx_providers("cuda:2", 295 * MB)
    assert provider == "CUDAExecutionProvider"
    assert options["device_id"] == "2"
    assert options["gpu_mem_limit"] == "295000000"
    assert options["cudnn_conv_use_max_workspace"] == "0"
    # ONNX Runtime refuses a provider option whose value is no text.
    assert all(isinstance(value, str) for value in options.values())


def test_without_a_cap_no_search_takes_all_the_memory():
    ((_, options),) = gpu.onnx_providers("cuda:0")
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert "gpu_mem_limit" not in options


def fake_torch(asked: list) -> types.SimpleNamespace:
    cuda = types.SimpleNamespace(
        get_device_properties=lambda number: types.SimpleNamespace(total_memory=1600 * MB),
        set_per_process_memory_fraction=lambda part, number: asked.append((part, number)),
    )
    cudnn = types.SimpleNamespace(allow_tf32=True)
    return types.SimpleNamespace(cuda=cuda, backends=types.SimpleNamespace(cudnn=cudnn))


@pytest.mark.parametrize(
    ("device", "cap", "want"),
    [
        *(("cuda:1", 400 * MB, [(0.25, 1)]), ("cuda:0", 10**12, [(1.0, 0)])),
        *(("cpu", MB, []), ("cuda:0", None, [])),
    ],
)
def test_a_cap_goes_to_torchs_allocator(device, cap, want):
    asked = []
    gpu.prepare_torch(fake_torch(asked), device, cap)
    assert asked == want


@pytest.mark.parametrize(("device", "rounds"), [("cuda:0", False), ("cpu", True)])
def test_no_engine_rounds_what_it_multiplies_on_a_gpu(device, rounds):
    torch = fake_torch([])
    gpu.prepare_torch(torch, device, None)
    assert torch.backends.cudnn.allow_tf32 is rounds
    ((_, options),) = gpu.onnx_providers("cuda:0")
    assert options["use_tf32"] == "0"


def test_cuda_in_python_packages_is_loaded_first_and_in_silence(
    tiny_bundle, on_cuda, monkeypatch, capsys
):
    asked = []

    def preload_dlls():
        asked.append("preload")
        print("Failed to load libcudnn.so.9")  # as onnxruntime 1.31 does where it is not

    on_cuda()
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload_dlls, raising=False)
    load_model(open_bundle(tiny_bundle), device="cpu")
    assert asked == []
    load_model(open_bundle(tiny_bundle))
    assert asked == ["preload"]
    assert capsys.readouterr().out == ""


def test_an_onnx_runtime_that_cannot_preload_does_without(tiny_bundle, on_cuda, monkeypatch):
    on_cuda()
    monkeypatch.delattr(onnxruntime, "preload_dlls", raising=False)
    assert load_model(open_bundle(tiny_bundle)).device == "cuda:0"


def test_the_cap_reaches_the_session(tiny_bundle, on_cuda):
    on_cuda()
    engines.start_loading(open_bundle(tiny_bundle), gpu_memory_cap_bytes=7 * MB).loaded()
    ((_, options),) = FakeSession.asked
    assert options["gpu_mem_limit"] == "7000000"


@pytest.mark.parametrize(("cap_mb", "batch"), [(None, 9), (1000, 9), (3.5, 3), (1.1, 1)])
def test_the_batch_is_the_largest_that_the_gpu_holds(tmp_path, on_cuda, cap_mb, batch):
    on_cuda()
    # 16 x 16 pixels make 1 MB a slice.
    folder = write_bundle(tmp_path / "b", network__bytes_per_pixel=MB // 256)
    model = load_model(open_bundle(folder))
    assert model.device == "cuda:0"
    cap = None if cap_mb is None else int(cap_mb * MB)
    made = make_plan(volume().as_scan(), model, NO_CAP, gpu_cap_bytes=cap)
    assert made.batch_size == batch


def test_a_cap_that_holds_no_slice_is_refused_with_the_least_that_does(tmp_path, on_cuda):
    on_cuda()
    changes = {"network__bytes_per_pixel": MB // 256, "network__parameters": MB}
    model = load_model(open_bundle(write_bundle(tmp_path / "b", **changes)))
    with pytest.raises(MemoryCapError, match="at least 5 MB is needed for one slice"):
        make_plan(volume().as_scan(), model, NO_CAP, gpu_cap_bytes=4 * MB)


def test_on_the_cpu_the_cap_of_a_gpu_does_not_count(run, tiny_bundle, tmp_path):
    scan = ball_scan(tmp_path / "scan.nii.gz")
    out = tmp_path / "labels.nii.gz"
    options = ("--model", tiny_bundle, "--device", "cpu", "--gpu-memory-cap", "1MB")
    assert run("predict", scan, "-o", out, *options)[0] == 0
    sidecar = json.loads((tmp_path / "labels.json").read_text())
    assert sidecar["options"]["gpu_memory_cap_bytes"] == MB


def test_a_gpu_that_runs_out_halves_the_batch_and_changes_no_voxel(tiny_bundle, on_cuda):
    want = predict(volume(), tiny_bundle, PredictOptions(device="cpu")).values
    on_cuda(CrampedSession)
    CrampedSession.calls.clear()
    model = load_model(open_bundle(tiny_bundle))
    halving = dataclasses.replace(model, workers=1)
    got = predict(volume(), halving, PredictOptions(batch_size=8))
    assert got.run["device"] == "cuda:0"
    assert CrampedSession.calls[1:] == [8, 4, 2, 2, 2, 2, 1]
    assert np.array_equal(got.values == 1, want == 1)


@pytest.mark.parametrize("text", ["lots", "-1MB", "0"])
def test_nonsense_is_wrong_usage(run, tiny_bundle, tmp_path, text):
    scan = ball_scan(tmp_path / "scan.nii.gz")
    code, _, err = run("plan", scan, "--model", tiny_bundle, f"--gpu-memory-cap={text}")
    assert code == 2
    assert "write it like 500MB" in err
