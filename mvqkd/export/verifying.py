"""Checks of exported files: what sherpa-onnx takes for granted, and the numbers of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mvqkd.errors import UserError
from mvqkd.export.interface import BATCH, Graph, Interface, TensorSpec
from mvqkd.export.onnx_file import OnnxFile
from mvqkd.export.writing import IR_VERSION, OPSET

TOLERANCE = {"float32": 1e-3, "float16": 5e-2}
"""Largest difference from torch's outputs, relative to the largest of them."""


def verify_file(path: Path, interface: Interface) -> None:
    """Compare a file with the interface of its recognizer.

    Raises:
        UserError: it is damaged, needs another file, or its tensors or metadata differ; says in
            what.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # of its own many kinds
        reason = str(error).strip().splitlines()[0]
        raise _wrong(path, [f"it is no valid ONNX file: {reason}"]) from error
    found = []
    if model.ir_version > IR_VERSION:
        found.append(f"IR version {model.ir_version}, not {IR_VERSION} or less")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") != OPSET:
        found.append(f"opset {versions.get('')}, not {OPSET}")
    if any(tensor.external_data for tensor in model.graph.initializer):
        found.append("weights in another file")
    for kind, values, specs in (
        ("inputs", model.graph.input, interface.inputs),
        ("outputs", model.graph.output, interface.outputs),
    ):
        has, wanted = [_describe(value) for value in values], [_describe_spec(s) for s in specs]
        if has != wanted:
            found.append(f"{kind} {', '.join(has)}, not {', '.join(wanted)}")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    found += [
        f"metadata {key}={metadata.get(key)}, not {value}"
        for key, value in interface.metadata.items()
        if metadata.get(key) != value
    ]
    if found:
        raise _wrong(path, found)


def compare(
    path: Path, graph: Graph, calls: Sequence[tuple[Tensor, ...]], *, tolerance: float
) -> float:
    """The largest difference between the outputs of a file and of its module, relative to the
    largest output.

    Args:
        path: the file.
        graph: the module.
        calls: inputs, of any batch sizes.
        tolerance: largest difference that is taken.

    Raises:
        UserError: it is larger, or shapes or integers differ.
    """
    file = OnnxFile(path)
    worst = 0.0
    for inputs in calls:
        with torch.inference_mode():
            expected = graph(*inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for spec, got, want in zip(graph.interface.outputs, file(*inputs), expected, strict=True):
            if got.shape != want.shape:
                raise _wrong(path, [f"{spec.name} is {tuple(got.shape)}, not {tuple(want.shape)}"])
            if not want.numel():
                continue
            difference = float((got.double() - want.double()).abs().max())
            if not want.is_floating_point():
                difference *= float("inf") if difference else 0.0
            difference /= max(1.0, float(want.double().abs().max()))
            if not difference <= tolerance:
                raise _wrong(path, [f"{spec.name} differs from torch's by {difference:.2g}"])
            worst = max(worst, difference)
    return worst


def examples(graph: Graph, features: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Calls to compare a graph with: its own example with batches of 1 and 3, and, for an encoder,
    these utterances (T, C): all in one batch, or chunk by chunk with the states that torch gives.
    """
    graphs_calls = [_filled(graph, size) for size in (1, 3)]
    names = [spec.name for spec in graph.interface.inputs]
    if names == ["x", "x_lens"] and features:
        lens = torch.tensor([len(x) for x in features])
        graphs_calls.append((torch.nn.utils.rnn.pad_sequence(list(features), True), lens))
    elif "T" in graph.interface.metadata:
        for x in features:
            graphs_calls += _stream(graph, x)
    return graphs_calls


def _stream(graph: Graph, x: Tensor) -> list[tuple[Tensor, ...]]:
    """Calls of all whole chunks of (T, C)."""
    window = int(graph.interface.metadata["T"])
    shift = int(graph.interface.metadata["decode_chunk_len"])
    _, *states = (spec.example({BATCH: 1}) for spec in graph.interface.inputs)
    calls = []
    for first in range(0, len(x) - window + 1, shift):
        calls.append((x[None, first : first + window], *states))
        with torch.inference_mode():
            _, *after = graph(*calls[-1])
        # A `conformer` has no output for the frames before the chunk, which are counted outside.
        states = after if len(after) == len(states) else [*after, states[-1] + shift]
    return calls


def _filled(graph: Graph, batch_size: int) -> tuple[Tensor, ...]:
    """The graph's example, with numbers in it."""
    generator = torch.Generator().manual_seed(batch_size)
    filled = []
    for spec, tensor in zip(graph.interface.inputs, graph.example(batch_size), strict=True):
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor = 4.0 * noise - 7.0 if spec.name == "x" else noise
        elif spec.name == "y":
            high = int(graph.interface.metadata["vocab_size"])
            tensor = torch.randint(-1, high, tensor.shape, generator=generator)
        filled.append(tensor)
    return tuple(filled)


def _describe(value: object) -> str:
    """Name, type and shape, with dynamic axes by their names."""
    import onnx

    assert isinstance(value, onnx.ValueInfoProto)
    kind = value.type.tensor_type
    shape = [axis.dim_param or axis.dim_value for axis in kind.shape.dim]
    dtype = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
    return f"{value.name} {dtype}{shape}"


def _describe_spec(spec: TensorSpec) -> str:
    dtype = {torch.float32: "float", torch.int64: "int64"}[spec.dtype]
    return f"{spec.name} {dtype}{list(spec.shape)}"


def _wrong(path: Path, found: Sequence[str]) -> UserError:
    return UserError(
        f"{path} is not what its recognizer takes: {'; '.join(found)}",
        remedy="export the model again, with the versions of torch and onnx in constraints.txt",
    )


def verify_all(
    graphs: Mapping[str, Graph],
    files: Mapping[str, Path],
    features: Sequence[Tensor],
    *,
    tolerance: float,
) -> float:
    """Verify all files of a recognizer; returns the largest difference from torch.

    Raises:
        UserError: see `verify_file` and `compare`.
    """
    for name, graph in graphs.items():
        verify_file(files[name], graph.interface)
    return max(
        compare(files[name], graph, examples(graph, features), tolerance=tolerance)
        for name, graph in graphs.items()
    )
