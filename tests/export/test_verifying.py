"""Files that sherpa-onnx would die of are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mvqkd.errors import UserError
from mvqkd.export.graphs import StreamingEncoder, transducer_graphs
from mvqkd.export.verifying import compare, examples, verify_all, verify_file
from mvqkd.export.writing import save, trace
from mvqkd.models import FULL_CONTEXT, StreamingConfig
from tests.export.helpers import CHUNKS, make_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def encoder() -> StreamingEncoder:
    graph = transducer_graphs(make_model(causal=True), CHUNKS, streaming=True)["encoder"]
    assert isinstance(graph, StreamingEncoder)
    return graph


@pytest.fixture(scope="module")
def traced(encoder: StreamingEncoder):
    return trace(encoder)


def drop_key(model) -> None:
    kept = [entry for entry in model.metadata_props if entry.key != "left_context"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def change_key(model) -> None:
    next(entry for entry in model.metadata_props if entry.key == "T").value = "20"


def swap_outputs(model) -> None:
    first, second = model.graph.output[0].name, model.graph.output[1].name
    outputs = [model.graph.output[1], model.graph.output[0], model.graph.output[2]]
    outputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in outputs]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    assert first != second


def fix_batch(model) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def raise_ir(model) -> None:
    model.ir_version = 11


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_key, "metadata left_context=None, not 8"),
        (change_key, "metadata T=20, not 19"),
        (swap_outputs, r"outputs new_cached_attn .*, encoder_out"),
        (fix_batch, r"inputs x float\[1, 19, 80\]"),
        (raise_ir, "IR version 11"),
    ],
)
def test_another_interface(
    encoder: StreamingEncoder, traced, tmp_path: Path, change: Callable, words: str
) -> None:
    path = tmp_path / "encoder.onnx"
    model = onnx.ModelProto.FromString(traced.SerializeToString())
    save(model, path)
    verify_file(path, encoder.interface)
    change(model)
    save(model, path)
    with pytest.raises(UserError, match=words):
        verify_file(path, encoder.interface)


def test_an_input_that_the_tracer_dropped(encoder: StreamingEncoder, tmp_path: Path) -> None:
    class Forgetful(StreamingEncoder):
        def forward(self, x, cached_attn, cached_conv, processed_lens):
            return super().forward(
                x, cached_attn, cached_conv, torch.full((2,), 64, dtype=torch.int64)
            )

    model = make_model(causal=True)
    assert model.transducer is not None
    graph = Forgetful(model.encoder, model.transducer, 4, 8).eval()
    save(trace(graph), tmp_path / "encoder.onnx")
    with pytest.raises(UserError, match=r"inputs x .*not x .* processed_lens"):
        verify_file(tmp_path / "encoder.onnx", encoder.interface)


def test_a_damaged_file(encoder: StreamingEncoder, traced, tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_bytes(traced.SerializeToString()[:5000])
    with pytest.raises(UserError, match=r"encoder\.onnx .* no valid ONNX file"):
        verify_file(tmp_path / "encoder.onnx", encoder.interface)


def test_other_numbers(encoder: StreamingEncoder, traced, tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    save(traced, path)
    features = [torch.randn(100, 80) * 4 - 7]
    calls = examples(encoder, features)
    assert len(calls) == 2 + 6  # batches of 1 and 3, and six whole chunks
    assert compare(path, encoder, calls, tolerance=1e-4) < 1e-4
    other = transducer_graphs(make_model(causal=True), CHUNKS, streaming=True)["encoder"]
    with torch.no_grad():
        other.project.bias += 0.01  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="encoder_out differs from torch's by 0"):
        compare(path, other, calls, tolerance=1e-4)


def test_all_files_of_a_recognizer(tmp_path: Path) -> None:
    graphs = transducer_graphs(make_model(causal=False), FULL_CONTEXT, streaming=False)
    files = {name: tmp_path / f"{name}.onnx" for name in graphs}
    for name, graph in graphs.items():
        save(trace(graph), files[name])
    features = [torch.randn(length, 80) * 4 - 7 for length in (90, 40)]
    assert verify_all(graphs, files, features, tolerance=1e-4) < 1e-4
    files["joiner"].unlink()
    with pytest.raises(UserError):
        verify_all(graphs, files, features, tolerance=1e-4)


def test_a_model_with_full_context_does_not_stream() -> None:
    with pytest.raises(ValueError, match="full context does not stream"):
        transducer_graphs(make_model(causal=False), FULL_CONTEXT, streaming=True)
    with pytest.raises(ValueError, match="unlimited left context"):
        transducer_graphs(make_model(causal=True), StreamingConfig(4, None), streaming=True)


def test_metadata_are_texts(encoder: StreamingEncoder) -> None:
    metadata = encoder.interface.metadata
    assert all(isinstance(value, str) for value in metadata.values())
    assert dataclasses.is_dataclass(encoder.interface)
    wanted = {
        **{"model_type": "conformer", "num_encoder_layers": "3", "T": "19"},
        **{"decode_chunk_len": "16", "left_context": "8", "encoder_dim": "32"},
        **{"pad_length": "3", "cnn_module_kernel": "5"},
    }
    assert wanted.items() <= metadata.items()
