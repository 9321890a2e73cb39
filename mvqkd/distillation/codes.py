"""Predict a teacher's codebook indexes (MVQ-KD: Guo et al. 2022, arXiv 2211.00508, section 2.3)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CodebookHead(nn.Module):
    """Every index on its own: one linear layer and cross-entropy (the paper's equation 5, divided
    by the number of indexes, so that its weight does not depend on the bytes of a frame).

    Args:
        dim: D, width of the student's layer.
        num_indexes: W, indexes of a student frame: teacher frames per student frame x codebooks.
        codebook_size: K.
    """

    def __init__(self, dim: int, num_indexes: int, codebook_size: int = 256) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.logits = nn.Linear(dim, num_indexes * codebook_size)

    def forward(self, x: Tensor, indexes: Tensor) -> Tensor:
        """(M, D) frames of the student and (M, W) int64 indexes, -100: none -> (M,) float32 mean
        cross-entropies in nats, over W.

        Raises:
            ValueError: other shapes.
        """
        _check(x, indexes, self.logits, self.logits.out_features // self.codebook_size)
        logits = self.logits(x).unflatten(1, (-1, self.codebook_size))
        return _cross_entropy(logits, indexes)


class SoftCodebookHead(CodebookHead):
    """As `CodebookHead`, but with soft labels, the larger the nearer an entry is to the one that
    the index names: cross-entropy with softmax(-d^2 / t) of the distances d of all entries from it.

    So it costs little to confuse codes of nearly the same entry. Not in the paper.

    Args:
        dim: D, width of the student's layer.
        ratio: teacher frames of a student frame.
        centers: (Q, K, E) entries of the quantizer; they are not trained.
        perplexity: of the soft labels, the geometric mean over all indexes: the effective number
            of entries per index. Default: K / 32, at least 1. All codebooks have the temperature t,
            so that this number is smaller where entries lie farther apart. At 1 this is
            `CodebookHead`.
    """

    shares: Tensor

    def __init__(
        self, dim: int, ratio: int, centers: Tensor, perplexity: float | None = None
    ) -> None:
        num_codebooks, size, _ = centers.shape
        super().__init__(dim, ratio * num_codebooks, size)
        if perplexity is None:
            perplexity = max(1.0, size / 32)
        self.register_buffer("shares", soft_indexes(centers, perplexity).repeat(ratio, 1, 1))

    def forward(self, x: Tensor, indexes: Tensor) -> Tensor:
        """As `CodebookHead.forward`, W = ratio * Q: indexes of successive teacher frames follow
        each other."""
        _check(x, indexes, self.logits, len(self.shares))
        logits = self.logits(x).unflatten(1, (-1, self.codebook_size))
        with torch.autocast(x.device.type, enabled=False):
            places = torch.arange(indexes.shape[1], device=x.device)
            shares = self.shares[places, indexes.clamp(min=0)]
            losses = -(shares * logits.float().log_softmax(2)).sum(2)
        return losses.masked_fill(indexes < 0, 0.0).mean(1)


def soft_indexes(centers: Tensor, perplexity: float) -> Tensor:
    """Soft labels (Q, K, K): for each entry of a codebook, probabilities of all its entries, see
    `SoftCodebookHead`.

    Raises:
        ValueError: a perplexity that is not in 1..K.
    """
    if not 1 <= perplexity <= centers.shape[1]:
        raise ValueError(f"a perplexity of {perplexity} with {centers.shape[1]} entries")
    distances = torch.cdist(centers.double(), centers.double()).square()
    distances /= distances.mean()
    low, high = 1e-9, 1e9
    for _ in range(60):  # halves the interval on a logarithmic scale
        middle = math.sqrt(low * high)
        shares = (-distances / middle).softmax(2)
        entropy = float(torch.special.entr(shares).sum(2).mean())
        low, high = (middle, high) if entropy < math.log(perplexity) else (low, middle)
    return (-distances / low).softmax(2).float()


class TiedCodebookHead(nn.Module):
    """Every index on its own, with the quantizer's own entries as classes: one linear layer
    predicts an embedding e, and entry k of codebook q has the logit
    scale_q * <e, centers[q, k]> + bias_qk.

    That is what Gaussian noise around e makes likely, as far as codebooks share no directions;
    the trained scale and bias account for the rest. Similar entries are likely together, which a
    head with randomly initialized classes has to learn from the data; and it has fewer weights:
    D x (teacher frames x E) instead of D x (teacher frames x Q x K). Not in the paper; the loss is
    its equation 5, as that of `CodebookHead`.

    Args:
        dim: D, width of the student's layer.
        ratio: teacher frames of a student frame.
        centers: (Q, K, E) entries of the quantizer; they are not trained.
    """

    def __init__(self, dim: int, ratio: int, centers: Tensor) -> None:
        super().__init__()
        num_codebooks, self.codebook_size, embedding_dim = centers.shape
        self.predict = nn.Linear(dim, ratio * embedding_dim)
        # What all entries of a codebook share adds the same to all their logits. The rest, in units
        # of the embeddings' deviation, so that nothing depends on the teacher's.
        centers = centers - centers.mean(1, keepdim=True)
        deviation = centers.double().square().mean(1).sum(0).mean().sqrt()
        self.centers: Tensor
        self.register_buffer("centers", (centers / deviation).float())
        # Small: entries begin about equally likely.
        self.log_scale = nn.Parameter(torch.full((ratio, num_codebooks, 1), math.log(0.1)))
        self.bias = nn.Parameter(torch.zeros(ratio, num_codebooks, self.codebook_size))

    def forward(self, x: Tensor, indexes: Tensor) -> Tensor:
        """As `CodebookHead.forward`, W = ratio * Q: indexes of successive teacher frames follow
        each other."""
        ratio, *sizes = self.bias.shape
        _check(x, indexes, self.predict, ratio * sizes[0])
        embeddings = self.predict(x).unflatten(1, (ratio, -1))
        products = F.linear(embeddings, self.centers.flatten(0, 1)).unflatten(2, sizes)
        with torch.autocast(x.device.type, enabled=False):
            logits = products.float() * self.log_scale.exp() + self.bias
        return _cross_entropy(logits.flatten(1, 2), indexes)


class JointCodebookHead(nn.Module):
    """Every index given those before it: p(i_1 | x) p(i_2 | x, i_1) ..., so that the student need
    not determine by itself which of several equally good encodings the quantizer chose.

    The indexes of successive teacher frames of a student frame follow each other. The head is
    used in training only, so the previous indexes are always the teacher's (teacher forcing).

    Args:
        dim: D, width of the student's layer.
        num_indexes: W, indexes of a student frame.
        codebook_size: K.
        hidden_dim: of the hidden layer that each index has.
    """

    def __init__(
        self, dim: int, num_indexes: int, codebook_size: int = 256, hidden_dim: int = 256
    ) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.hidden = nn.Linear(dim, num_indexes * hidden_dim)
        # One table for all codebooks but the last, which no index comes after.
        self.before = nn.Embedding(max(1, num_indexes - 1) * codebook_size, hidden_dim)
        nn.init.normal_(self.before.weight, std=num_indexes**-0.5)
        # One output layer for each index: (W, K, H) and (W, K).
        bound = hidden_dim**-0.5
        self.weight = nn.Parameter(
            torch.empty(num_indexes, codebook_size, hidden_dim).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.zeros(num_indexes, codebook_size))

    def forward(self, x: Tensor, indexes: Tensor) -> Tensor:
        """As `CodebookHead.forward`."""
        num_indexes = self.weight.shape[0]
        _check(x, indexes, self.hidden, num_indexes)
        hidden = self.hidden(x).unflatten(1, (num_indexes, -1))
        offsets = torch.arange(num_indexes - 1, device=x.device) * self.codebook_size
        known = self.before(indexes[:, :-1].clamp(min=0) + offsets)  # (M, W - 1, H)
        known = known.masked_fill((indexes[:, :-1] < 0).unsqueeze(2), 0.0)
        hidden = hidden + F.pad(known.cumsum(1), (0, 0, 1, 0)).to(hidden.dtype)
        logits = torch.einsum("mwh,wkh->mwk", hidden.relu(), self.weight.to(hidden.dtype))
        return _cross_entropy(logits + self.bias.to(logits.dtype), indexes)


def _check(x: Tensor, indexes: Tensor, first: nn.Linear, num_indexes: int) -> None:
    """Of the arguments of a head whose first layer is `first`."""
    dim = first.in_features
    if x.ndim != 2 or x.shape[1] != dim or indexes.shape != (len(x), num_indexes):
        raise ValueError(
            f"x must be frames (M, {dim}) and indexes (M, {num_indexes}), not {tuple(x.shape)} and "
            f"{tuple(indexes.shape)}"
        )


def _cross_entropy(logits: Tensor, indexes: Tensor) -> Tensor:
    """(M, W, K), (M, W) -> (M,), computed in float32."""
    with torch.autocast(logits.device.type, enabled=False):
        losses = F.cross_entropy(logits.float().flatten(0, 1), indexes.flatten(), reduction="none")
    return losses.view(indexes.shape).mean(1)
