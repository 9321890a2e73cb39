"""sherpa-onnx, unmodified, finds with exported files what this package finds with the model."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import Recording

from mvqkd.data.loading.tokenizer import train_tokenizer
from mvqkd.decoding import CTCGreedySearch, Search, build_search, decode_whole
from mvqkd.export.ctc_graphs import ctc_graphs
from mvqkd.export.graphs import transducer_graphs
from mvqkd.export.tokens import write_lang
from mvqkd.export.writing import write_graph
from mvqkd.geometry import needed_features, num_features
from mvqkd.models import FULL_CONTEXT, AsrModel, StreamingConfig
from tests.export.helpers import (
    CHUNKS,
    VOCAB_SIZE,
    features_of,
    ids,
    make_model,
    make_waves,
    write_tokens,
)

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


def test_a_hotword_is_found_more_often(tmp_path: Path, sherpa) -> None:
    texts = ["THE CAT SAT ON THE MAT AND THE RAT", "A BAD CAB HAD A DAB OF TAR"]
    texts = [*texts, "THAT HEN AND THE MEN"] * 3
    tokenizer = train_tokenizer(texts, VOCAB_SIZE, tmp_path)
    write_lang(tmp_path, tmp_path / "lang")
    model = make_model(causal=False)
    files = export(model, tmp_path, FULL_CONTEXT, streaming=False)
    files["tokens"] = tmp_path / "lang" / "tokens.txt"
    options = {
        **{"decoding_method": "modified_beam_search", "modeling_unit": "bpe"},
        **{"bpe_vocab": str(tmp_path / "lang" / "bpe.vocab"), "hotwords_score": 3.0},
    }
    waves = make_waves()[2:]
    (without,) = sherpa("OfflineRecognizer", waves, files, **options)
    word = " OF"
    assert word not in without["text"]
    (found,) = sherpa("OfflineRecognizer", waves, files, **options, hotwords=word.strip())
    assert word in found["text"]
    pieces = [token.replace("▁", " ") for token in tokenizer.tokens]
    spelled = [pieces[i] for i in tokenizer.encode(word)]
    places = [n for n, token in enumerate(found["tokens"]) if token == spelled[0]]
    assert any(found["tokens"][n : n + len(spelled)] == spelled for n in places)


@torch.no_grad()
def test_an_endpoint_is_found_in_silence(tmp_path: Path, sherpa) -> None:
    model = make_model(causal=True)
    assert model.transducer is not None
    joiner = model.transducer.joiner
    # One unit of the joiner tells silence from sound, and makes blanks of silence.
    waves = make_waves()[:1]
    sound = model.encoder(*features_of(waves), **CHUNKS._asdict())[0][0]
    silence = features_of([np.zeros(5 * 16000, dtype=np.float32)])
    quiet = model.encoder(*silence, **CHUNKS._asdict())[0][0, 40:]
    frames = torch.cat([sound, quiet])
    frames = torch.cat([frames, torch.ones(len(frames), 1)], dim=1)
    wanted = torch.cat([torch.full((len(sound), 1), -3.0), torch.full((len(quiet), 1), 3.0)])
    unit = torch.linalg.lstsq(frames, wanted).solution[:, 0]
    joiner.project_encoder.weight[0], joiner.project_encoder.bias[0] = unit[:-1], unit[-1]
    joiner.project_predictor.weight[0], joiner.project_predictor.bias[0] = 0.0, 0.0
    joiner.output.weight[:, 0] = 0.0
    joiner.output.weight[0, 0] = 30.0
    files = export(model, tmp_path, CHUNKS, streaming=True)
    rules = {
        **{"enable_endpoint_detection": True, "rule1_min_trailing_silence": 100.0},
        **{"rule2_min_trailing_silence": 1.0, "rule3_min_utterance_length": 100.0},
    }
    (without,) = sherpa("OnlineRecognizer", waves, files, **rules)
    (found,) = sherpa("OnlineRecognizer", waves, files, **rules, tail=4 * 16000)
    assert len(without["tokens"]) > 3
    assert without["endpoints"] == 0
    assert found["endpoints"] > 0
    assert found["tokens"][: len(without["tokens"])] == without["tokens"]


@pytest.mark.shared
@pytest.mark.skipif("MVQKD_SHARED" not in os.environ, reason="MVQKD_SHARED names no folder")
@pytest.mark.parametrize("method", METHODS)
def test_read_speech(tmp_path: Path, sherpa, method: str) -> None:
    folder = Path(os.environ["MVQKD_SHARED"]) / "corpus" / "mini_librispeech" / "dev-mini"
    paths = sorted(folder.rglob("*.opus"))[:3]
    assert len(paths) == 3
    recordings = [Recording.from_file(path).resample(16000) for path in paths]
    waves = [recording.load_audio()[0].astype(np.float32) for recording in recordings]
    model = make_model(causal=True)
    search = build_search(model, method)
    (tmp_path / "offline").mkdir()
    offline = export(model, tmp_path / "offline", CHUNKS, streaming=False)
    found = sherpa("OfflineRecognizer", waves, offline, decoding_method=method)
    expected = decode_whole(model.encoder, search, *features_of(waves), **CHUNKS._asdict())
    check(found, expected)
    files = export(model, tmp_path, CHUNKS, streaming=True)
    found = sherpa("OnlineRecognizer", waves, files, decoding_method=method, tail=TAIL)
    check(found, streamed(model, search, waves))
