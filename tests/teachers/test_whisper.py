from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from torch.nn.utils.rnn import pad_sequence

from mvqkd.errors import UserError
from mvqkd.teachers import load_teacher

transformers = pytest.importorskip("transformers")
Save = Callable[..., Path]


def library_forward(folder: str | Path, wave: torch.Tensor) -> dict[int, torch.Tensor]:
    """transformers' features and encoder on the whole window of 30 s; valid frames."""
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    model = transformers.WhisperModel.from_pretrained(folder, dtype=torch.float32)
    features = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        output = model.encoder.eval()(features, output_hidden_states=True)
    layers = dict(enumerate(output.hidden_states))
    layers[len(layers) - 1] = output.last_hidden_state
    frames = (len(wave) // 160 + 1) // 2
    return {layer: x[0, :frames] for layer, x in layers.items()}


def embed(uri: str, waves: list[torch.Tensor], layers: list[int]) -> list[dict[int, torch.Tensor]]:
    teacher = load_teacher(uri, layers)
    lens = torch.tensor([len(wave) for wave in waves])
    with torch.no_grad():
        output = teacher(pad_sequence(waves, batch_first=True), lens)
    assert torch.equal(output.lens, teacher.output_lens(lens))
    return [
        {layer: x[n, : output.lens[n]] for layer, x in output.layers.items()}
        for n in range(len(waves))
    ]


def close(found: dict[int, torch.Tensor], expected: dict[int, torch.Tensor]) -> None:
    for layer, x in found.items():
        torch.testing.assert_close(x, expected[layer], atol=5e-5, rtol=1e-4)


def noise(*seconds: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(int(s * 16000), generator=generator) * (0.1 / (n + 1))
        for n, s in enumerate(seconds)
    ]


def test_the_whole_window_is_what_the_library_gives(save_variant: Save) -> None:
    folder = save_variant("whisper")
    waves = noise(1.503, 0.8, 2.0)
    found = embed(f"hf:{folder}?silence=30", waves, [0, 1, 2, 3])
    for wave, layers in zip(waves, found, strict=True):
        close(layers, library_forward(folder, wave))


@pytest.mark.parametrize("kind", ["encoder", "no decoder", "classifier"])
def test_a_folder_without_a_decoder_is_enough(
    save_variant: Save, tmp_path: Path, kind: str
) -> None:
    folder = save_variant("whisper")
    model = transformers.WhisperModel.from_pretrained(folder)
    if kind == "encoder":
        model.get_encoder().save_pretrained(tmp_path)
    elif kind == "classifier":
        other = transformers.WhisperForAudioClassification(model.config)
        other.encoder.load_state_dict(model.encoder.state_dict())
        other.save_pretrained(tmp_path)
    else:
        model.save_pretrained(tmp_path)
        safetensors = pytest.importorskip("safetensors.torch")
        weights = safetensors.load_file(tmp_path / "model.safetensors")
        kept = {name: x for name, x in weights.items() if "decoder" not in name}
        safetensors.save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    transformers.WhisperFeatureExtractor().save_pretrained(tmp_path)
    waves = noise(1.0, 0.5)
    expected = embed(f"hf:{folder}", waves, [1, 3])
    for found, wanted in zip(embed(f"hf:{tmp_path}", waves, [1, 3]), expected, strict=True):
        for layer, x in found.items():
            torch.testing.assert_close(x, wanted[layer], atol=0, rtol=0)


@pytest.mark.parametrize("silence", [0, 0.5])
def test_an_utterance_does_not_depend_on_its_batch(save_variant: Save, silence: float) -> None:
    uri = f"hf:{save_variant('whisper')}?silence={silence}"
    waves = noise(1.503, 0.8, 2.0)
    together = embed(uri, waves, [0, 2, 3])
    for wave, layers in zip(waves, together, strict=True):
        close(layers, embed(uri, [wave], [0, 2, 3])[0])


def test_two_seconds_of_silence_are_encoded_unless_others_are_asked_for(save_variant: Save) -> None:
    folder = save_variant("whisper")
    (found,), (two,), (none,) = (
        embed(f"hf:{folder}{options}", noise(0.8), [2])
        for options in ("", "?silence=2", "?silence=0")
    )
    assert torch.equal(found[2], two[2]) and not torch.equal(found[2], none[2])


def test_long_audio_is_encoded_in_overlapping_windows(save_variant: Save) -> None:
    folder = save_variant("whisper")
    wave = noise(70.003)[0]
    frames = (len(wave) // 160 + 1) // 2
    found = embed(f"hf:{folder}?silence=0", [wave, wave[: 31 * 16000]], [2])
    assert len(found[0][2]) == frames and len(found[1][2]) == 1550
    # 70.00 s in three windows, 0-30, 20-50, 40-70 s: the frames of each from its middle.
    teacher = load_teacher(f"hf:{folder}?silence=0", [2])
    mel = teacher.log_mel(wave[None], torch.tensor([len(wave)]))  # type: ignore[attr-defined]
    for start, begin, end in [(0, 0, 25), (20, 25, 45), (40, 45, 70)]:
        window = mel[..., 100 * start : 100 * start + 3000]
        x = teacher.encode(window, torch.tensor([window.shape[2]]))[2][0]  # type: ignore[attr-defined]
        expected = x[50 * (begin - start) : 50 * (end - start)]
        torch.testing.assert_close(found[0][2][50 * begin : 50 * end], expected)


@pytest.mark.parametrize("length", [3001, 3002, 3500, 5999, 6001, 12345])
def test_windows_cover_every_frame_once(save_variant: Save, length: int) -> None:
    teacher = load_teacher(f"hf:{save_variant('whisper')}", [1])
    spans = teacher._spans(length)  # type: ignore[attr-defined]
    position = 0
    for start, begin, end in spans:
        assert start % 2 == 0 and begin == position and begin < end
        assert start // 2 <= begin and end <= (start + 3000) // 2
        position = end
    assert position == (length + 1) // 2
    assert spans[-1][0] + 3000 >= length


def test_directions_of_position_are_those_along_which_silence_varies(save_variant: Save) -> None:
    folder = save_variant("whisper")
    silence = torch.zeros(30 * 16000)
    raw = embed(f"hf:{folder}?silence=0", [silence], [1, 3])[0]
    waves = noise(1.503, 0.8)
    kept = embed(f"hf:{folder}", waves, [1, 3])
    cleared = embed(f"hf:{folder}?position_directions=4", waves, [1, 3])
    for layer, response in raw.items():
        axes = torch.pca_lowrank(response, q=8, niter=20)[2][:, :4]
        projection = torch.eye(len(axes)) - axes @ axes.T
        for before, after in zip(kept, cleared, strict=True):
            torch.testing.assert_close(
                after[layer], before[layer] @ projection, atol=1e-4, rtol=1e-4
            )


def test_more_directions_than_dimensions_are_refused(save_variant: Save) -> None:
    folder = save_variant("whisper")
    with pytest.raises(UserError, match="position_directions=9999 of"):
        load_teacher(f"hf:{folder}?position_directions=9999", [1])


@pytest.mark.shared
@pytest.mark.skipif("MVQKD_SHARED" not in os.environ, reason="MVQKD_SHARED names no folder")
def test_the_real_encoders_position_is_removed() -> None:
    """The same second of noise at several positions: mostly the position differs."""
    folder = Path(os.environ["MVQKD_SHARED"]) / "teachers" / "whisper_tiny_en_encoder"
    second = noise(1.0)[0]
    wave = second.repeat(20)

    def spread(uri: str) -> float:
        x = embed(uri, [wave], [4])[0][4].unflatten(0, (20, 50))[2:-2]
        x = x - x.mean(dim=(0, 1))
        return float(x.mean(dim=1).square().mean() / x.square().mean())

    assert spread(f"hf:{folder}") > 0.3
    assert spread(f"hf:{folder}?position_directions=10") < 0.5 * spread(f"hf:{folder}")


@pytest.mark.shared
@pytest.mark.skipif("MVQKD_SHARED" not in os.environ, reason="MVQKD_SHARED names no folder")
def test_the_real_encoder_on_the_whole_window_is_what_the_library_gives() -> None:
    folder = Path(os.environ["MVQKD_SHARED"]) / "teachers" / "whisper_tiny_en_encoder"
    waves = noise(3.1, 1.2)
    found = embed(f"hf:{folder}?silence=30", waves, [0, 1, 2, 3, 4])
    for wave, layers in zip(waves, found, strict=True):
        close(layers, library_forward(folder, wave))


@pytest.mark.shared
@pytest.mark.skipif("MVQKD_SHARED" not in os.environ, reason="MVQKD_SHARED names no folder")
@pytest.mark.parametrize(("seconds", "share"), [(2, 0.072), (8, 0.0115), (14, 0.0061)])
def test_less_silence_changes_the_real_encoder_little(seconds: int, share: float) -> None:
    """Of the variance, in real speech."""
    shared = Path(os.environ["MVQKD_SHARED"])
    folder = shared / "teachers" / "whisper_tiny_en_encoder"
    waves: list[torch.Tensor] = []
    for path in sorted((shared / "corpus").rglob("*.opus")):
        if abs(soundfile.info(path).duration - seconds) < 0.6 and len(waves) < 5:
            waves.append(torch.from_numpy(soundfile.read(path, dtype="float32")[0]))
    assert len(waves) == 5
    less, whole = (
        [found[4] for found in embed(f"hf:{folder}{options}", waves, [4])]
        for options in ("", "?silence=30")
    )
    difference = sum(float((a - b).square().sum()) for a, b in zip(less, whole, strict=True))
    variance = sum(float((b - b.mean(dim=0)).square().sum()) for b in whole)
    assert difference / variance == pytest.approx(share, rel=0.1)
