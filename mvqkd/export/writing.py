"""Graphs -> ONNX files."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mvqkd.errors import UserError
from mvqkd.export.interface import Graph
from mvqkd.storage.files import atomic_path

if TYPE_CHECKING:
    import onnx

OPSET = 17
"""Has LayerNormalization; all that sherpa-onnx ships can run it."""
IR_VERSION = 8
"""Of the format of files: old enough for old builds on phones."""


def require_onnx() -> None:
    """Refuse to begin without the packages that exporting needs.

    Raises:
        UserError: says how to install them.
    """
    for name in ("onnx", "onnxruntime"):
        try:
            __import__(name)
        except ImportError as error:
            raise UserError(
                f"ONNX files cannot be written or verified: {error}",
                remedy='install the extra `onnx`: pip install "mvqkd[onnx]"',
            ) from None


def trace(graph: Graph) -> onnx.ModelProto:
    """The graph of a module, with its metadata."""
    import onnx

    interface = graph.interface
    buffer = io.BytesIO()
    # The exporter gives modules the mode that the graph had: a graph in training mode would end in
    # a student with dropout.
    graph.eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer notes every check of a length
        torch.onnx.export(
            graph,
            graph.example(),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=[spec.name for spec in interface.inputs],
            output_names=[spec.name for spec in interface.outputs],
            dynamic_axes={
                spec.name: spec.dynamic_axes for spec in (*interface.inputs, *interface.outputs)
            },
        )
    model = onnx.load_from_string(buffer.getvalue())
    model.ir_version = IR_VERSION
    # The tracer knows sizes of inputs alone; sherpa-onnx reads some of outputs.
    for output, spec in zip(model.graph.output, interface.outputs, strict=True):
        for axis, size in zip(output.type.tensor_type.shape.dim, spec.shape, strict=True):
            if isinstance(size, str):
                axis.dim_param = size
            else:
                axis.dim_value = size
    set_metadata(model, interface.metadata)
    share_constants(model)
    return model


def share_constants(model: onnx.ModelProto) -> None:
    """Keep one of equal constants: the tracer writes a node for each use of a number, of which a
    small student's int8 file has hundreds.

    Args:
        model: changed in place.
    """
    if any(each.HasField("g") for node in model.graph.node for each in node.attribute):
        return  # graphs within the graph may use them, too
    results = {output.name for output in model.graph.output}
    kept: dict[bytes, str] = {}
    others: dict[str, str] = {}
    dropped = []
    for index, node in enumerate(model.graph.node):
        for number, name in enumerate(node.input):
            node.input[number] = others.get(name, name)
        if node.op_type == "Constant" and node.output[0] not in results:
            value = b"".join(each.SerializeToString(deterministic=True) for each in node.attribute)
            first = kept.setdefault(value, node.output[0])
            if first != node.output[0]:
                others[node.output[0]] = first
                dropped.append(index)
    for index in reversed(dropped):
        del model.graph.node[index]


def set_metadata(model: onnx.ModelProto, metadata: dict[str, str]) -> None:
    """Replace the metadata of a model."""
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a file, whole or not at all, with its weights inside."""
    with atomic_path(path) as partial:
        partial.write_bytes(model.SerializeToString())


def write_graph(graph: Graph, path: Path) -> None:
    """Write the float32 file of a graph."""
    save(trace(graph), path)
