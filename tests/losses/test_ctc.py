from __future__ import annotations

import itertools
import math

import pytest
import torch

from mvqkd.losses import ctc_frames, ctc_loss


def collapse(labels: tuple[int, ...]) -> list[int]:
    return [label for label, _ in itertools.groupby(labels) if label]


def test_is_the_sum_over_all_alignments() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(3, 5, 4, dtype=torch.float64).log_softmax(2)
    tokens = torch.tensor([[1, 2, 2], [3, -100, -100], [-100, -100, -100]])
    lens, token_lens = torch.tensor([5, 3, 4]), torch.tensor([3, 1, 0])
    losses = ctc_loss(log_probs, tokens, lens, token_lens)
    for n in range(3):
        wanted = tokens[n, : token_lens[n]].tolist()
        total = 0.0
        for labels in itertools.product(range(4), repeat=int(lens[n])):
            if collapse(labels) == wanted:
                total += math.exp(sum(log_probs[n, t, k].item() for t, k in enumerate(labels)))
        assert losses[n].item() == pytest.approx(-math.log(total), abs=1e-10)


def test_without_an_alignment_loss_and_gradient_are_zero() -> None:
    logits = torch.randn(2, 4, 5, requires_grad=True)
    # Two equal tokens in a row need a blank between them: 5 frames for these.
    tokens = torch.tensor([[1, 1, 2, 3], [1, 2, 3, 4]])
    losses = ctc_loss(logits.log_softmax(2), tokens, torch.tensor([4, 4]), torch.tensor([4, 4]))
    assert losses[0] == 0 and losses[1] > 0
    losses.sum().backward()
    assert logits.grad is not None
    assert not logits.grad[0].any() and logits.grad[1].any() and logits.grad.isfinite().all()


def test_frames_of_the_shortest_alignment() -> None:
    """Every transcript of up to four of two tokens has an alignment in as many frames, and none in
    fewer."""
    for length in range(5):
        for labels in itertools.product((1, 2), repeat=length):
            tokens = torch.tensor([[*labels, 2, 2, -100, -100]])  # padding counts for nothing
            token_lens = torch.tensor([length])
            (needed,) = ctc_frames(tokens, token_lens).tolist()
            shortest = next(
                frames
                for frames in range(9)
                if any(
                    collapse(path) == list(labels)
                    for path in itertools.product(range(3), repeat=frames)
                )
            )
            assert needed == shortest


def test_padding_has_no_influence() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(1, 6, 5).log_softmax(2)
    alone = ctc_loss(log_probs, torch.tensor([[2, 3]]), torch.tensor([6]), torch.tensor([2]))
    padded = torch.cat([log_probs, torch.full((1, 3, 5), math.nan)], 1)
    tokens = torch.tensor([[2, 3, -100, 7000]])
    together = ctc_loss(padded, tokens, torch.tensor([6]), torch.tensor([2]))
    assert torch.equal(alone, together)


def test_low_precision_is_computed_in_float32() -> None:
    log_probs = torch.randn(1, 6, 5).log_softmax(2).bfloat16()
    one = torch.tensor([[2, 3]]), torch.tensor([6]), torch.tensor([2])
    assert torch.equal(ctc_loss(log_probs, *one), ctc_loss(log_probs.float(), *one))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.tensor([[2, 5]])}, "tokens must be between 1 and 4, .* not 5"),
        ({"tokens": torch.tensor([[-1, 2]])}, "not -1"),
        ({"tokens": torch.tensor([[0, 2]])}, "0 is blank"),
        ({"lens": torch.tensor([7])}, "lens must be between 0 and 6"),
        ({"token_lens": torch.tensor([3])}, "token_lens must be between 0 and 2"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, torch.Tensor], message: str) -> None:
    """torch would read memory beyond the log-probabilities of a frame."""
    arguments = {
        "log_probs": torch.randn(1, 6, 5).log_softmax(2),
        "tokens": torch.tensor([[2, 3]]),
        "lens": torch.tensor([6]),
        "token_lens": torch.tensor([2]),
    }
    with pytest.raises(ValueError, match=message):
        ctc_loss(**(arguments | change))
