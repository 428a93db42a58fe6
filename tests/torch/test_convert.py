"""Checkpoints become bundles whose files give what the published network gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from upstream import (
    NAMES,
    ROOT,
    STARTER,
    expected,
    needs_starter,
    needs_upstream,
    relative,
    write_checkpoint,
)

from segmate_cli import export
from segmate_cli.bundle import Bundle, Window, open_bundle
from segmate_cli.convert import PUBLISHED_ORGANS, convert_checkpoint
from segmate_cli.engines import load_model
from segmate_cli.errors import ManifestError, ModelError, OutputError, OutputExistsError, UsageError
from segmate_cli.network import NetworkConfig, build_network, network_from_checkpoint

RECIPE = ROOT / "weights" / "starter" / "recipe.json"
ENCODER = "mobilenetv3_small_050"


def run(bundle: Bundle, engine: str, hu: np.ndarray, position: np.ndarray | None) -> np.ndarray:
    """Logits of a bundle's file, its input made by nothing but the manifest."""
    w = bundle.manifest.preprocessing.window
    file = bundle.network_file(engine)
    assert bundle.read_network(file)
    clipped = np.clip(hu, w.low_hu, w.high_hu)
    slices = clipped * np.float32(w.scale) + np.float32(w.offset)
    takes = bundle.manifest.network.takes_slice_position
    opener = {
        "onnx": export.open_onnx,
        "torchscript": export.open_torchscript,
        "pt2": export.open_pt2,
    }[engine]
    return opener(bundle.location / file.file)(slices, position if takes else None)


def checkpoint(folder: Path, **options) -> Path:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(ENCODER, **{"organs": 9, **options}))
    torch.save(network.state_dict(), folder / "small.pth")
    return folder / "small.pth"


@needs_upstream
@pytest.mark.parametrize("name", NAMES)
def test_published_checkpoints_agree_after_conversion(name, tmp_path):
    # torch.export takes minutes with EfficientNet's padding; one encoder shows that it works.
    formats = ("onnx", "torchscript", *(("pt2",) if name == "fastvit_t8" else ()))
    path = write_checkpoint(name, tmp_path / f"{name}.pth")
    bundle = open_bundle(convert_checkpoint(path, tmp_path / "bundle", to=formats))
    wanted = expected(name)
    for engine in formats:
        found = run(bundle, engine, wanted["hu"], wanted["z_norm"])
        assert relative(found, wanted["segmentation"]) < 1e-3, engine
        assert bundle.network_file(engine).parity < 1e-3
    assert tuple(organ.key for organ in bundle.manifest.organs) == PUBLISHED_ORGANS
    film = not name.endswith("_nofilm")
    assert bundle.manifest.preprocessing.slice_position == ("estimate" if film else "none")
    assert bundle.manifest.preprocessing.grid.directions == ("S", "R", "A")


@needs_starter
def test_the_starter_is_what_its_recipe_makes_of_it(tmp_path):
    network, _ = network_from_checkpoint(STARTER)
    bundle = open_bundle(
        convert_checkpoint(STARTER, tmp_path / "starter", recipe=RECIPE, precision="fp16")
    )
    rng = np.random.default_rng(0)
    hu = rng.normal(-200.0, 300.0, (3, 3, 96, 64)).astype(np.float32)
    w = bundle.manifest.preprocessing.window
    slices = np.clip(hu, w.low_hu, w.high_hu) * np.float32(w.scale) + np.float32(w.offset)
    assert (slices.min(), slices.max()) == pytest.approx((-1.0, 1.0), abs=1e-6)
    with torch.no_grad():
        wanted = network(torch.from_numpy(slices)).logits.numpy()
    assert relative(run(bundle, "onnx", hu, None), wanted) < 1e-3


def test_padding_of_whole_slices_makes_a_torch_export_file_that_loads(tmp_path):
    # TensorFlow's padding as arithmetic on sizes made a file that took minutes to load.
    torch.manual_seed(0)
    encoder = "tf_mobilenetv3_small_minimal_100"
    network = build_network(NetworkConfig(encoder, 11, boundary=False, presence=False))
    torch.save(network.state_dict(), tmp_path / "padded.pth")
    out = convert_checkpoint(
        tmp_path / "padded.pth",
        tmp_path / "out",
        to=("onnx", "pt2"),
        recipe=RECIPE,
        encoder=encoder,
    )
    slices = np.random.default_rng(0).uniform(-1, 1, (3, 3, 160, 64)).astype(np.float32)
    with torch.no_grad():
        wanted = network.eval()(torch.from_numpy(slices)).logits.numpy()
    for engine in ("onnx", "pt2"):
        model = load_model(open_bundle(out), engine=engine, device="cpu")
        assert model.manifest.preprocessing.padding.multiple == 32
        assert relative(model.runner.run(slices, None), wanted) < 1e-3
    nodes = onnx.load(out / "model.onnx").graph.node
    assert "Pad" not in {node.op_type for node in nodes}  # its convolutions do that


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_format_and_precision_is_proved_and_recorded(precision, tmp_path):
    path = checkpoint(tmp_path, film=True)
    formats = ("onnx", "torchscript", *(("pt2",) if precision == "fp16" else ()))
    out = convert_checkpoint(
        path,
        tmp_path / "out",
        to=formats,
        encoder=ENCODER,
        precision=precision,
        name="mine",
        version="3",
    )
    manifest = open_bundle(out).manifest
    assert (manifest.name, manifest.version) == ("mine", "3")
    assert [file.engine for file in manifest.network.files] == list(formats)
    assert all(file.precision == precision for file in manifest.network.files)
    assert all(file.parity < 1e-2 for file in manifest.network.files)
    assert "small.pth, sha256 " in manifest.provenance.source
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "small.pth"]


