from __future__ import annotations

from pathlib import Path

import pytest

from tests.teachers.corpus import make_corpus


@pytest.fixture
def cuts(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus", [0.5, 1.3, 0.9, 0.4, 1.1, 0.7], speed=True)
