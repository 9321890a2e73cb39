from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from mvqkd.errors import UserError
from mvqkd.teachers import load_teacher
from tests.teachers.conftest import randomize

torchaudio = pytest.importorskip("torchaudio")

SIZES = {
    "extractor_conv_layer_config": [(8, 10, 5), (8, 3, 4), (8, 2, 2)],
    "extractor_conv_bias": True,
    "encoder_embed_dim": 16,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 8,
    "encoder_pos_conv_groups": 2,
    "encoder_num_layers": 3,
    "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 24,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_drop": 0.1,
}
BASE = {"extractor_mode": "group_norm", "encoder_layer_norm_first": False}
LARGE = {"extractor_mode": "layer_norm", "encoder_layer_norm_first": True}
RELATIVE = {"encoder_num_buckets": 8, "encoder_max_distance": 20}
Bundle = torchaudio.pipelines.Wav2Vec2Bundle


def make(
    kind: str, options: dict[str, object], normalize: bool, folder: Path, *, ctc: bool = False
) -> tuple[Bundle, Path]:
    """A bundle of torchaudio's own class, and the file that it would download."""
    parameters = {**SIZES, **options, "aux_num_out": 6 if ctc else None}
    factory = {
        "Wav2Vec2": torchaudio.models.wav2vec2_model,
        "WavLM": torchaudio.models.wavlm_model,
    }[kind]
    model = factory(**parameters)
    randomize(model)
    common = ("tiny.pth", parameters, 16000, normalize, kind)
    bundle = (
        torchaudio.pipelines.Wav2Vec2ASRBundle(*common, ("|", "A", "B", "C", "D"), ())
        if ctc
        else Bundle(*common)
    )
    path = folder / "tiny.pth"
    torch.save(model.state_dict(), path)
    return bundle, path


@pytest.mark.parametrize(
    "kind, options, normalize",
    [
        ("Wav2Vec2", BASE, False),
        ("Wav2Vec2", LARGE, True),
        ("WavLM", {**BASE, **RELATIVE}, False),
        ("WavLM", {**LARGE, **RELATIVE}, True),
    ],
)
def test_a_batch_gives_what_torchaudio_gives_for_each_utterance_alone(
    kind: str,
    options: dict[str, object],
    normalize: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    waveforms: list[torch.Tensor],
) -> None:
    bundle, path = make(kind, options, normalize, tmp_path, ctc=True)
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    teacher = load_teacher(f"torchaudio:TINY?state_dict={path}", [0, 1, 2, 3])
    assert teacher.dim == 16 and teacher.num_layers == 3 and teacher.frame_rate == 16000 / 40
    lens = torch.tensor([len(wave) for wave in waveforms])
    with torch.no_grad():
        output = teacher(pad_sequence(waveforms, batch_first=True), lens)
        assert teacher.ctc is not None
        texts = teacher.ctc.decode(output.layers[3], output.lens)
    model = bundle.get_model(dl_kwargs={"model_dir": str(tmp_path), "file_name": "tiny.pth"})
    for n, wave in enumerate(waveforms):
        with torch.no_grad():
            expected, _ = model.extract_features(wave[None])
            logits, _ = model(wave[None])
        size = int(output.lens[n])
        assert size == expected[0].shape[1]
        for layer in (1, 2):
            torch.testing.assert_close(
                output.layers[layer][n, :size], expected[layer - 1][0], atol=2e-5, rtol=1e-4
            )
        # The last layer is after the final normalization: the head's logits show it.
        torch.testing.assert_close(
            teacher.ctc.projection(output.layers[3][n, :size]), logits[0], atol=2e-5, rtol=1e-4
        )
        symbols = torch.unique_consecutive(logits[0].argmax(-1)).tolist()
        text = "".join("-|ABCD"[symbol] for symbol in symbols if symbol)
        assert texts[n] == " ".join(text.replace("|", " ").split())


def test_layer_0_is_the_input_of_the_first_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, path = make("Wav2Vec2", LARGE, True, tmp_path)
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    teacher = load_teacher(f"torchaudio:TINY?state_dict={path}", [0])
    assert teacher.ctc is None
    wave = torch.randn(1, 2000)
    model = bundle.get_model(dl_kwargs={"model_dir": str(tmp_path), "file_name": "tiny.pth"})
    seen = []
    model.model.encoder.transformer.layers[0].register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[0])
    )
    model(wave)
    output = teacher(wave, torch.tensor([2000]))
    torch.testing.assert_close(output.layers[0], seen[0], atol=1e-5, rtol=1e-5)


def test_the_paper_s_teacher_is_known_and_others_are_named() -> None:
    with pytest.raises(UserError, match="HUBERT_ASR_XLARGE"):
        load_teacher("torchaudio:NOTHING")
    with pytest.raises(UserError, match="is missing"):
        load_teacher("torchaudio:HUBERT_ASR_XLARGE?state_dict=/nowhere/file.pth")
    with pytest.raises(UserError, match=r"/no where/a\+b\.pth"):
        load_teacher("torchaudio:HUBERT_ASR_XLARGE?state_dict=/no%20where/a+b.pth")


def test_weights_of_another_network_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, path = make("Wav2Vec2", LARGE, True, tmp_path)
    torch.save({"weight": torch.zeros(2)}, path)
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    with pytest.raises(UserError, match="no weights of TINY"):
        load_teacher(f"torchaudio:TINY?state_dict={path}")


class _Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("damage", ["pointer", "empty", "half", "no end", "a list", "a program"])
def test_a_damaged_file_is_named(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, path = make("Wav2Vec2", LARGE, True, tmp_path)
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    whole = path.read_bytes()
    listed = io.BytesIO()
    torch.save([1], listed)
    path.write_bytes(
        {
            "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n",
            "empty": b"",
            "half": whole[: len(whole) // 2],
            "no end": whole[:-50],
            "a list": listed.getvalue(),
            "a program": pickle.dumps(_Runs(tmp_path / "ran"), protocol=2),
        }[damage]
    )
    with pytest.raises(UserError, match=rf"{path} holds no weights of TINY: ") as caught:
        load_teacher(f"torchaudio:TINY?state_dict={path}", [1])
    assert caught.value.remedy is not None and "state_dict" in caught.value.remedy
    assert "weights_only" not in str(caught.value)  # no advice to run the file
    assert not (tmp_path / "ran").exists()


def test_a_damaged_download_is_to_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, _ = make("Wav2Vec2", LARGE, True, tmp_path)
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    path = tmp_path / "checkpoints" / "tiny.pth"
    path.parent.mkdir()
    path.write_text("<html>")
    with pytest.raises(UserError, match=rf"{path} holds no weights of TINY: .*\n.*delete it"):
        load_teacher("torchaudio:TINY", [1])
