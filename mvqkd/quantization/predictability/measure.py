"""Predictability of codes from features: a lower bound of their mutual information.

A quantizer that reconstructs well does not yet make good targets: codes that depend on choices
that audio does not determine (which of two near-equal sums of entries was taken) cannot be
predicted. The predictor receives the utterance's features, not the embeddings, as a student does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.quantization.counts import code_counts, code_entropy
from mvqkd.quantization.predictability.code_predictor import (
    CodePredictor,
    FrameNetwork,
    frame_ratio,
    train_network,
)


@dataclass
class Predictability:
    """Of codes given features, in bits per frame and codebook."""

    entropy: list[float]
    cross_entropy: list[float]
    reconstruction_error: float | None
    """Relative error of the reconstruction from the predictor's posteriors, where embeddings and
    centers were given: the mean over its posteriors, the best guess in squared error."""

    @property
    def captured(self) -> list[float]:
        """Entropy less cross-entropy of each codebook: a lower bound of the mutual
        information of codes and features."""
        return [h - c for h, c in zip(self.entropy, self.cross_entropy, strict=True)]


def predictability(
    predictor: CodePredictor,
    features: Sequence[Tensor],
    codes: Sequence[Tensor],
    *,
    centers: Tensor | None = None,
    mean: Tensor | None = None,
    embeddings: Sequence[Tensor] | None = None,
) -> Predictability:
    """Test a predictor on utterances that it was not trained on.

    Args:
        features: (T', C) of each utterance.
        codes: (T, Q) of each utterance.
        centers, mean, embeddings: (Q, K, D), (D,) and (T, D) of each utterance, for the
            reconstruction from posteriors. All or none.
    """
    _, num_codebooks, codebook_size, _ = predictor.sizes
    loss = torch.zeros(num_codebooks, dtype=torch.float64)
    counts = torch.zeros(num_codebooks, codebook_size, dtype=torch.long)
    error = energy = 0.0
    for i, target in enumerate(codes):
        logp = predictor.log_probabilities(features[i], len(target))
        target = target[: len(logp)].long()
        loss -= logp.gather(2, target[:, :, None]).sum(dim=(0, 2)).double()
        counts += code_counts(target, codebook_size)
        if centers is not None and mean is not None and embeddings is not None:
            x = embeddings[i][: len(logp)].float()
            guess = mean.cpu() + torch.einsum("tqk,qkd->td", logp.exp(), centers.cpu())
            error += float((x - guess).square().sum())
            energy += float((x - mean.cpu()).square().sum())
    total = counts.sum(dim=1)
    return Predictability(
        entropy=code_entropy(counts).tolist(),
        cross_entropy=(loss / total / np.log(2)).tolist(),
        reconstruction_error=error / energy if energy > 0 else None,
    )


def regression_error(
    features: Sequence[Tensor],
    embeddings: Sequence[Tensor],
    test_features: Sequence[Tensor],
    test_embeddings: Sequence[Tensor],
    *,
    num_steps: int = 1000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> float:
    """Relative error of the same predictor when it is trained on the embeddings themselves, with
    squared error: a bound to compare reconstructions from posteriors with."""
    rows = torch.cat([e.float() for e in embeddings])
    mean, scale = rows.mean(dim=0), (rows - rows.mean(dim=0)).square().mean().sqrt()
    net = FrameNetwork(features[0].shape[1], rows.shape[1], frame_ratio(features, embeddings))
    train_network(
        net,
        lambda out, target: F.mse_loss(out, (target.float() - mean.to(out)) / scale.to(out)),
        features,
        embeddings,
        num_steps=num_steps,
        seed=seed,
        device=torch.device(device),
    )
    error = energy = 0.0
    for i, target in enumerate(test_embeddings):
        out = net.of_utterance(test_features[i], len(target))
        x = target[: len(out)].float()
        error += float((x - (out * scale + mean)).square().sum())
        energy += float((x - mean).square().sum())
    return error / energy
