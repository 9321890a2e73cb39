"""Recognition of files and streams by a folder of an experiment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mvqkd import Recognizer
from mvqkd.checkpoints.files import PRETRAINED, save_checkpoint
from mvqkd.data.loading.tokenizer import train_tokenizer
from mvqkd.decoding import decode_whole
from mvqkd.errors import UserError
from mvqkd.features.fbank import extract
from mvqkd.recipe.build import build_student, describe_model
from mvqkd.recipe.config.schema import ExperimentConfig, LossConfig, ModelConfig

TEXTS = ["THE CAT SAT ON THE MAT", "A DOG'S LIFE", "THE DOG RAN", "CATS AND DOGS"] * 5
METHODS = ["greedy_search", "modified_beam_search", "ctc_greedy_search"]


def experiment(folder: Path, *, streaming: bool = False, ctc: float = 0.2) -> Path:
    """A folder with random weights and the tokens that they are of."""
    folder.mkdir()
    tokenizer = train_tokenizer(TEXTS, 40, folder)
    chunks = dict(causal=True, chunk_size=[4], left_context=8) if streaming else {}
    model = ModelConfig(
        dim=16,
        num_layers=2,
        num_heads=2,
        feedforward_dim=24,
        conv_kernel=5,
        predictor_dim=16,
        joiner_dim=16,
        **chunks,  # type: ignore[arg-type]
    )
    config = ExperimentConfig(model=model, loss=LossConfig(ctc_scale=ctc))
    torch.manual_seed(0)
    student = build_student(config, tokenizer.vocab_size)
    state = student.state_dict()
    for name, value in state.items():  # logits far apart, so that there is something to recognize
        if name.endswith("output.weight"):
            state[name] = 20 * value
    description = describe_model(config, tokenizer.vocab_size)
    save_checkpoint(folder / PRETRAINED, {"model": state, "description": description})
    return folder


def speech(seconds: float = 2.0) -> np.ndarray:
    random = np.random.default_rng(1)
    time = np.arange(int(seconds * 16000)) / 16000
    tones = sum(np.sin(2 * np.pi * f * time * (1 + 0.2 * time)) for f in (220, 700, 1500))
    return (0.1 * tones + 0.01 * random.standard_normal(len(time))).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_file_is_what_its_features_decode_to(
    tmp_path: Path, method: str, streaming: bool
) -> None:
    recognizer = Recognizer.load(experiment(tmp_path / "exp", streaming=streaming), method=method)
    soundfile.write(tmp_path / "a.flac", speech(), 16000)
    samples, _ = soundfile.read(tmp_path / "a.flac", dtype="float32")
    x = torch.from_numpy(extract(samples))[None]
    lens = torch.tensor([x.shape[1]])
    chunks = dict(chunk_size=4, left_context=8) if streaming else {}
    model, search = recognizer.model, recognizer._search
    (hypotheses,) = decode_whole(model.encoder, search, x, lens, **chunks)  # type: ignore[arg-type]
    expected = recognizer.tokenizer.decode(hypotheses[0].tokens)
    assert expected
    assert recognizer.transcribe([tmp_path / "a.flac", str(tmp_path / "a.flac")]) == [expected] * 2


def test_rates_and_channels_are_converted(tmp_path: Path) -> None:
    recognizer = Recognizer.load(experiment(tmp_path / "exp"))
    soundfile.write(tmp_path / "mono.wav", speech(), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "stereo.wav", np.stack([speech()] * 2, 1), 16000, subtype="FLOAT")
    twice = np.interp(np.arange(64000) / 2, np.arange(32000), speech()).astype(np.float32)
    soundfile.write(tmp_path / "fast.wav", twice, 32000, subtype="FLOAT")
    mono, stereo, fast = (
        recognizer.features(tmp_path / f"{name}.wav") for name in ("mono", "stereo", "fast")
    )
    assert np.array_equal(mono, stereo)
    assert fast.shape == mono.shape
    assert np.abs(fast - mono)[5:-5, :40].mean() < 0.2  # log energies at low frequencies


def test_a_stream_ends_as_the_file_does(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "exp", streaming=True)
    recognizer = Recognizer.load(folder, method="greedy_search")
    soundfile.write(tmp_path / "a.wav", speech(), 16000, subtype="FLOAT")
    stream = recognizer.stream()
    for begin in range(0, 32000, 5000):
        stream.accept(speech()[begin : begin + 5000])
    assert stream.finish() == recognizer.transcribe([tmp_path / "a.wav"])[0] != ""


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "exp", ctc=0.0)
    with pytest.raises(ValueError, match="no CTC head"):
        Recognizer.load(folder, method="ctc_greedy_search")
    with pytest.raises(ValueError, match="take one of greedy_search"):
        Recognizer.load(folder, method="best")
    recognizer = Recognizer.load(folder)
    with pytest.raises(ValueError, match="trained with chunks"):
        recognizer.stream()
    with pytest.raises(UserError, match=r"none\.wav is missing"):
        recognizer.transcribe([tmp_path / "none.wav"])
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(UserError, match=r"text\.wav cannot .*audio unreadable"):
        recognizer.transcribe([tmp_path / "text.wav"])
    soundfile.write(tmp_path / "half.wav", speech(1.0), 16000)
    (tmp_path / "half.wav").write_bytes((tmp_path / "half.wav").read_bytes()[:16000])
    with pytest.raises(UserError, match=r"half\.wav cannot .*audio truncated"):
        recognizer.transcribe([tmp_path / "half.wav"])
    soundfile.write(tmp_path / "short.wav", speech(0.03), 16000)
    with pytest.raises(UserError, match=r"short\.wav is too short"):
        recognizer.transcribe([tmp_path / "short.wav"])
    (folder / "bpe.model").unlink()
    with pytest.raises(UserError, match=r"bpe\.model is missing"):
        Recognizer.load(folder)
