"""Losses per utterance: modules and functions of tensors, independent of any model."""

from mvqkd.losses.band import Band
from mvqkd.losses.consistency import consistency_loss
from mvqkd.losses.cross_entropy import cross_entropy_loss, decoder_inputs, decoder_targets
from mvqkd.losses.ctc import ctc_frames, ctc_loss
from mvqkd.losses.lattice import lattice_log_likelihood
from mvqkd.losses.pruned_transducer import PrunedTransducerLoss, TransducerLosses

__all__ = [
    "Band",
    "PrunedTransducerLoss",
    "TransducerLosses",
    "consistency_loss",
    "cross_entropy_loss",
    "ctc_frames",
    "ctc_loss",
    "decoder_inputs",
    "decoder_targets",
    "lattice_log_likelihood",
]
