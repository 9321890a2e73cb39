"""Regression of a teacher's embeddings themselves: the baselines that MVQ-KD is compared with (Guo
et al. 2022, arXiv 2211.00508, section 3)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Measure = Literal["l1", "l2", "cosine", "kld"]


class RegressionHead(nn.Module):
    """One linear layer to the teacher's dimensions, and a distance.

    `l1` and `l2` are means over dimensions, of embeddings around `mean` and divided by `scale`:
    the distances of the embeddings as they are, up to the loss's weight, which then does not depend
    on the teacher's units. `cosine` is 1 - cosine similarity of a teacher frame, `kld` the
    Kullback-Leibler divergence between softmaxes over the dimensions (teacher || student), in nats.
    All are means over the teacher frames of a student frame.

    Args:
        dim: D, width of the student's layer.
        teacher_dim: E, dimensions of an embedding.
        ratio: teacher frames of a student frame.
        measure: the distance.
        mean: (E,) of the teacher's embeddings; None: zero.
        scale: root mean square of their dimensions around `mean`.
    """

    def __init__(
        self,
        dim: int,
        teacher_dim: int,
        ratio: int,
        measure: Measure,
        *,
        mean: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.measure = measure
        self.ratio = ratio
        self.predict = nn.Linear(dim, ratio * teacher_dim)
        self.mean: Tensor
        self.scale: Tensor
        mean = torch.zeros(teacher_dim) if mean is None else mean.float().clone()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:
        """(M, D) frames of the student and (M, ratio * E) embeddings -> (M,) float32 distances."""
        predicted = self.predict(x)
        with torch.autocast(x.device.type, enabled=False):
            predicted = predicted.float().view(len(x), self.ratio, len(self.mean))
            wanted = embeddings.float().view_as(predicted)
            return self._distance(predicted, wanted).mean(1)

    def _distance(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """(M, ratio, E) both -> (M, ratio)."""
        if self.measure == "cosine":
            return 1 - F.cosine_similarity(predicted, wanted, dim=-1)
        if self.measure == "kld":
            return F.kl_div(
                predicted.log_softmax(-1), wanted.log_softmax(-1), reduction="none", log_target=True
            ).sum(-1)
        difference = predicted - (wanted - self.mean) / self.scale
        return (difference.abs() if self.measure == "l1" else difference.square()).mean(-1)
