"""The auxiliary branch: what each of its outputs depends on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mvqkd.models.auxiliary_branch import AuxiliaryBranch
from mvqkd.models.masks import gap_blocks


def branch(**options) -> AuxiliaryBranch:
    torch.manual_seed(0)
    sizes = {"input_dim": 6, "dim": 8, "num_heads": 2, "feedforward_dim": 12, "dropout": 0.0}
    return AuxiliaryBranch(**{**sizes, **options})


def depends(out: Tensor, x: Tensor) -> Tensor:
    """(T, T) bool: whether frame t of out depends on frame k of x (of the only utterance)."""
    rows = [
        torch.autograd.grad(out[0, t].square().sum(), x, retain_graph=True)[0][0].abs().sum(1) > 0
        for t in range(out.size(1))
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("gap", [0, 1, 4, 99])
def test_a_frame_does_not_see_the_frames_of_the_gap(gap: int) -> None:
    x, lens = torch.randn(1, 9, 6, requires_grad=True), torch.tensor([7])
    found = branch(gap=gap)(x, lens)
    ahead = torch.arange(9) - torch.arange(9)[:, None]
    wanted = ((ahead <= 0) | (ahead > gap)) & (torch.arange(9) < 7)
    assert torch.equal(depends(found.out, x)[:7], wanted[:7])
    # The prediction of frame t is made of z up to frame t, and so of what these have seen.
    by_past = torch.stack([wanted[: t + 1].any(0) for t in range(9)])
    assert torch.equal(depends(found.future, x)[:7], by_past[:7])


@pytest.mark.parametrize("block_size", [1, 2, 64])
def test_blocks_of_the_gap_are_the_whole_in_parts(block_size: int) -> None:
    valid = torch.arange(5) < torch.tensor([[5], [3], [0]])
    (whole,) = gap_blocks(valid, gap=2, block_size=None, dtype=torch.float32)
    parts = gap_blocks(valid, gap=2, block_size=block_size, dtype=torch.float32)
    assert torch.equal(torch.cat([part.bias for part in parts], 1), whole.bias)
    for n, length in enumerate((5, 3, 0)):
        for t in range(5):
            for k in range(5):
                seen = k == t or (k < length and not t < k <= t + 2)
                assert (whole.bias[n, t, k] == 0) == seen


def test_padding_changes_nothing() -> None:
    module = branch(gap=2)
    x = torch.randn(2, 7, 6)
    lens = torch.tensor([7, 4])
    padded = torch.cat([x, torch.full((2, 3, 6), torch.nan)], 1)
    padded[1, 4:] = torch.nan
    found = module(padded, lens)
    for n, length in enumerate(lens.tolist()):
        alone = module(x[n : n + 1, :length], lens[n : n + 1])
        assert_close(found.out[n, :length], alone.out[0])
        assert_close(found.future[n, :length], alone.future[0])
        for name in alone.taps:
            assert_close(found.taps[name][n, :, :length], alone.taps[name][0])


def test_an_utterance_without_frames_is_finite() -> None:
    found = branch(gap=2)(torch.randn(2, 3, 6), torch.tensor([3, 0]))
    assert found.out.isfinite().all() and found.future.isfinite().all()


def test_without_prediction_there_is_no_lstm() -> None:
    module = branch(predicts=False)
    assert module(torch.randn(1, 3, 6), torch.tensor([3])).future is None
    assert not any("lstm" in name for name, _ in module.named_parameters())


def test_bfloat16_is_near() -> None:
    module = branch(gap=1)
    x, lens = torch.randn(2, 30, 6), torch.tensor([30, 20])
    exact = module(x, lens)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x, lens)
    for one, other in ((found.out, exact.out), (found.future, exact.future)):
        assert_close(one[0].float(), other[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"), [({"dim": 7, "num_heads": 7}, "even"), ({"num_heads": 3}, "divide")]
)
def test_sizes_that_do_not_go_together_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        branch(**options)