def test_float16_storage_halves_the_file_and_computes_in_float32(tmp_path):
    import onnx

    path = checkpoint(tmp_path)
    sizes = {}
    for precision in ("fp32", "fp16"):
        out = convert_checkpoint(path, tmp_path / precision, encoder=ENCODER, precision=precision)
        sizes[precision] = (out / "model.onnx").stat().st_size
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    model = onnx.load(tmp_path / "fp16" / "model.onnx")
    casts = {n.input[0]: n for n in model.graph.node if n.op_type == "Cast"}
    half = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert half
    assert all(t.name in casts and np.prod(t.dims) >= export.HALF_FROM_VALUES for t in half)
    assert all(casts[t.name].attribute[0].i == onnx.TensorProto.FLOAT for t in half)
    assert not any(t.external_data for t in model.graph.initializer)


def test_five_slices_are_converted(tmp_path):
    path = checkpoint(tmp_path, slices=5)
    bundle = open_bundle(convert_checkpoint(path, tmp_path / "out", encoder=ENCODER))
    assert bundle.manifest.preprocessing.neighbour_steps() == (-2, -1, 0, 1, 2)
    logits = run(bundle, "onnx", np.zeros((1, 5, 70, 33), np.float32), None)
    assert logits.shape == (1, 9, 70, 33)


@pytest.mark.parametrize("spoiled", [1.01, np.nan])
def test_an_export_that_differs_is_not_written(spoiled, tmp_path, monkeypatch):
    def spoil(path: Path) -> export.Run:
        honest = export.open_onnx(path)
        return lambda slices, position: honest(slices, position) * np.float32(spoiled)

    monkeypatch.setitem(export._OPENERS, "onnx", spoil)
    path = checkpoint(tmp_path)
    with pytest.raises(ModelError, match=r"differs from PyTorch .* no bundle was written"):
        convert_checkpoint(path, tmp_path / "out", encoder=ENCODER)
    assert [p.name for p in tmp_path.iterdir()] == ["small.pth"]


def test_a_proof_sees_a_wrong_slice_position(tmp_path):
    network, _ = network_from_checkpoint(checkpoint(tmp_path, film=True), ENCODER)
    window = Window(low_hu=-1000.0, high_hu=400.0, scale=1 / 700, offset=3 / 7)
    source = export.Source(network, window, multiple=32)
    assert export.prove(source, source.reference) == 0.0
    ignored = export.prove(source, lambda slices, _: source.reference(slices, None))
    assert ignored > 1e-3


def test_another_number_of_organs_asks_for_a_recipe(tmp_path):
    path = checkpoint(tmp_path, organs=4)
    with pytest.raises(ModelError, match=r"has 4 organs.*\(--recipe\)"):
        convert_checkpoint(path, tmp_path / "out", encoder=ENCODER)


def _recipe(folder: Path, **changes) -> Path:
    raw = json.loads(RECIPE.read_text())
    raw["organs"] = raw["organs"][:9]
    raw["preprocessing"] |= changes.pop("preprocessing", {})
    path = folder / "recipe.json"
    path.write_text(json.dumps(raw | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"organs": [{"key": "liver", "channel": 0}]}, "1 organs up to channel 0 do not fit"),
        ({"organs": [{"key": "soul", "channel": 0}]}, "soul"),
        ({"titel": "typo"}, "titel"),
        ({"preprocessing": {"neighbours_mm": [0.0]}}, "names 1 slices, but the network takes 3"),
        ({"preprocessing": {"slice_position": "estimate"}}, "no FiLM layer"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(changes, message, tmp_path):
    path, recipe = checkpoint(tmp_path), _recipe(tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        convert_checkpoint(path, tmp_path / "out", recipe=recipe, encoder=ENCODER)
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_cannot_be_read_is_refused(tmp_path):
    path, recipe = checkpoint(tmp_path), tmp_path / "recipe.json"
    with pytest.raises(ManifestError, match="cannot read the recipe"):
        convert_checkpoint(path, tmp_path / "out", recipe=recipe, encoder=ENCODER)
    recipe.write_text("{")
    with pytest.raises(ManifestError, match="not JSON"):
        convert_checkpoint(path, tmp_path / "out", recipe=recipe, encoder=ENCODER)


def test_a_recipe_decides_the_input_and_overwriting_replaces_the_bundle(tmp_path):
    path, out = checkpoint(tmp_path), tmp_path / "out"
    convert_checkpoint(path, out, encoder=ENCODER)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        convert_checkpoint(path, out, encoder=ENCODER)
    recipe = _recipe(tmp_path, name="second")
    convert_checkpoint(path, out, encoder=ENCODER, recipe=recipe, overwrite=True)
    manifest = open_bundle(out).manifest
    assert manifest.name == "second"
    assert manifest.preprocessing.padding.multiple == 32
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "recipe.json", "small.pth"]


def test_folders_that_are_no_bundle_and_unknown_formats_are_refused(tmp_path):
    path = checkpoint(tmp_path)
    with pytest.raises(OutputError, match="is no bundle"):
        convert_checkpoint(path, tmp_path, encoder=ENCODER, overwrite=True)
    with pytest.raises(OutputError, match="no such folder"):
        convert_checkpoint(path, tmp_path / "a" / "b", encoder=ENCODER)
    with pytest.raises(UsageError, match="Cannot convert to caffe"):
        convert_checkpoint(path, tmp_path / "out", to=("caffe",), encoder=ENCODER)
    assert path.is_file()
