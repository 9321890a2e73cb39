"""Prepared data of a tiny corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.conftest import prepare, write_part


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder, to be copied by tests that change it."""
    root = tmp_path_factory.mktemp("corpus")
    write_part(root, "train-tiny")
    write_part(root, "dev-a", utterances=2)
    return prepare(root, tmp_path_factory.mktemp("data"), speeds=(1.0,))
