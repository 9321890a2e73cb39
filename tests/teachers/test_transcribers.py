"""Teachers that write text: their N-best lists against plain searches and other implementations."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from torch.nn.utils.rnn import pad_sequence

from mvqkd.data.loading.tokenizer import train_tokenizer
from mvqkd.data.targets.spoken_text import SpokenText
from mvqkd.decoding import build_search, decode_whole
from mvqkd.decoding.ctc_prefix import EMPTY, extend_beam
from mvqkd.errors import UserError
from mvqkd.evaluation.wer import align
from mvqkd.features.fbank import extract
from mvqkd.teachers import load_teacher
from mvqkd.teachers.own_text import OwnTranscriber
from mvqkd.teachers.transcribers import load_transcriber
from mvqkd.teachers.whisper import WhisperTeacher
from mvqkd.teachers.whisper_text import WhisperTranscriber
from tests.decoding.conftest import make_model

transformers = pytest.importorskip("transformers")
Save = Callable[..., Path]
PROMPT = [3, 4]
END = 2


class Letters:
    """A tokenizer of a letter for each token."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(chr(ord("a") + x) for x in ids if x > 4 or x == 0)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        vocab_size=9,
        max_target_positions=12,
        pad_token_id=END,
        bos_token_id=1,
        eos_token_id=END,
        decoder_start_token_id=PROMPT[0],
        begin_suppress_tokens=None,
    )
    model = transformers.WhisperForConditionalGeneration(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "embed_tokens" in name or "fc" in name or "proj" in name:
            parameter.mul_(12.0 if "embed" in name else 4.0)
    return model


def whisper(network: torch.nn.Module, beam_size: int = 3, **options) -> WhisperTranscriber:
    filters = torch.from_numpy(transformers.WhisperFeatureExtractor().mel_filters)
    given = {"prompt": PROMPT, "no_speech": 0, "suppress": [1, 3, 4], **options}
    return WhisperTranscriber(network, Letters(), filters, beam_size=beam_size, **given)


def noise(*seconds: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(round(16000 * s), generator=generator) for s in seconds]


def run(transcriber, waves: list[torch.Tensor]):
    return transcriber(pad_sequence(waves, batch_first=True), torch.tensor([len(x) for x in waves]))


def encoded(network: torch.nn.Module, wave: torch.Tensor, seconds: int) -> torch.Tensor:
    filters = torch.from_numpy(transformers.WhisperFeatureExtractor().mel_filters)
    teacher = WhisperTeacher(network.get_encoder(), filters, [2], silence=30).eval()
    mel = teacher.log_mel(wave[None], torch.tensor([len(wave)]))[..., : 100 * seconds]
    return teacher.encode(mel, torch.tensor([100 * seconds]))[2]


def test_whisper_scores_are_probabilities_of_the_network(network: torch.nn.Module) -> None:
    (wave,) = noise(1.5)
    (found,) = run(whisper(network), [wave])
    assert len(found.hypotheses) == 3
    x = encoded(network, wave, 4)  # 1.5 s and 2 s of silence, in whole steps of 2 s
    for hypothesis in found.hypotheses:
        ids = [ord(letter) - ord("a") for letter in hypothesis.text]
        written = [*ids, END] if hypothesis.finished else ids
        total = 0.0
        for place in range(len(written)):
            prefix = torch.tensor([[*PROMPT, *written[:place]]])
            logits = network(encoder_outputs=(x,), decoder_input_ids=prefix).logits
            total += float(logits[0, -1].log_softmax(-1)[written[place]])
        assert hypothesis.log_prob == pytest.approx(total, abs=1e-3)
        assert hypothesis.length == len(written)
        assert not {1, 3, 4} & set(ids)
    first = network(encoder_outputs=(x,), decoder_input_ids=torch.tensor([PROMPT[:1]])).logits
    assert found.no_speech == pytest.approx(float(first[0, 0].softmax(-1)[0]), abs=1e-5)


def test_a_beam_of_one_is_greedy_search_in_the_librarys_window(network: torch.nn.Module) -> None:
    (wave,) = noise(2.0)
    (found,) = run(whisper(network, 1, silence=30.0, suppress=[3, 4]), [wave])
    features = transformers.WhisperFeatureExtractor()(
        wave.numpy(), sampling_rate=16000, return_tensors="pt"
    ).input_features
    ids = list(PROMPT)
    while len(ids) < 12 and ids[-1] != END:
        logits = network(input_features=features, decoder_input_ids=torch.tensor([ids])).logits
        logits[..., 3:5] = -torch.inf
        ids.append(int(logits[0, -1].argmax()))
    assert found.hypotheses[0].text == Letters().decode(ids[2:], skip_special_tokens=True)
    assert found.hypotheses[0].finished == (ids[-1] == END)


def test_whisper_does_not_depend_on_the_batch(network: torch.nn.Module) -> None:
    waves = noise(1.5, 3.1, 1.9, 0.4)
    transcriber = whisper(network)
    together = run(transcriber, waves)
    for wave, found in zip(waves, together, strict=True):
        (alone,) = run(transcriber, [wave])
        assert [h.text for h in alone.hypotheses] == [h.text for h in found.hypotheses]
        assert [h.log_prob for h in alone.hypotheses] == pytest.approx(
            [h.log_prob for h in found.hypotheses], abs=1e-3
        )
        assert alone.no_speech == pytest.approx(found.no_speech, abs=1e-5)
    assert transcriber.max_seconds == 30.0 and transcriber.settings["beam_size"] == 3


def test_texts_that_find_no_end_are_unfinished(network: torch.nn.Module) -> None:
    (found,) = run(whisper(network, suppress=[1, 3, 4, END]), noise(1.0))
    assert not any(h.finished for h in found.hypotheses)
    assert all(h.length == 10 for h in found.hypotheses)  # 12 positions less the prompt


def test_ctc_heads_write_what_a_prefix_search_finds(
    save_variant: Save, waveforms: list[torch.Tensor]
) -> None:
    folder = save_variant("hubert-large", ctc=True)
    transcriber = load_transcriber(f"hf:{folder}", beam_size=4)
    found = run(transcriber, waveforms)
    teacher = load_teacher(f"hf:{folder}", [3])
    lens = torch.tensor([len(x) for x in waveforms])
    output = teacher(pad_sequence(waveforms, batch_first=True), lens)
    assert teacher.ctc is not None
    for row, transcription in enumerate(found):
        logits = teacher.ctc.projection(output.layers[3][row, : output.lens[row]])
        beam = extend_beam(EMPTY, logits.log_softmax(-1), beam_size=4, blank=0)
        assert [h.text for h in transcription.hypotheses] == [
            teacher.ctc.spell(prefix.tokens) for prefix in beam
        ]
        assert [h.log_prob for h in transcription.hypotheses] == pytest.approx(
            [prefix.score for prefix in beam], rel=1e-4
        )
        assert transcription.no_speech is None


@pytest.mark.parametrize("method", ["modified_beam_search", "ctc_prefix_beam_search"])
def test_own_models_write_what_decoding_finds(tmp_path: Path, method: str) -> None:
    tokenizer = train_tokenizer(["ABBA CAB", "BACK CAB"] * 9, 9, tmp_path)
    model = make_model(vocab_size=tokenizer.vocab_size).float()
    wanted = None if method == "modified_beam_search" else method
    transcriber = OwnTranscriber(model, tokenizer, method=wanted, beam_size=3, chunk_size=4)
    assert transcriber.settings["method"] == method
    waves = noise(1.0, 0.01, 0.7)
    found = run(transcriber, waves)
    assert found[1].hypotheses == []  # too short for a frame
    search = build_search(model, method, beam_size=3, nbest=3)
    for wave, transcription in zip(waves[::2], found[::2], strict=True):
        features = torch.from_numpy(extract(wave.numpy()))[None]
        (expected,) = decode_whole(
            model.encoder, search, features, torch.tensor([features.shape[1]]), chunk_size=4
        )
        assert [h.text for h in transcription.hypotheses] == [
            tokenizer.decode(h.tokens) for h in expected
        ]
        assert [h.log_prob for h in transcription.hypotheses] == pytest.approx(
            [h.score for h in expected], rel=1e-4
        )


def test_what_writes_no_text_is_refused(save_variant: Save, tmp_path: Path) -> None:
    for uri, message in (
        (f"hf:{save_variant('hubert-large')}", "does not write text"),
        (f"hf:{save_variant('hubert-large', ctc=True)}?language=en", "is no Whisper"),
        ("hf:/nowhere/at/all", "there is no folder"),
        ("nothing", "names no teacher"),
        ("hf:x?beam=4", "there is no option beam"),
        ("python:tests:nothing", "cannot be imported"),
        (f"mvqkd:{tmp_path}", "is missing"),
    ):
        with pytest.raises(UserError, match=message):
            load_transcriber(uri, beam_size=2)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.skipif("MVQKD_SHARED" not in os.environ, reason="MVQKD_SHARED names no folder")
def test_whisper_writes_what_was_said_and_finds_no_speech_in_silence() -> None:
    shared = Path(os.environ["MVQKD_SHARED"])
    transcriber = load_transcriber(f"hf:{shared / 'teachers' / 'whisper_tiny_en'}", beam_size=2)
    transcripts = min((shared / "corpus").rglob("*.trans.txt"))
    errors = words = 0
    for line in transcripts.read_text().splitlines()[:4]:
        name, _, text = line.partition(" ")
        samples, _ = soundfile.read(transcripts.with_name(f"{name}.opus"), dtype="float32")
        (found,) = run(transcriber, [torch.from_numpy(samples)])
        best = found.hypotheses[0]
        errors += sum(a != b for a, b in align(text.split(), SpokenText()(best.text).split()))
        words += len(text.split())
        assert found.no_speech is not None and found.no_speech < 0.6
        assert best.finished and math.exp(best.log_prob / best.length) > 0.5
    assert errors < 0.2 * words
    (nothing,) = run(transcriber, [torch.zeros(5 * 16000)])
    assert nothing.no_speech is not None and nothing.no_speech > 0.6
