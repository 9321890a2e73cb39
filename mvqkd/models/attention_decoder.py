"""Decoders of attention encoder-decoders: their interface, and the Transformer's (Vaswani et al.
2017, arXiv 1706.03762)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvqkd.geometry import SOS_EOS
from mvqkd.models.conformer_layer import FeedForward
from mvqkd.models.dropout import Dropout
from mvqkd.models.hypothesis_slots import HypothesisSlots
from mvqkd.models.masks import valid_frames


class AttentionDecoder(Protocol):
    """What losses and searches use of a decoder, which is an `nn.Module`.

    A memory is what the decoder computes once for each of N utterances; a state is what a search
    keeps of each of N * B hypotheses, B for each utterance, those of utterance n in the rows from
    n * B on. Both are tuples of tensors, perhaps nested, whose first axis is that of the
    utterances or the rows: `select_rows` takes some of them.
    """

    sos_eos: int
    """Id of the token before the first and after the last."""

    @property
    def encoder_dim(self) -> int:
        """Width of the encoder's output that the decoder takes."""
        ...

    @property
    def vocab_size(self) -> int:
        """V, with the blank, which it does not emit."""
        ...

    def memory(self, encoder_out: Tensor, lens: Tensor) -> Any:
        """Of encoder outputs (N, T, D) with (N,) valid frames."""
        ...

    def __call__(
        self, memory: Any, tokens: Tensor, owners: Tensor | None = None, *, forcing: float = 1.0
    ) -> Tensor:
        """Logits of the tokens that follow given ones.

        Args:
            memory: of N utterances.
            tokens: (K, U) int64, the first `<sos/eos>`; padding at the end may hold anything.
            owners: (K,) int64, the utterance of each row; None: row n is of utterance n.
            forcing: in training, the probability that the input of a position is the given token
                and not the most probable one after the position before.

        Returns:
            (K, U, V); position u has received the tokens up to u.

        Raises:
            ValueError: the decoder does not have that `forcing`.
        """
        ...

    def start(self, memory: Any, beam_size: int) -> Any:
        """State of B empty hypotheses for each utterance."""
        ...

    def step(self, memory: Any, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        """The newest tokens (N * B,) -> logits (N * B, V) of the next ones, and the state."""
        ...


def select_rows(x: Any, rows: Tensor) -> Any:
    """Some rows of the first axis of every tensor in nested tuples."""
    if isinstance(x, Tensor):
        return x.index_select(0, rows)
    parts = [select_rows(part, rows) for part in x]
    return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)


class TransformerMemory(NamedTuple):
    """Of N utterances."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values (N, H, T, d) of each layer."""
    valid: Tensor
    """(N, 1, 1, T) bool."""


