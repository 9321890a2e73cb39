"""From a configuration to modules: what is missing is told in words."""

from __future__ import annotations

import pytest

from mvqkd.errors import UserError
from mvqkd.experiment.build import build_transducer_loss
from mvqkd.experiment.config import LossConfig, ModelConfig
from mvqkd.losses import lattice


def test_a_backend_that_is_not_installed_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(lattice, "_available", lambda name: name != "k2")
    build_transducer_loss(LossConfig(), ModelConfig(), 10)
    with pytest.raises(UserError, match="k2 cannot be imported") as error:
        build_transducer_loss(LossConfig(backend="k2"), ModelConfig(), 10)
    assert "--loss.backend auto" in error.value.remedy
