"""Queries, keys and values of foreign teachers, against those of the library's own pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.testing import assert_close

from mvqkd.errors import UserError
from mvqkd.teachers import load_teacher
from mvqkd.teachers.attention import AttentionRecorder, record_attention
from tests.teachers.test_hugging_face import reference
from tests.teachers.test_whisper import library_forward, noise

PARTS = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}


def linear_outputs(monkeypatch, forward: Callable[[], object]) -> list[torch.Tensor]:
    """What linear layers return in a pass."""
    found: list[torch.Tensor] = []
    call = torch.nn.Linear.__call__

    def watched(module, *arguments):
        found.append(call(module, *arguments))
        return found[-1]

    monkeypatch.setattr(torch.nn.Linear, "__call__", watched)
    forward()
    monkeypatch.undo()
    return found


@pytest.mark.parametrize("name", ["hubert-large", "wav2vec2-base", "whisper"])
def test_are_those_of_the_library(save_variant, waveforms, monkeypatch, name: str) -> None:
    folder: Path = save_variant(name)
    waves = noise(1.0, 0.4) if name == "whisper" else waveforms[:2]
    uri = f"hf:{folder}" + ("?silence=30" if name == "whisper" else "")
    teacher = load_teacher(uri, [2, 3])
    assert record_attention(uri, teacher, [2, 3]) == 2
    lens = torch.tensor([len(wave) for wave in waves])
    found = teacher(pad_sequence(waves, batch_first=True), lens)
    assert set(found.layers) == {2, 3} | {(layer, part) for layer in (2, 3) for part in PARTS}
    forward = library_forward if name == "whisper" else reference
    for row, wave in enumerate(waves):
        frames = int(found.lens[row])
        outputs = linear_outputs(monkeypatch, lambda wave=wave: forward(folder, wave))
        for part in PARTS:
            mine = found.layers[2, part][row, :frames]
            assert any(
                torch.allclose(out[0, :frames], mine, atol=1e-4)
                for out in outputs
                if out.dim() == 3 and out.shape[2] == 16 and out.shape[1] >= frames
            ), part
            others = [found.layers[2, other][row, :frames] for other in PARTS if other != part]
            assert not any(torch.allclose(mine, other, atol=1e-2) for other in others)


def test_long_audio_is_of_windows(save_variant) -> None:
    folder = save_variant("whisper")
    teacher = load_teacher(f"hf:{folder}", [1])
    record_attention(f"hf:{folder}", teacher, [1])
    (wave,) = noise(31.0)
    found = teacher(wave[None], torch.tensor([len(wave)]))
    assert found.layers[1, "key"].shape == found.layers[1].shape == (1, int(found.lens[0]), 16)


def test_another_pass_has_its_own(save_variant) -> None:
    uri = f"hf:{save_variant('hubert-large')}"
    teacher = load_teacher(uri, [1])
    record_attention(uri, teacher, [1])
    a, b = (torch.randn(1, 2000, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    first, second, again = (teacher(x, torch.tensor([2000])).layers[1, "query"] for x in (a, b, a))
    assert_close(first, again)
    assert not torch.allclose(first, second)


def test_teachers_whose_attention_is_not_known_are_refused(save_variant) -> None:
    with pytest.raises(ValueError, match="layer 3 has no projections"):
        AttentionRecorder({3: torch.nn.MultiheadAttention(4, 2)})
    # The rows of the one are not computed together, the other's projections are not called.
    for name in ("data2vec", "wavlm-large"):
        uri = f"hf:{save_variant(name)}"
        with pytest.raises(UserError, match="gives no relations of attention") as error:
            record_attention(uri, load_teacher(uri, [1]), [1])
        assert error.value.parameters == ("relation_weight",)
