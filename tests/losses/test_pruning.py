"""Pruning windows: what they must satisfy, and that they follow the occupancies."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from mvqkd.losses.lattice import lattice_log_likelihood
from mvqkd.losses.pruning import pruning_starts, sufficient_range

TOPOLOGIES = ["regular", "modified"]


def occupancies(
    seed: int, topology: str, frames: int = 20, tokens: int = 12, sharpness: float = 3.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    symbol = sharpness * torch.randn(5, frames, tokens, generator=generator)
    blank = sharpness * torch.randn(5, frames, tokens + 1, generator=generator)
    lens = torch.randint(tokens, frames + 1, (5,), generator=generator)
    token_lens = torch.randint(0, tokens + 1, (5,), generator=generator)
    lens[0], token_lens[0] = frames, tokens
    _, *occupancy = lattice_log_likelihood(symbol, blank, lens, token_lens, topology=topology)
    return occupancy[0], occupancy[1], lens, token_lens


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("prune_range", [2, 3, 5, 13])
def test_windows_hold_a_path(topology: str, prune_range: int) -> None:
    for seed in range(10):
        *occupancy, lens, token_lens = occupancies(seed, topology)
        starts = pruning_starts(
            *occupancy, lens, token_lens, prune_range=prune_range, topology=topology
        )
        step = 1 if topology == "modified" else prune_range - 1
        for n in range(5):
            begins = starts[n, : lens[n]].tolist()
            assert begins[0] == 0
            assert begins[-1] == max(0, token_lens[n] + 1 - prune_range)
            rises = [after - before for before, after in itertools.pairwise(begins)]
            assert all(0 <= rise <= step for rise in rises)
        assert starts.min() >= 0 and starts.max() + prune_range <= 13
        # So the lattice cut down to the windows has a path.
        window = torch.arange(13) - starts[:, :, None]
        band = ((window >= 0) & (window < prune_range)).float().log()
        scores, *_ = lattice_log_likelihood(
            band[:, :, :-1].contiguous(), band, lens, token_lens, topology=topology
        )
        assert scores.isfinite().all()


@pytest.mark.parametrize("prune_range", [2, 3, 5])
def test_windows_of_the_modified_topology_keep_a_certain_path(prune_range: int) -> None:
    """Frames that surely emit a token are never left by a blank."""
    emits = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0, 1, 0]).bool()
    positions = emits.cumsum(0) - emits.long()  # tokens emitted before each frame
    symbol = torch.full((1, len(emits), int(emits.sum())), -200.0)
    blank = torch.full((1, len(emits), int(emits.sum()) + 1), -200.0)
    for frame, (emit, position) in enumerate(zip(emits, positions, strict=True)):
        (symbol if emit else blank)[0, frame, position] = 0.0
    lens, token_lens = torch.tensor([len(emits)]), emits.sum()[None]
    _, *occupancy = lattice_log_likelihood(symbol, blank, lens, token_lens, topology="modified")
    starts = pruning_starts(
        *occupancy, lens, token_lens, prune_range=prune_range, topology="modified"
    )[0]
    assert (starts <= positions).all()
    assert (starts + prune_range > positions).all()


def test_windows_keep_the_likeliest_path() -> None:
    """Tokens are emitted, almost surely, in known frames, at a pace the windows can follow."""
    emitted_before = torch.tensor([0, 0, 1, 1, 3, 4, 4, 6, 7, 7, 7, 8])
    num_tokens, num_frames = 8, len(emitted_before) - 1
    symbol = torch.full((1, num_frames, num_tokens), -20.0)
    blank = torch.full((1, num_frames, num_tokens + 1), -20.0)
    for t in range(num_frames):
        symbol[0, t, emitted_before[t] : emitted_before[t + 1]] = 0.0
        blank[0, t, emitted_before[t + 1]] = 0.0
    lens, token_lens = torch.tensor([num_frames]), torch.tensor([num_tokens])
    _, *occupancy = lattice_log_likelihood(symbol, blank, lens, token_lens)
    for prune_range in (3, 4, 5):
        starts = pruning_starts(*occupancy, lens, token_lens, prune_range=prune_range)[0]
        assert (starts <= emitted_before[:-1]).all()
        assert (starts + prune_range > emitted_before[1:]).all()


def test_window_is_the_one_that_keeps_most() -> None:
    """Where no constraint forces it elsewhere; found by trying all windows."""
    *occupancy, lens, token_lens = occupancies(3, "regular", frames=60, tokens=12, sharpness=0.5)
    starts = pruning_starts(*occupancy, lens, token_lens, prune_range=5)
    symbol, blank = occupancy[0][0].double(), occupancy[1][0].double()
    kept = torch.stack(
        [blank[:, s : s + 5].sum(1) - (symbol[:, s - 1] if s else 0.0) for s in range(13 - 5 + 1)],
        dim=1,
    )
    best = kept.argmax(1)
    best[-1] = starts[0, -1]
    # The likeliest window moves too fast nowhere here, so that nothing has to be repaired.
    rises = best.diff()
    assert best[0] == 0 and (rises >= 0).all() and (rises <= 4).all() and best.max() > 5
    assert torch.equal(starts[0], best)


def test_equals_fast_rnnt() -> None:
    """In the regular topology; in the modified one fast_rnnt does not count the paths that leave a
    frame by a symbol."""
    fast_rnnt = pytest.importorskip("fast_rnnt")
    for seed in range(5):
        symbol, blank, lens, token_lens = occupancies(seed, "regular")
        token_lens = token_lens.clamp(min=1)
        starts = pruning_starts(symbol, blank, lens, token_lens, prune_range=4)
        boundary = torch.zeros(5, 4, dtype=torch.int64)
        boundary[:, 2], boundary[:, 3] = token_lens, lens
        px_grad = torch.nn.functional.pad(symbol.transpose(1, 2), (0, 1))
        py_grad = blank.transpose(1, 2).contiguous()
        ranges = fast_rnnt.get_rnnt_prune_ranges(px_grad, py_grad, boundary, 4)
        assert torch.equal(ranges[:, :, 0], starts)


def test_range_is_cut_to_the_lattice_and_widened_for_short_utterances() -> None:
    lens, token_lens = torch.tensor([10, 3]), torch.tensor([6, 1])
    assert sufficient_range(5, lens, token_lens, 7, "regular") == 5
    assert sufficient_range(5, lens, token_lens, 4, "regular") == 4
    # 3 windows of 3 positions that overlap by one reach at most position 6; of 4, position 9.
    token_lens = torch.tensor([6, 6])
    assert sufficient_range(2, lens, token_lens, 11, "regular") == 3
    token_lens = torch.tensor([6, 7])
    assert sufficient_range(2, lens, token_lens, 11, "regular") == 4
    assert sufficient_range(2, lens, token_lens, 11, "modified") == 2
    with pytest.raises(ValueError, match="at least 2"):
        sufficient_range(1, lens, token_lens, 11, "regular")
