"""What is done to traced graphs."""

from __future__ import annotations

import numpy as np
import pytest

from mvqkd.export.graphs import transducer_graphs
from mvqkd.export.writing import share_constants, trace
from tests.export.helpers import CHUNKS, make_model

onnx = pytest.importorskip("onnx")
ReferenceEvaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator


def test_equal_constants_are_one_and_nothing_changes() -> None:
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    values = [2, 3, 2, 2, 3, 2]
    dtypes = [np.float32] * 5 + [np.int64]
    nodes = [
        helper.make_node(
            "Constant", [], [f"c{i}"], value=onnx.numpy_helper.from_array(np.array(value, dtype))
        )
        for i, (value, dtype) in enumerate(zip(values, dtypes, strict=True))
    ]
    nodes += [
        helper.make_node("Add", ["x", "c0"], ["a"]),
        helper.make_node("Mul", ["a", "c1"], ["b"]),
        helper.make_node("Pow", ["b", "c2"], ["d"]),
        helper.make_node("Sub", ["d", "c4"], ["e"]),
        helper.make_node("Cast", ["c5"], ["f"], to=float32),
        helper.make_node("Add", ["e", "f"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", float32, [3])]
    outputs = [
        helper.make_tensor_value_info("y", float32, [3]),
        helper.make_tensor_value_info("c3", float32, []),
    ]
    model = helper.make_model(helper.make_graph(nodes, "graph", inputs, outputs))
    x = {"x": np.array([1.0, -2.0, 0.5], np.float32)}
    expected = ReferenceEvaluator(model).run(None, x)
    share_constants(model)
    onnx.checker.check_model(model)
    # One of each value and type, and the output, which has to keep its name.
    assert [node.output[0] for node in model.graph.node[:4]] == ["c0", "c1", "c3", "c5"]
    assert len(model.graph.node) == 4 + 6
    for found, value in zip(ReferenceEvaluator(model).run(None, x), expected, strict=True):
        np.testing.assert_array_equal(found, value)


def test_a_traced_graph_has_each_constant_once() -> None:
    graphs = transducer_graphs(make_model(causal=True), CHUNKS, streaming=True)
    constants = [
        node.attribute[0].SerializeToString(deterministic=True)
        for node in trace(graphs["encoder"]).graph.node
        if node.op_type == "Constant"
    ]
    assert len(constants) == len(set(constants)) > 5
