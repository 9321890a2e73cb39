"""Optimizers: AdamW, ScaledAdam, and Muon with AdamW."""

from mvqkd.training.optimizers.adamw import build_adamw
from mvqkd.training.optimizers.muon import MuonWithAdamW, build_muon
from mvqkd.training.optimizers.rate import set_learning_rate
from mvqkd.training.optimizers.scaled_adam import ScaledAdam

__all__ = ["MuonWithAdamW", "ScaledAdam", "build_adamw", "build_muon", "set_learning_rate"]
