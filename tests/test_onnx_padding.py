"""Padding before a convolution: folded where that changes no bit, and left where it might."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from segmate_cli.onnx_padding import fold_padding

SIDES = [0, 0, 1, 0, 0, 0, 2, 1]


def model_of(
    pads: list[Any], *, value: float = 0.0, mode: str = "constant", behind: str = "Conv"
) -> onnx.ModelProto:
    """Pad, then a convolution of stride 2 (or what is ``behind``); ``pads`` makes "pads"."""
    weight = np.random.default_rng(0).normal(size=(2, 1, 3, 3)).astype(np.float32)
    after = {
        "Conv": helper.make_node("Conv", ["padded", "w"], ["logits"], strides=[2, 2]),
        "Relu": helper.make_node("Relu", ["padded"], ["logits"]),
    }[behind]
    graph = helper.make_graph(
        [*pads, helper.make_node("Pad", ["slices", "pads", "value"], ["padded"], mode=mode), after],
        "padded",
        [helper.make_tensor_value_info("slices", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.array(SIDES, np.float32), "told"),
            numpy_helper.from_array(np.float32(value), "value"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def told() -> list[Any]:
    """The sides as exporters write them: numbers, by way of arithmetic."""
    return [helper.make_node("Cast", ["told"], ["pads"], to=TensorProto.INT64)]


def by_size() -> list[Any]:
    """Sides that hang on the size of the input."""
    return [
        helper.make_node("Shape", ["slices"], ["shape"]),
        helper.make_node("Sub", ["shape", "shape"], ["none"]),
        helper.make_node("Concat", ["none", "none"], ["pads"], axis=0),
    ]


def logits(model: onnx.ModelProto, given: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: np.ndarray = session.run(["logits"], {"slices": given})[0]
    return found


def test_a_convolution_pads_for_itself_to_the_last_bit():
    model = model_of(told())
    given = np.random.default_rng(1).normal(size=(2, 1, 12, 15)).astype(np.float32)
    want = logits(model, given)
    assert fold_padding(model) == 1
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    assert {each.name for each in model.graph.initializer} == {"w"}
    (pads,) = (each for each in model.graph.node[0].attribute if each.name == "pads")
    assert [*pads.ints] == [1, 0, 2, 1]
    assert np.array_equal(logits(model, given), want)


@pytest.mark.parametrize(
    "model",
    [
        model_of(by_size()),
        model_of(told(), value=1.0),
        model_of(told(), mode="edge"),
        model_of(told(), behind="Relu"),
    ],
    ids=["by the input's size", "not zeros", "the edge", "no convolution"],
)
def test_what_a_convolution_cannot_do_is_left(model):
    before = len(model.graph.node)
    assert fold_padding(model) == 0
    assert "Pad" in [node.op_type for node in model.graph.node]
    assert len(model.graph.node) == before
