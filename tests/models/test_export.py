"""The modules can be exported: onnxruntime gives the same numbers."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvqkd.models import ConformerEncoder, EncoderState, StatelessPredictor

CHUNK, LEFT = 4, 6


@pytest.fixture(scope="module", params=[(), (2, 2)], ids=["full rate", "half rate"])
def model(request: pytest.FixtureRequest) -> ConformerEncoder:
    torch.manual_seed(0)
    return ConformerEncoder(
        dim=16,
        num_layers=2,
        num_heads=2,
        feedforward_dim=32,
        conv_kernel=5,
        causal=True,
        half_rate=request.param,
    ).eval()


class Offline(nn.Module):
    """`forward` with full context, as an exported graph calls it."""

    def __init__(self, encoder: ConformerEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(x, x_lens)


class Stream(nn.Module):
    """`stream` with the state as separate tensors, as an exported graph takes it."""

    def __init__(self, encoder: ConformerEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, x: Tensor, attention: Tensor, convolution: Tensor, processed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        state = EncoderState(attention, convolution, processed)
        out, state = self.encoder.stream(x, state, CHUNK)
        return out, *state


def onnx_session(module: nn.Module, inputs: tuple, names: list[str], axes: dict):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer notes every check of a length
        torch.onnx.export(
            module.eval(),  # the exporter restores the mode: a wrapper's would train the encoder
            inputs,
            buffer,
            dynamo=False,
            opset_version=17,
            input_names=names,
            dynamic_axes=axes,
        )
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == names  # none was dropped as unused
    return lambda *arrays: [
        torch.from_numpy(np.asarray(result))
        for result in session.run(
            None, {name: array.numpy() for name, array in zip(names, arrays, strict=True)}
        )
    ]


@torch.no_grad()
def test_offline_onnx(model: ConformerEncoder) -> None:
    axes = {"x": {0: "N", 1: "T"}, "x_lens": {0: "N"}}
    example = (torch.randn(2, 95, 80) * 4 - 7, torch.tensor([95, 60]))
    run = onnx_session(Offline(model), example, ["x", "x_lens"], axes)
    for lens in ([95, 60], [7], [331, 200, 11, 5]):
        features = torch.randn(len(lens), max(lens), 80) * 4 - 7
        expected = model(features, torch.tensor(lens))
        for got, want in zip(run(features, torch.tensor(lens)), expected, strict=True):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_streaming_onnx(model: ConformerEncoder, batch: int) -> None:
    names = ["x", "attention", "convolution", "processed"]
    axes = {"x": {0: "N"}, "attention": {2: "N"}, "convolution": {2: "N"}, "processed": {0: "N"}}
    state = model.initial_state(2, LEFT)
    run = onnx_session(Stream(model), (torch.randn(2, 4 * CHUNK + 3, 80), *state), names, axes)
    frames = 4 * CHUNK * 5 + 3
    features = torch.randn(batch, frames, 80) * 4 - 7
    lens = torch.full((batch,), frames)
    expected, _ = model(features, lens, chunk_size=CHUNK, left_context=LEFT)
    state = model.initial_state(batch, LEFT)
    for call in range(5):
        first = 4 * CHUNK * call
        out, *state = run(features[:, first : first + 4 * CHUNK + 3], *state)
        here = expected[:, CHUNK * call : CHUNK * (call + 1)]
        torch.testing.assert_close(out, here, atol=1e-4, rtol=0)
    assert state[2].tolist() == [4 * CHUNK * 5] * batch


@torch.no_grad()
def test_predictor_onnx_keeps_its_mask() -> None:
    torch.manual_seed(0)
    predictor = StatelessPredictor(vocab_size=9, dim=8)

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predictor = predictor

        def forward(self, y: Tensor) -> Tensor:
            return self.predictor.step(y)

    run = onnx_session(Step(), (torch.tensor([[1, 2]]),), ["y"], {"y": {0: "N"}})
    contexts = torch.tensor([[-1, 0], [8, 3], [-1, -1]])
    torch.testing.assert_close(run(contexts)[0], predictor.step(contexts), atol=1e-6, rtol=0)
