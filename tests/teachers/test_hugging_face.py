from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from mvqkd.errors import UserError
from mvqkd.teachers import load_teacher
from tests.teachers.conftest import VARIANTS

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")
load_file, save_file = safetensors.load_file, safetensors.save_file
Save = Callable[..., Path]


def reference(folder: Path, wave: torch.Tensor) -> dict[int, torch.Tensor]:
    """Hidden states of the library's own pre-processing and forward of one utterance."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        output = model(inputs.input_values, output_hidden_states=True)
    layers = dict(enumerate(output.hidden_states))
    layers[len(layers) - 1] = output.last_hidden_state
    return {layer: x[0] for layer, x in layers.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_gives_what_the_library_gives_for_each_utterance_alone(
    variant: str, save_variant: Save, waveforms: list[torch.Tensor]
) -> None:
    folder = save_variant(variant)
    teacher = load_teacher(f"hf:{folder}", [0, 1, 2, 3])
    assert teacher.dim == 16 and teacher.num_layers == 3 and teacher.frame_rate == 16000 / 40
    lens = torch.tensor([len(wave) for wave in waveforms])
    with torch.no_grad():
        output = teacher(pad_sequence(waveforms, batch_first=True), lens)
    assert torch.equal(output.lens, teacher.output_lens(lens))
    assert list(output.layers) == [0, 1, 2, 3]
    for n, wave in enumerate(waveforms):
        expected = reference(folder, wave)
        for layer, x in output.layers.items():
            assert len(expected[layer]) == output.lens[n]
            torch.testing.assert_close(
                x[n, : output.lens[n]], expected[layer], atol=2e-5, rtol=1e-4
            )


@pytest.mark.parametrize("variant", ["hubert-base", "hubert-large", "wavlm-large"])
def test_what_is_in_the_padding_does_not_matter(
    variant: str, save_variant: Save, waveforms: list[torch.Tensor]
) -> None:
    teacher = load_teacher(f"hf:{save_variant(variant)}", [2])
    batch = pad_sequence(waveforms, batch_first=True)
    lens = torch.tensor([len(wave) for wave in waveforms])
    noisy = batch.clone()
    for row, length in enumerate(lens.tolist()):
        noisy[row, length:] = 5.0
    with torch.no_grad():
        clean, other = teacher(batch, lens), teacher(noisy, lens)
    for row, length in enumerate(clean.lens.tolist()):
        torch.testing.assert_close(clean.layers[2][row, :length], other.layers[2][row, :length])


def test_layers_above_the_highest_wanted_one_are_dropped(save_variant: Save) -> None:
    folder = save_variant("hubert-large")
    full = load_teacher(f"hf:{folder}")
    part = load_teacher(f"hf:{folder}", [1])
    wave, lens = torch.randn(1, 2000), torch.tensor([2000])
    assert list(full(wave, lens).layers) == [1, 2, 3]
    assert list(part(wave, lens).layers) == [1] and part.num_layers == 3
    torch.testing.assert_close(part(wave, lens).layers[1], full(wave, lens).layers[1])
    size = [sum(p.numel() for p in teacher.parameters()) for teacher in (full, part)]  # type: ignore[attr-defined]
    assert size[1] < size[0]
    for layer in (4, -1):
        with pytest.raises(UserError, match=f"no layer {layer}"):
            load_teacher(f"hf:{folder}", [layer])


@pytest.mark.parametrize(
    "variant, blank",
    [("hubert-large", 0), ("wav2vec2-base", 0), ("wavlm-base", 5), ("data2vec", 0)],
)
def test_a_fine_tuned_network_transcribes_as_the_library_does(
    variant: str, blank: int, save_variant: Save, waveforms: list[torch.Tensor], tmp_path: Path
) -> None:
    folder = copy(save_variant(variant, ctc=True), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": blank}))
    vocabulary = {**FLAT, "<pad>": blank, "C": 5 - blank}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    teacher = load_teacher(f"hf:{folder}", [3])
    assert load_teacher(f"hf:{folder}", [2]).ctc is None
    lens = torch.tensor([len(wave) for wave in waveforms])
    with torch.no_grad():
        output = teacher(pad_sequence(waveforms, batch_first=True), lens)
        assert teacher.ctc is not None
        texts = teacher.ctc.decode(output.layers[3], output.lens)
    model = transformers.AutoModelForCTC.from_pretrained(folder, dtype=torch.float32).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"), bos_token=None, eos_token=None
    )
    for wave, text in zip(waveforms, texts, strict=True):
        inputs = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt")
        best = model(inputs.input_values).logits.argmax(-1)[0]
        expected = tokenizer.decode(best).replace("<unk>", "")
        assert text == " ".join(expected.split())
    assert any(texts)


def test_unknown_and_damaged_checkpoints_are_refused(save_variant: Save, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_teacher(f"hf:{tmp_path}")
    transformers.BertConfig().save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a bert network"):
        load_teacher(f"hf:{tmp_path}")
    with pytest.raises(UserError, match="is no Whisper"):
        load_teacher(f"hf:{save_variant('hubert-base')}?silence=1")


def test_a_checkpoint_that_lacks_weights_is_refused(save_variant: Save, tmp_path: Path) -> None:
    source = save_variant("hubert-base")
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_hidden_layers"] = 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"lacks \d+ weights, as encoder\.layers\.3"):
        load_teacher(f"hf:{tmp_path}")


def copy(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder / "copy"))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"


@pytest.mark.parametrize(
    "damage", [lambda _: POINTER, lambda whole: whole[:500], lambda whole: whole[:-100], None]
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_weights_are_named(
    damage: Callable[[bytes], bytes] | None, name: str, save_variant: Save, tmp_path: Path
) -> None:
    folder = copy(save_variant("hubert-large"), tmp_path)
    weights = folder / "model.safetensors"
    if name != weights.name:
        torch.save(load_file(weights), folder / name)
        weights.unlink()
        weights = folder / name
        load_teacher(f"hf:{folder}", [1])
    if damage is None:
        weights.unlink()
    else:
        weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(UserError, match=f"the weights of hf:{folder} cannot be read: ") as caught:
        load_teacher(f"hf:{folder}", [1])
    assert caught.value.remedy is not None and "git lfs pull" in caught.value.remedy


def test_weights_of_another_size_are_refused(save_variant: Save, tmp_path: Path) -> None:
    folder = copy(save_variant("hubert-large"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(UserError, match=f"the weights of hf:{folder} cannot be read: "):
        load_teacher(f"hf:{folder}", [1])


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, None])
def test_weights_of_8_bits_are_refused(
    save_variant: Save, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    folder = copy(save_variant("hubert-large"), tmp_path)
    if dtype is None:
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
        (folder / "config.json").write_text(json.dumps(config))
    else:
        path = folder / "model.safetensors"
        weights = {name: x.to(dtype) for name, x in load_file(path).items()}
        save_file(weights, path, metadata={"format": "pt"})
    named = r"quantized \((I8|F8_E4M3|bitsandbytes)\)\n.*16 or 32 bits"
    with pytest.raises(UserError, match=named):
        load_teacher(f"hf:{folder}", [1])


@pytest.mark.parametrize("name", ["/none/x", "./x", "models/none/x"])
def test_a_folder_that_is_missing_is_no_name_on_the_hub(name: str) -> None:
    with pytest.raises(UserError, match=f"there is no folder {name}"):
        load_teacher(f"hf:{name}", [1])


def test_a_name_that_may_be_either_is_said_to_be_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hf:models/none is no folder here, and cannot be read"):
        load_teacher("hf:models/none", [1])


FLAT = {"<pad>": 0, "<unk>": 1, "|": 2, "A": 3, "B": 4, "C": 5}


@pytest.mark.parametrize(
    "vocabulary",
    [
        json.dumps({"eng": FLAT, "deu": FLAT}),  # as of MMS
        json.dumps({**FLAT, "D": 6}),
        json.dumps({**FLAT, "D": -1}),
        json.dumps(list(FLAT)),
        POINTER.decode(),
    ],
)
def test_without_a_vocabulary_of_its_outputs_a_network_gives_embeddings(
    vocabulary: str,
    save_variant: Save,
    tmp_path: Path,
    waveforms: list[torch.Tensor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = save_variant("wav2vec2-large", ctc=True)
    folder = copy(source, tmp_path)
    (folder / "vocab.json").write_text(vocabulary)
    teacher, expected = load_teacher(f"hf:{folder}", [3]), load_teacher(f"hf:{source}", [3])
    assert teacher.ctc is None and expected.ctc is not None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{folder}/vocab.json does not map symbols to the 6 outputs" in caplog.text
    wave, lens = waveforms[:1], torch.tensor([len(waveforms[0])])
    found, known = (each(torch.stack(wave), lens).layers[3] for each in (teacher, expected))
    assert torch.equal(found, known)


def test_without_transformers_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'mvqkd\[hf\]'"):
        load_teacher("hf:somewhere")
