"""A teacher of torchaudio's where torchaudio is not installed."""

from __future__ import annotations

import sys

import pytest

from mvqkd.errors import UserError
from mvqkd.teachers import load_teacher


def test_missing_torchaudio_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mvqkd.teachers.torchaudio_models", None)
    monkeypatch.delitem(sys.modules, "mvqkd.teachers.torchaudio_models")
    monkeypatch.setattr(
        "importlib.machinery.PathFinder.find_spec", _without("torchaudio"), raising=True
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"not installed\n.*mvqkd\[torchaudio\].*hf:facebook"):
        load_teacher("torchaudio:HUBERT_BASE", [1])


def _without(package: str):
    from importlib.machinery import PathFinder

    find = PathFinder.find_spec

    def find_spec(name, path=None, target=None):
        return None if name.split(".")[0] == package else find(name, path, target)

    return find_spec
