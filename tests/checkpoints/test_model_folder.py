"""Model folders and `.safetensors` are read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mvqkd import load_model
from mvqkd.checkpoints.files import save_checkpoint
from mvqkd.checkpoints.model_folder import lang_folder, read_safetensors, write_safetensors
from mvqkd.errors import UserError
from mvqkd.models.build import build_model

pytest.importorskip("safetensors")
DESCRIPTION: dict[str, Any] = {
    "model": {
        **{"dim": 16, "num_layers": 1, "num_heads": 2, "feedforward_dim": 16, "conv_kernel": 3},
        **{"dropout": 0.0, "causal": False, "predictor_dim": 8, "context_size": 2},
        "joiner_dim": 8,
    },
    "vocab_size": 10,
    "heads": ["transducer", "ctc"],
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(DESCRIPTION)


def check(loaded, model) -> None:
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=0, rtol=0)
    assert loaded.description == DESCRIPTION
    assert not loaded.training


@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_a_folder_with_safetensors_alone(model, tmp_path: Path, prefix: str) -> None:
    write_safetensors(tmp_path / "exp" / "model.safetensors", model.state_dict(), DESCRIPTION)
    check(load_model(f"{prefix}{tmp_path}"), model)
    check(load_model(tmp_path / "exp" / "model.safetensors"), model)


def test_a_folder_with_pretrained(model, tmp_path: Path) -> None:
    state = {"model": model.state_dict(), "description": DESCRIPTION}
    save_checkpoint(tmp_path / "exp" / "pretrained.pt", state)
    check(load_model(tmp_path), model)


def test_a_repository_of_the_hub(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    write_safetensors(tmp_path / "exp" / "model.safetensors", model.state_dict(), DESCRIPTION)
    asked = []

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision))
        assert "*.safetensors" in allow_patterns
        assert not any(pattern.endswith((".pt", ".onnx")) for pattern in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    check(load_model("hf:owner/name"), model)
    check(load_model("hf:owner/name@v2"), model)
    assert asked == [("owner/name", None), ("owner/name", "v2")]

    def refuse(*_: Any, **__: Any) -> str:
        raise OSError("no such repository\nmore")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=r"hf:owner/name cannot be downloaded: no such repository"):
        load_model("hf:owner/name")


def test_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="has no weights of a model"):
        load_model(tmp_path)


def test_a_foreign_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="does not say what model"):
        load_model(tmp_path)


@pytest.mark.parametrize("place", [-1, 1000, 20])
def test_damage_is_seen(model, tmp_path: Path, place: int) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, model.state_dict(), DESCRIPTION)
    assert read_safetensors(path)["description"] == DESCRIPTION
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(path)


def test_where_tokens_are(tmp_path: Path) -> None:
    assert lang_folder(tmp_path) == tmp_path
    lang = tmp_path / "data" / "lang_bpe_500"
    lang.mkdir(parents=True)
    (lang / "bpe.model").write_bytes(b"x")
    assert lang_folder(tmp_path) == lang
    (tmp_path / "bpe.model").write_bytes(b"x")
    assert lang_folder(tmp_path) == tmp_path


def test_others_can_read_safetensors_as_they_can_other_files(model, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, model.state_dict(), DESCRIPTION)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
