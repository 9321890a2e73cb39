"""Model folders that leave."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from mvqkd.errors import UserError
from mvqkd.export.upload import upload

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("README.md", "exp/model.safetensors"):
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "model" / "exp" / ".tmp-1-model.safetensors").write_text("half written")
    return tmp_path / "model"


def test_to_a_folder(folder: Path, tmp_path: Path) -> None:
    assert upload(folder, str(tmp_path / "copy")) == str(tmp_path / "copy")
    for name in ("README.md", "exp/model.safetensors"):
        assert (tmp_path / "copy" / name).read_text() == name
    assert len([path for path in (tmp_path / "copy").rglob("*") if path.is_file()]) == 2


def test_to_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    class Api:
        def create_repo(self, repository: str, *, exist_ok: bool) -> None:
            assert exist_ok
            calls.append(("create", repository))

        def upload_folder(self, *, repo_id: str, folder_path: Path, ignore_patterns: list) -> None:
            calls.append((repo_id, folder_path))
            assert any(fnmatch("exp/.tmp-1-model.safetensors", p) for p in ignore_patterns)
            assert not any(fnmatch("exp/model.safetensors", p) for p in ignore_patterns)

    monkeypatch.setattr(hub, "HfApi", Api)
    assert upload(folder, "hf:owner/name") == "https://huggingface.co/owner/name"
    assert calls == [("create", "owner/name"), ("owner/name", folder)]


def test_the_hub_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        def create_repo(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("401 Unauthorized\nmore")

    monkeypatch.setattr(hub, "HfApi", Api)
    with pytest.raises(UserError, match=r"owner/name: 401 Unauthorized\n.*hf auth login"):
        upload(folder, "hf:owner/name")