class TransformerState(NamedTuple):
    """Of N * B hypotheses."""

    position: Tensor
    """(N * B,) int64: tokens received so far, the same for all."""
    layers: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values (N * B, H, U, d) of the tokens so far, of each layer."""


class TransformerDecoder(nn.Module):
    """Pre-norm Transformer decoder; an `AttentionDecoder`.

    Args:
        encoder_dim: width of the encoder's output.
        vocab_size: V, with the blank.
        dim: D.
        num_layers: layers of self-attention, attention to the encoder's frames and feed-forward.
        num_heads: H, must divide D.
        feedforward_dim: inner width of the feed-forward modules.
        dropout: of embeddings, of each residual branch and inside the feed-forward modules.

    Raises:
        ValueError: D is odd or not a multiple of H.
    """

    sos_eos = SOS_EOS

    def __init__(
        self,
        *,
        encoder_dim: int,
        vocab_size: int,
        dim: int = 256,
        num_layers: int = 3,
        num_heads: int = 4,
        feedforward_dim: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if dim % 2 or dim % num_heads:
            raise ValueError(
                f"the decoder's dim={dim} must be even and a multiple of num_heads={num_heads}"
            )
        self.dim = dim
        self._encoder_dim = encoder_dim
        self.embedding = nn.Embedding(vocab_size, dim)
        self.dropout = Dropout(dropout)
        layers = [
            _Layer(
                encoder_dim=encoder_dim,
                dim=dim,
                num_heads=num_heads,
                feedforward_dim=feedforward_dim,
                dropout=dropout,
            )
            for _ in range(num_layers)
        ]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, vocab_size)
        self._initialize(layers)

    @torch.no_grad()
    def _initialize(self, layers: Sequence[_Layer]) -> None:
        """Residual branches begin near zero, as in `ConformerEncoder`; embeddings have, after their
        factor of sqrt(D), the size of the positions."""
        nn.init.normal_(self.embedding.weight, std=self.dim**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.bias.zero_()
        for layer in layers:
            for output in layer.residual_outputs():
                output.weight.mul_((3 * len(layers)) ** -0.5)

    @property
    def encoder_dim(self) -> int:
        """See `AttentionDecoder`."""
        return self._encoder_dim

    @property
    def vocab_size(self) -> int:
        """See `AttentionDecoder`."""
        return self.output.out_features

    def memory(self, encoder_out: Tensor, lens: Tensor) -> TransformerMemory:
        """See `AttentionDecoder`."""
        return TransformerMemory(
            tuple(layer.memory(encoder_out) for layer in self._layers()),
            # An utterance without a frame attends to one, so that its softmax is finite.
            valid_frames(lens.clamp(min=1), encoder_out.size(1))[:, None, None],
        )

    def forward(
        self,
        memory: TransformerMemory,
        tokens: Tensor,
        owners: Tensor | None = None,
        *,
        forcing: float = 1.0,
    ) -> Tensor:
        """See `AttentionDecoder`."""
        if forcing != 1:
            raise ValueError("a Transformer decoder receives all tokens at once: forcing must be 1")
        slots = None if owners is None else HypothesisSlots(owners, memory.valid.size(0))
        x = self._embed(tokens, torch.arange(tokens.size(1), device=tokens.device))
        for layer, of_layer in zip(self._layers(), memory.layers, strict=True):
            x = layer(x, of_layer, memory.valid, slots)
        return self.output(self.norm(x))

    def start(self, memory: TransformerMemory, beam_size: int) -> TransformerState:
        """See `AttentionDecoder`."""
        rows = memory.valid.size(0) * beam_size
        layers = []
        for key, _ in memory.layers:
            empty = key.new_zeros(rows, key.size(1), 0, self.dim // key.size(1))
            layers.append((empty, empty))
        position = torch.zeros(rows, dtype=torch.int64, device=memory.valid.device)
        return TransformerState(position, tuple(layers))

    def step(
        self, memory: TransformerMemory, state: TransformerState, tokens: Tensor
    ) -> tuple[Tensor, TransformerState]:
        """See `AttentionDecoder`."""
        x = self._embed(tokens.unsqueeze(1), state.position.unsqueeze(1))
        following = []
        for layer, of_layer, cache in zip(self._layers(), memory.layers, state.layers, strict=True):
            x, cache = layer.step(x, of_layer, memory.valid, cache)
            following.append(cache)
        logits = self.output(self.norm(x.squeeze(1)))
        return logits, TransformerState(state.position + 1, tuple(following))

    def _layers(self) -> list[_Layer]:
        return [cast(_Layer, layer) for layer in self.layers]

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """(K, U) tokens at (U,) or (K, U) positions -> (K, U, D)."""
        x = self.embedding(tokens.clamp(min=0)) * math.sqrt(self.dim)
        return self.dropout(x + _sinusoids(positions, self.dim, x))


def _sinusoids(positions: Tensor, dim: int, like: Tensor) -> Tensor:
    """(...,) positions -> (..., D), half sines, half cosines of D / 2 frequencies."""
    exponent = torch.arange(0, dim, 2, device=positions.device) * (-math.log(10000.0) / dim)
    angle = positions.unsqueeze(-1) * exponent.exp()
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(like.dtype)


class _Layer(nn.Module):
    def __init__(
        self, *, encoder_dim: int, dim: int, num_heads: int, feedforward_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.self_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.self_output = nn.Linear(dim, dim)
        self.cross_norm = nn.LayerNorm(dim)
        self.cross_query = nn.Linear(dim, dim)
        self.cross_key_value = nn.Linear(encoder_dim, 2 * dim)
        self.cross_output = nn.Linear(dim, dim)
        self.feedforward = FeedForward(dim=dim, hidden_dim=feedforward_dim, dropout=dropout)
        self.dropout = Dropout(dropout)

    def residual_outputs(self) -> list[nn.Linear]:
        """The last linear layer of each residual branch."""
        return [self.self_output, self.cross_output, self.feedforward.output]

    def memory(self, encoder_out: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, D) -> keys and values (N, H, T, d)."""
        key, value = map(self._heads, self.cross_key_value(encoder_out).chunk(2, dim=-1))
        return key, value

    def forward(
        self,
        x: Tensor,
        memory: tuple[Tensor, Tensor],
        valid: Tensor,
        slots: HypothesisSlots | None,
    ) -> Tensor:
        """(K, U, D) whole hypotheses -> (K, U, D)."""
        query, key, value = self._project(x)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = self._add_self(x, attended)
        query = self.cross_query(self.cross_norm(x))
        if slots is None:
            attended = self._attend(query, memory, valid)
        else:  # the tokens of all hypotheses of an utterance are queries to the same keys
            spread = slots.spread(query)
            attended = self._attend(spread.flatten(1, 2), memory, valid)
            attended = slots.collect(attended.unflatten(1, spread.shape[1:3]))
        return self._finish(x, attended)

    def step(
        self,
        x: Tensor,
        memory: tuple[Tensor, Tensor],
        valid: Tensor,
        cache: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(N * B, 1, D) the newest token -> (N * B, 1, D), and the cache with it."""
        query, key, value = self._project(x)
        key, value = torch.cat([cache[0], key], dim=2), torch.cat([cache[1], value], dim=2)
        x = self._add_self(x, F.scaled_dot_product_attention(query, key, value))
        query = self.cross_query(self.cross_norm(x)).view(valid.size(0), -1, x.size(2))
        attended = self._attend(query, memory, valid).reshape(x.shape)
        return self._finish(x, attended), (key, value)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.query_key_value(self.self_norm(x)).chunk(3, dim=-1)
        query, key, value = map(self._heads, parts)
        return query, key, value

    def _attend(self, query: Tensor, memory: tuple[Tensor, Tensor], valid: Tensor) -> Tensor:
        """(N, Q, D) queries of N utterances -> (N, Q, D)."""
        out = F.scaled_dot_product_attention(self._heads(query), *memory, attn_mask=valid)
        return out.transpose(1, 2).flatten(2)

    def _add_self(self, x: Tensor, attended: Tensor) -> Tensor:
        return x + self.dropout(self.self_output(attended.transpose(1, 2).flatten(2)))

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropout(self.cross_output(attended))
        return x + self.dropout(self.feedforward(x))

    def _heads(self, x: Tensor) -> Tensor:
        """(K, U, D) -> (K, H, U, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
