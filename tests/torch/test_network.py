"""The network agrees with the published one, and checkpoints are read with care."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from upstream import (
    NAMES,
    STARTER,
    expected,
    needs_starter,
    needs_upstream,
    relative,
    write_checkpoint,
)

from segmate_cli.errors import ModelError
from segmate_cli.network import (
    InferenceNetwork,
    NetworkConfig,
    build_network,
    config_from_state,
    load_state,
    network_from_checkpoint,
)

SMALL = NetworkConfig("mobilenetv3_small_050", organs=4, film=True, deep_supervision=True)


def saved(network: torch.nn.Module, path: Path, drop: str = "nothing is called so") -> Path:
    state = {k: v for k, v in network.state_dict().items() if not k.startswith(drop)}
    torch.save({"model_state": state}, path)
    return path


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return build_network(SMALL).eval()


@needs_upstream
@pytest.mark.parametrize("name", NAMES)
def test_every_head_agrees_with_the_published_network(name, tmp_path):
    network, config = network_from_checkpoint(write_checkpoint(name, tmp_path / "c.pth"))
    assert config == NetworkConfig(
        encoder=name.removesuffix("_nofilm"),
        organs=9,
        film=not name.endswith("_nofilm"),
        deep_supervision=name == "tf_efficientnetv2_b0",
    )
    wanted = expected(name)
    unit = (torch.from_numpy(wanted["hu"]).clamp(-1000, 400) + 1000) / 1400
    with torch.no_grad():
        found = network((unit - 127.5) / 127.5, torch.from_numpy(wanted["z_norm"]))
    assert relative(found.logits.numpy(), wanted["segmentation"]) < 1e-3
    assert relative(found.boundary.numpy(), wanted["boundary"]) < 1e-3
    assert relative(found.presence.numpy(), wanted["presence"]) < 1e-3


@needs_starter
def test_a_float16_checkpoint_without_unused_blocks_is_read():
    network, config = network_from_checkpoint(STARTER)
    assert config == NetworkConfig("tf_efficientnet_lite0", organs=11)
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("encoder", ["tf_efficientnetv2_m", "mambaout_tiny", "fastvit_t12"])
@pytest.mark.parametrize("film", [True, False])
def test_the_encoders_of_the_paper_are_recognised(encoder, film):
    config = NetworkConfig(encoder, organs=9, film=film)
    with torch.device("meta"):
        state = build_network(config).state_dict()
    assert config_from_state(state) == config


def test_training_mode_gives_every_head_and_gradients():
    network = build_network(SMALL).train()
    slices, position = torch.randn(2, 3, 65, 97), torch.tensor([0.2, -1.0])
    found = network(slices, position)
    assert found.logits.shape == found.boundary.shape == (2, 4, 65, 97)
    assert found.presence_logits.shape == (2, 4)
    assert [tuple(level.shape[1:]) for level in found.deep] == [(4, 3, 4), (4, 5, 7), (4, 9, 13)]
    total = found.logits.sum() + found.boundary.sum() + found.presence.sum()
    (total + sum(level.sum() for level in found.deep)).backward()
    silent = [name for name, tensor in network.named_parameters() if tensor.grad is None]
    assert silent == []


def test_an_unknown_position_leaves_film_out(small):
    slices = torch.randn(2, 3, 64, 64)
    heads = small.model.film.position_encoder
    torch.nn.init.constant_(heads.beta_head.bias, 50.0)  # untrained, the position hardly matters
    with torch.no_grad():
        without = small(slices).logits
        unknown = small(slices, torch.tensor([-1.0, -1.0])).logits
        mixed = small(slices, torch.tensor([-1.0, 0.5])).logits
    assert torch.equal(without, unknown)
    assert torch.allclose(mixed[0], without[0], rtol=0, atol=1e-6)
    assert (mixed[1] - without[1]).abs().max() > 1e-4


@pytest.mark.parametrize("encoder", ["fastvit_t8", "tf_efficientnetv2_b0", "mambaout_femto"])
@pytest.mark.parametrize("size", [(64, 96), (77, 51)])
def test_the_network_prepared_for_export_gives_the_same_logits(encoder, size):
    torch.manual_seed(1)
    network = build_network(NetworkConfig(encoder, organs=3)).eval()
    slices = torch.randn(2, 3, *size)
    with torch.no_grad():
        wanted, found = network(slices).logits, InferenceNetwork(network)(slices)
    assert (found - wanted).abs().max() < 1e-4 * wanted.std()


def test_five_slices_can_go_in(tmp_path):
    config = NetworkConfig("mobilenetv3_small_050", organs=2, slices=5)
    path = saved(build_network(config), tmp_path / "five.pth")
    network, read = network_from_checkpoint(path, "mobilenetv3_small_050")
    assert read == config
    assert network(torch.zeros(1, 5, 64, 64)).logits.shape == (1, 2, 64, 64)


class _Code:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self):
        return (Path.touch, (self.touched,))


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    path, touched = tmp_path / "evil.pth", tmp_path / "touched"
    torch.save({"model_state": _Code(touched)}, path)
    with pytest.raises(ModelError, match="holds code, which is never run"):
        load_state(path)
    path.write_bytes(pickle.dumps(_Code(touched)))
    with pytest.raises(ModelError, match=r"evil\.pth"):
        load_state(path)
    assert not touched.exists()


def test_files_that_are_no_checkpoint_are_refused(small, tmp_path):
    whole = saved(small, tmp_path / "whole.pth").read_bytes()
    contents = {"cut.pth": whole[:-5000], "empty.pth": b"", "text.pth": b"weights " * 99}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelError, match=name):
            load_state(tmp_path / name)
    with pytest.raises(ModelError, match=r"Cannot read .*none\.pth"):
        load_state(tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="holds no state dict"):
        load_state(tmp_path / "list.pth")


def test_values_that_are_no_numbers_are_refused(small, tmp_path):
    state = {key: value.clone() for key, value in small.state_dict().items()}
    state["model.up3.bias"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(ModelError, match=r"NaN or infinite values in model\.up3\.bias"):
        load_state(tmp_path / "nan.pth")


def test_missing_and_foreign_tensors_make_one_clear_error(small, tmp_path):
    path = saved(small, tmp_path / "part.pth", drop="model.dec2.conv1")
    with pytest.raises(ModelError, match=r"5 missing \(model\.dec2\.conv1\.0\.weight, .* 2 more\)"):
        network_from_checkpoint(path, "mobilenetv3_small_050")
    path = saved(small, tmp_path / "small.pth")
    with pytest.raises(ModelError, match=r"missing .*unexpected .*Check --encoder"):
        network_from_checkpoint(path, "resnet18")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"no SegMate checkpoint: it lacks fusion\.net\.0\.weight"):
        network_from_checkpoint(tmp_path / "other.pth")


def test_encoders_that_are_unknown_or_unfit_are_refused(small, tmp_path):
    path = saved(small, tmp_path / "small.pth")
    with pytest.raises(ModelError, match="name its timm model with --encoder"):
        network_from_checkpoint(path)
    with pytest.raises(ModelError, match="timm cannot build 'no_such_net'"):
        network_from_checkpoint(path, "no_such_net")
    with pytest.raises(ModelError, match="slices odd"):
        build_network(NetworkConfig("resnet18", organs=1, slices=4))
