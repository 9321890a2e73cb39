"""Random lattices, and what any backend must give of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvqkd.losses.lattice import lattice_log_likelihood

TOPOLOGIES = ["regular", "modified"]


def random_lattice(
    num_utterances: int, frames: int, tokens: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores and lengths; the first utterance is as long as the tensors, the others random."""
    generator = torch.Generator().manual_seed(seed)
    symbol = torch.randn(num_utterances, frames, tokens, generator=generator, dtype=dtype) - 1
    blank = torch.randn(num_utterances, frames, tokens + 1, generator=generator, dtype=dtype) - 1
    token_lens = torch.randint(0, tokens + 1, (num_utterances,), generator=generator)
    lens = torch.randint(min(tokens, frames), frames + 1, (num_utterances,), generator=generator)
    token_lens[0], lens[0] = tokens, frames
    return symbol, blank, lens, token_lens


def enumerate_paths(
    symbol: Tensor, blank: Tensor, topology: str
) -> list[tuple[float, list[tuple[str, int, int]]]]:
    """Score and arcs of each path through a lattice (T, U), (T, U + 1)."""
    num_frames, num_tokens = symbol.shape
    paths = []

    def extend(t: int, s: int, score: float, arcs: list[tuple[str, int, int]]) -> None:
        if t == num_frames:
            if s == num_tokens:
                paths.append((score, arcs))
            return
        extend(t + 1, s, score + blank[t, s].item(), [*arcs, ("blank", t, s)])
        if s < num_tokens:
            after = t if topology == "regular" else t + 1
            extend(after, s + 1, score + symbol[t, s].item(), [*arcs, ("symbol", t, s)])

    extend(0, 0, 0.0, [])
    return paths


def check_backend_on_hard_lattices(backend: str, device: str = "cpu") -> None:
    """Different lengths, no tokens, forbidden arcs and impossible lattices, against torch."""
    # On a GPU positions beyond the 64th are other warps'.
    kinds = (
        (11, 6, torch.float64, 1e-12),
        (11, 6, torch.float32, 1e-5),
        (20, 70, torch.float64, 1e-10),
    )
    for topology in TOPOLOGIES:
        for num_frames, num_tokens, dtype, tolerance in kinds:
            symbol, blank, lens, token_lens = random_lattice(
                6, num_frames, num_tokens, dtype=dtype, seed=8
            )
            symbol[1, 2:4] = -math.inf
            blank[2, 5] = -math.inf
            token_lens[3], token_lens[4], lens[4] = 0, 5, 3
            inputs = [x.to(device) for x in (symbol, blank, lens, token_lens)]
            reference = lattice_log_likelihood(*inputs, topology=topology, backend="torch")
            found = lattice_log_likelihood(*inputs, topology=topology, backend=backend)
            assert reference[0].isneginf().any()
            for values, wanted in zip(found, reference, strict=True):
                torch.testing.assert_close(values, wanted, rtol=0, atol=tolerance)
