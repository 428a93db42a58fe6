"""The weights of a bundle's ONNX file back to a checkpoint: ``python -m training.from_bundle``.

Training goes on from what is committed, without the run that made it: the export keeps the
tensors' names, but for the linear layers of the attention, which it transposes, and a ``.conv`` in
padded convolutions. Heads that serve training alone are not exported; they begin anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from segmate_cli.network import NetworkConfig, SegMate, build_network, fill_network, training_heads
from training.cases import ORGANS

_PREFIX = "network."


def exported_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names as in the network's state, and float32 values, of an exported file's tensors."""
    graph = onnx.load(str(path)).graph
    layers = {node.input[1]: node.name for node in graph.node if node.op_type == "MatMul"}
    for tensor in graph.initializer:
        name = tensor.name.removesuffix(".fp16")
        values = numpy_helper.to_array(tensor).astype(np.float32)
        if name in layers:
            path_of_layer = layers[name].strip("/").removesuffix("/MatMul").split("/")
            yield f"{_unrepeated(path_of_layer)}.weight", torch.tensor(values.T.copy())
        elif name.startswith(_PREFIX):
            yield (
                name.removeprefix(_PREFIX).replace(".conv.weight", ".weight"),
                torch.tensor(values),
            )


def _unrepeated(path: Sequence[str]) -> str:
    """``('a', 'fc', 'fc.0')`` to ``model.a.fc.0``: a sequence's name stands twice in the path."""
    parts = [
        part
        for part, after in zip(path, [*path[1:], ""], strict=True)
        if not after.startswith(f"{part}.")
    ]
    return ".".join(["model", *parts])


def network_from_bundle(bundle: Path) -> SegMate:
    """A network with a bundle's weights; heads that serve training alone are drawn at random.

    Raises:
        ModelError: the bundle's tensors are not those of the encoder that its manifest names.
    """
    encoder = json.loads((bundle / "manifest.json").read_text())["network"]["encoder"]
    network = build_network(NetworkConfig(encoder=encoder, organs=len(ORGANS)))
    onnx_path = bundle / "model.onnx"
    state = dict(exported_tensors(onnx_path))
    fill_network(network, {**training_heads(network), **state}, str(onnx_path))
    return network


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of an ONNX bundle")
    parser.add_argument("output", type=Path, help="checkpoint to write")
    options = parser.parse_args(arguments)
    network = network_from_bundle(options.bundle)
    torch.save({"model_state": network.state_dict()}, options.output)


if __name__ == "__main__":
    main()
