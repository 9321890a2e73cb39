"""A recipe's folder of experiments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.experiments import write_experiment


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_experiment(tmp_path, "baseline", 20, 3_000_000)
    write_experiment(tmp_path, "smaller", 30, 1_500_000)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("{}")
    return tmp_path
