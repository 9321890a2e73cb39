"""GRU decoder with location-aware attention (Chorowski et al. 2015, arXiv 1506.07503), as in
sequence-level distillation (Mun'im et al. 2019, arXiv 1811.04531, section 4.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mvqkd.geometry import SOS_EOS
from mvqkd.models.dropout import Dropout
from mvqkd.models.hypothesis_slots import HypothesisSlots
from mvqkd.models.masks import valid_frames


class GruMemory(NamedTuple):
    """Of N utterances."""

    keys: Tensor
    """(N, T, D) projected for the energies."""
    values: Tensor
    """(N, T, De) the encoder's output."""
    valid: Tensor
    """(N, T) bool."""


class GruState(NamedTuple):
    """Of R = N * B hypotheses."""

    hidden: Tensor
    """(R, num_layers, D)."""
    context: Tensor
    """(R, De): what the newest token attended to; zero before the first."""
    weights: Tensor
    """(R, T): the weights of the frames in it; zero before the first."""


class GruDecoder(nn.Module):
    """A stack of GRU layers that attends to the encoder's frames; an `AttentionDecoder`.

    With the newest token y and the weights a of the step before, the energy of frame t is

        e_t = w . tanh(W s + V h_t + U (F * a)_t)

    for s, the new state of the last layer. The first layer receives the embedding of y plus a
    projection of the context c of the step before; the logits are a linear function of s + c. The
    paper leaves these details open: in this form its models have its numbers of parameters.

    Args:
        encoder_dim: De, width of the encoder's output.
        vocab_size: V, with the blank.
        dim: D, cells of a layer; must be De, since s and c are added.
        num_layers: GRU layers.
        dropout: between layers and of the input of the logits.
        embedding_dim: width of the embedding.
        filters: of the convolution F.
        filter_frames: frames (25 Hz) that a filter spans; odd.

    Raises:
        ValueError: D is not De, or filter_frames is even.
    """

    sos_eos = SOS_EOS

    def __init__(
        self,
        *,
        encoder_dim: int,
        vocab_size: int,
        dim: int = 256,
        num_layers: int = 1,
        dropout: float = 0.4,
        embedding_dim: int = 64,
        filters: int = 128,
        filter_frames: int = 15,
    ) -> None:
        super().__init__()
        if dim != encoder_dim:
            raise ValueError(
                f"a GRU decoder has the width of the encoder, {encoder_dim}, not dim={dim}"
            )
        if filter_frames % 2 == 0:
            raise ValueError(f"filter_frames={filter_frames} must be odd")
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.input_context = nn.Linear(dim, embedding_dim, bias=False)
        sizes = [embedding_dim, *[dim] * (num_layers - 1)]
        self.cells = nn.ModuleList(nn.GRUCell(size, dim) for size in sizes)
        self.dropout = Dropout(dropout)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.location = nn.Conv1d(1, filters, filter_frames, padding=filter_frames // 2, bias=False)
        self.location_key = nn.Linear(filters, dim)
        self.energy = nn.Linear(dim, 1, bias=False)
        self.output = nn.Linear(dim, vocab_size)

    @property
    def encoder_dim(self) -> int:
        """See `AttentionDecoder`."""
        return self.key.in_features

    @property
    def vocab_size(self) -> int:
        """See `AttentionDecoder`."""
        return self.output.out_features

    def memory(self, encoder_out: Tensor, lens: Tensor) -> GruMemory:
        """See `AttentionDecoder`."""
        # An utterance without a frame attends to one, so that its softmax is finite.
        valid = valid_frames(lens.clamp(min=1), encoder_out.size(1))
        return GruMemory(self.key(encoder_out), encoder_out, valid)

    def forward(
        self,
        memory: GruMemory,
        tokens: Tensor,
        owners: Tensor | None = None,
        *,
        forcing: float = 1.0,
    ) -> Tensor:
        """See `AttentionDecoder`."""
        num_utterances = memory.valid.size(0)
        if owners is None:
            owners = torch.arange(num_utterances, device=tokens.device)
        slots = HypothesisSlots(owners, num_utterances)
        given = slots.spread(tokens.clamp(min=0)).flatten(0, 1)  # (N * B, U)
        state = self.start(memory, slots.num_slots)
        steps: list[Tensor] = []
        for position in range(given.size(1)):
            newest = given[:, position]
            if steps and forcing < 1 and self.training:
                forced = torch.rand(newest.shape, device=newest.device) < forcing
                newest = torch.where(forced, newest, steps[-1].argmax(-1))
            logits, state = self.step(memory, state, newest)
            steps.append(logits)
        logits = torch.stack(steps, dim=1).unflatten(0, (num_utterances, slots.num_slots))
        return slots.collect(logits)

    def start(self, memory: GruMemory, beam_size: int) -> GruState:
        """See `AttentionDecoder`."""
        keys = memory.keys
        rows = keys.size(0) * beam_size
        return GruState(
            keys.new_zeros(rows, len(self.cells), keys.size(2)),
            keys.new_zeros(rows, memory.values.size(2)),
            keys.new_zeros(rows, keys.size(1)),
        )

    def step(self, memory: GruMemory, state: GruState, tokens: Tensor) -> tuple[Tensor, GruState]:
        """See `AttentionDecoder`."""
        x = self.embedding(tokens) + self.input_context(state.context)
        hidden = []
        for index, cell in enumerate(self.cells):
            x = cell(self.dropout(x) if index else x, state.hidden[:, index].to(x.dtype))
            hidden.append(x)
        weights, context = self._attend(memory, x, state.weights)
        logits = self.output(self.dropout(x + context))
        return logits, GruState(torch.stack(hidden, dim=1), context, weights)

    def _attend(self, memory: GruMemory, query: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (R, T) and context (R, De) of queries (R, D), given the weights before."""
        shape = (memory.valid.size(0), -1, memory.valid.size(1))
        located = self.location(before.to(query.dtype).unsqueeze(1)).transpose(1, 2)
        located = self.location_key(located) + self.query(query).unsqueeze(1)  # (R, T, D)
        # The keys of an utterance are added to those of all its hypotheses.
        located = located.view(*shape, located.size(-1)) + memory.keys.unsqueeze(1)
        energy = self.energy(torch.tanh(located)).squeeze(-1)
        energy = energy.masked_fill(~memory.valid.unsqueeze(1), -torch.inf)
        weights = energy.softmax(-1)  # (N, B, T)
        context = torch.bmm(weights.to(memory.values.dtype), memory.values)
        return weights.flatten(0, 1), context.flatten(0, 1)
