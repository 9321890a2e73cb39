"""Exported files in onnxruntime give torch's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mvqkd.export.ctc_graphs import ctc_graphs
from mvqkd.export.graphs import transducer_graphs
from mvqkd.export.half_precision import to_float16
from mvqkd.export.onnx_file import OnnxFile
from mvqkd.export.quantizing import quantize
from mvqkd.export.writing import write_graph
from mvqkd.models import FULL_CONTEXT, AsrModel, StreamingConfig
from tests.export.helpers import CHUNKS, VOCAB_SIZE, make_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
WINDOW, SHIFT = 19, 16


@pytest.fixture(scope="module", params=[[], [2, 2]], ids=["full rate", "half rate"])
def model(request: pytest.FixtureRequest) -> AsrModel:
    return make_model(causal=True, half_rate=request.param)


@pytest.fixture(scope="module")
def written(model: AsrModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each graph that does not depend on the recognizer, and the streaming encoder's."""
    folder = tmp_path_factory.mktemp("files")
    files = {}
    for name, graph in transducer_graphs(model, CHUNKS, streaming=True).items():
        files[name] = folder / f"{name}.onnx"
        write_graph(graph, files[name])
    return files


def random_features(*lens: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(lens))
    x = torch.randn(len(lens), max(lens), 80, generator=generator) * 4 - 7
    return x, torch.tensor(lens)


@pytest.mark.parametrize("chunks", [FULL_CONTEXT, CHUNKS], ids=["full context", "chunks"])
@torch.inference_mode()
def test_offline_encoder(model: AsrModel, tmp_path: Path, chunks: StreamingConfig) -> None:
    graph = transducer_graphs(model, chunks, streaming=False)["encoder"]
    write_graph(graph, tmp_path / "encoder.onnx")
    file = OnnxFile(tmp_path / "encoder.onnx")
    assert model.transducer is not None
    # Batches of 1 and of 3, the shortest of which has no frame, and utterances with one.
    for lens in ([331], [200, 61, 5], [7], [1]):
        x, x_lens = random_features(*lens)
        frames, expected_lens = model.encoder(x, x_lens, **chunks._asdict())
        expected = model.transducer.joiner.project_encoder(frames)
        out, out_lens = file(x, x_lens)
        assert out_lens.tolist() == expected_lens.tolist()
        for row, want, length in zip(out, expected, expected_lens.tolist(), strict=True):
            torch.testing.assert_close(row[:length], want[:length], atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 3])
@torch.inference_mode()
def test_streaming_encoder_over_200_chunks(
    model: AsrModel, written: dict[str, Path], batch_size: int
) -> None:
    """With the states that onnxruntime gave, against the masked forward pass of the whole."""
    calls = 200
    x, lens = random_features(*[(calls - 1) * SHIFT + WINDOW] * batch_size)
    frames, _ = model.encoder(x, lens, **CHUNKS._asdict())
    assert model.transducer is not None
    expected = model.transducer.joiner.project_encoder(frames)
    file = OnnxFile(written["encoder"])
    states = [torch.zeros(3, 8, batch_size, 32), torch.zeros(3, 4, batch_size, 32)]
    for call in range(calls):
        first = call * SHIFT
        processed = torch.full((batch_size,), first)
        out, *states = file(x[:, first : first + WINDOW].contiguous(), *states, processed)
        want = expected[:, 4 * call : 4 * call + 4]
        torch.testing.assert_close(out, want, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_streaming_ctc_over_its_states(model: AsrModel, tmp_path: Path) -> None:
    graph = ctc_graphs(model, CHUNKS, streaming=True)["ctc"]
    write_graph(graph, tmp_path / "ctc.onnx")
    file = OnnxFile(tmp_path / "ctc.onnx")
    calls, batch_size = 12, 3
    x, lens = random_features(*[(calls - 1) * SHIFT + WINDOW] * batch_size)
    frames, _ = model.encoder(x, lens, **CHUNKS._asdict())
    assert model.ctc is not None
    expected = model.ctc(frames).log_softmax(-1)
    states = [spec.example({"N": batch_size}) for spec in graph.interface.inputs[1:]]
    for call in range(calls):
        first = call * SHIFT
        out, *states = file(x[:, first : first + WINDOW].contiguous(), *states)
        want = expected[:, 4 * call : 4 * call + 4]
        torch.testing.assert_close(out, want, atol=1e-4, rtol=0)
    assert states[-1].tolist() == [calls * SHIFT] * batch_size


@pytest.mark.parametrize("context_size", [1, 2, 3])
@torch.inference_mode()
def test_decoder_with_the_first_context(tmp_path: Path, context_size: int) -> None:
    model = make_model(causal=False, context_size=context_size)
    head = model.transducer
    assert head is not None
    graph = transducer_graphs(model, FULL_CONTEXT, streaming=False)["decoder"]
    write_graph(graph, tmp_path / "decoder.onnx")
    first = [-1] * (context_size - 1) + [0]
    y = torch.tensor([first, [VOCAB_SIZE - 1] * context_size, [-1] * context_size])
    (out,) = OnnxFile(tmp_path / "decoder.onnx")(y)
    # Without a token there is nothing to see, not the vocabulary's last.
    embedded = [head.predictor.embedding(row.clamp(min=0)) * (row >= 0)[:, None] for row in y]
    seen = head.predictor.conv(torch.stack(embedded).transpose(1, 2)).squeeze(2).relu()
    expected = head.joiner.project_predictor(seen)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_joiner(model: AsrModel, written: dict[str, Path]) -> None:
    assert model.transducer is not None
    joiner = model.transducer.joiner
    frames, predicted = torch.randn(5, 20), torch.randn(5, 20)
    (out,) = OnnxFile(written["joiner"])(frames, predicted)
    expected = torch.tanh(frames + predicted) @ joiner.output.weight.T + joiner.output.bias
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_int8_and_float16_are_near(
    model: AsrModel, written: dict[str, Path], tmp_path: Path
) -> None:
    x, _ = random_features(WINDOW)
    inputs = (x, torch.zeros(3, 8, 1, 32), torch.zeros(3, 4, 1, 32), torch.zeros(1).long())
    whole = OnnxFile(written["encoder"])(*inputs)
    size = written["encoder"].stat().st_size
    products = quantize("encoder", written["encoder"], tmp_path / "all.int8.onnx")
    kept = quantize(
        "encoder", written["encoder"], tmp_path / "some.int8.onnx", exclude=["/attention/"]
    )
    # Queries, keys and values together, distances, and outputs of three layers stay.
    assert products - kept == 4 * 3
    to_float16(written["encoder"], tmp_path / "half.onnx")
    errors = {}
    for name in ("all.int8", "some.int8", "half"):
        path = tmp_path / f"{name}.onnx"
        assert path.stat().st_size < size
        out, *states = OnnxFile(path)(*inputs)
        assert [state.dtype for state in states] == [torch.float32] * 2
        errors[name] = float((out - whole[0]).abs().max() / whole[0].abs().max())
    assert 0 < errors["half"] < 0.005
    assert errors["half"] < errors["all.int8"] < 0.1
    assert 0 < errors["some.int8"] < 0.1
