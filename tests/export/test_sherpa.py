"""sherpa-onnx, unmodified, finds with exported files what this package finds with the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mvqkd.decoding import CTCGreedySearch, Search, build_search, decode_whole
from mvqkd.export.ctc_graphs import ctc_graphs
from mvqkd.export.graphs import transducer_graphs
from mvqkd.export.writing import write_graph
from mvqkd.geometry import needed_features, num_features
from mvqkd.models import FULL_CONTEXT, AsrModel, StreamingConfig
from tests.export.helpers import CHUNKS, features_of, ids, make_model, make_waves, write_tokens

pytest.importorskip("onnx")
METHODS = ["greedy_search", "modified_beam_search"]
TAIL = 8000


def export_ctc(model: AsrModel, folder: Path, chunks: StreamingConfig, *, streaming: bool):
    (graph,) = ctc_graphs(model, chunks, streaming=streaming).values()
    write_graph(graph, folder / "ctc.onnx")
    return {"ctc": folder / "ctc.onnx", "tokens": write_tokens(folder)}


def export(model: AsrModel, folder: Path, chunks: StreamingConfig, *, streaming: bool):
    files = {}
    for name, graph in transducer_graphs(model, chunks, streaming=streaming).items():
        files[name] = folder / f"{name}.onnx"
        write_graph(graph, files[name])
    return {**files, "tokens": write_tokens(folder)}


def check(found, expected) -> None:
    """Tokens are equal, times within a frame of 40 ms."""
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        assert ids(got["tokens"]) == want[0].tokens
        assert len(want[0].tokens) > 3
        np.testing.assert_allclose(got["times"], np.array(want[0].frames) * 0.04, atol=0.041)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["full context", "half rate", "chunks"])
def test_offline(tmp_path: Path, sherpa, method: str, kind: str) -> None:
    model = make_model(causal=kind == "chunks", half_rate=[2, 2] if kind == "half rate" else None)
    chunks = CHUNKS if kind == "chunks" else FULL_CONTEXT
    files = export(model, tmp_path, chunks, streaming=False)
    waves = make_waves()
    found = sherpa("OfflineRecognizer", waves, files, decoding_method=method)
    search = build_search(model, method)
    expected = decode_whole(model.encoder, search, *features_of(waves), **chunks._asdict())
    check(found, expected)


def ctc_search(model: AsrModel) -> CTCGreedySearch:
    """sherpa-onnx's: with CTC, `<unk>` is a token as any other."""
    assert model.ctc is not None
    return CTCGreedySearch(model.ctc, unk=None)


def streamed(model: AsrModel, search: Search, waves: list[np.ndarray]):
    """What is found in the chunks that sherpa-onnx decodes: it wants one frame more than a chunk
    has."""
    results = []
    for wave in waves:
        whole = np.concatenate([wave, np.zeros(TAIL, dtype=np.float32)])
        x, _ = features_of([whole])
        window, shift = needed_features(CHUNKS.chunk_size), 4 * CHUNKS.chunk_size
        calls = (num_features(len(whole)) - 1 - window) // shift + 1
        length = (calls - 1) * shift + window
        results += decode_whole(
            model.encoder, search, x[:, :length], torch.tensor([length]), **CHUNKS._asdict()
        )
    return results


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("half_rate", [[], [2, 2]], ids=["full rate", "half rate"])
def test_streaming(tmp_path: Path, sherpa, method: str, half_rate: list[int]) -> None:
    model = make_model(causal=True, half_rate=half_rate)
    files = export(model, tmp_path, CHUNKS, streaming=True)
    waves = make_waves()
    together = sherpa("OnlineRecognizer", waves, files, decoding_method=method, tail=TAIL)
    check(together, streamed(model, build_search(model, method), waves))
    apart = sherpa(
        "OnlineRecognizer", waves, files, decoding_method=method, tail=TAIL, together=False
    )
    assert apart == together


def test_offline_ctc(tmp_path: Path, sherpa) -> None:
    model = make_model(causal=False)
    files = export_ctc(model, tmp_path, FULL_CONTEXT, streaming=False)
    waves = make_waves()
    found = sherpa("OfflineRecognizer", waves, files, constructor="from_zipformer_ctc")
    check(found, decode_whole(model.encoder, ctc_search(model), *features_of(waves)))


@pytest.mark.parametrize("kernel", [4, 5])
def test_streaming_ctc(tmp_path: Path, sherpa, kernel: int) -> None:
    model = make_model(causal=True, conv_kernel=kernel)
    files = export_ctc(model, tmp_path, CHUNKS, streaming=True)
    waves = make_waves()
    options = {"constructor": "from_zipformer2_ctc", "tail": TAIL}
    together = sherpa("OnlineRecognizer", waves, files, **options)
    check(together, streamed(model, ctc_search(model), waves))
    assert sherpa("OnlineRecognizer", waves, files, **options, together=False) == together
