"""Predicting codebook indexes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mvqkd.distillation import (
    CodebookHead,
    JointCodebookHead,
    SoftCodebookHead,
    TiedCodebookHead,
)
from mvqkd.distillation.codes import soft_indexes


def test_independent_loss_is_the_mean_negative_log_probability_of_each_index() -> None:
    torch.manual_seed(0)
    head = CodebookHead(6, num_indexes=3, codebook_size=4).double()
    x, indexes = torch.randn(5, 6, dtype=torch.float64), torch.randint(0, 4, (5, 3))
    found = head(x, indexes).detach()
    for row in range(5):
        total = 0.0
        for place in range(3):
            weight = head.logits.weight[4 * place : 4 * place + 4]
            logits = weight @ x[row] + head.logits.bias[4 * place : 4 * place + 4]
            total -= math.log(float(logits.detach().softmax(0)[indexes[row, place]]))
        assert float(found[row]) == pytest.approx(total / 3, rel=1e-5)


def test_soft_indexes_are_shared_with_near_entries() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(3, 16, 5, generator=generator)
    centers *= torch.tensor([10.0, 1.0, 0.1]).view(3, 1, 1)  # as of a residual quantizer
    shares = soft_indexes(centers, 4.0).double()
    entropy = torch.special.entr(shares).sum(2)
    assert float(entropy.mean()) == pytest.approx(math.log(4), abs=1e-4)
    per_codebook = entropy.mean(1)
    assert per_codebook[0] < per_codebook[1] < per_codebook[2] <= math.log(16)
    # One temperature for all: log-ratios of shares are differences of squared distances.
    distances = (centers[..., :, None, :] - centers[..., None, :, :]).square().sum(-1)
    q, i, j, k = 1, 3, 0, 7
    slope = (shares[q, i, j] / shares[q, i, k]).log() / (distances[q, i, k] - distances[q, i, j])
    q, i, j, k = 2, 5, 2, 9
    ratio = (shares[q, i, j] / shares[q, i, k]).log()
    assert_close(ratio, slope * (distances[q, i, k] - distances[q, i, j]), rtol=1e-3, atol=1e-4)
    for perplexity in (0.5, 17):
        with pytest.raises(ValueError, match="a perplexity of"):
            soft_indexes(centers, perplexity)


def test_soft_loss_is_cross_entropy_with_the_shares() -> None:
    torch.manual_seed(0)
    centers = torch.randn(2, 6, 3)
    head = SoftCodebookHead(5, 2, centers, 2.5)
    x, indexes = torch.randn(7, 5), torch.randint(0, 6, (7, 4))
    shares = soft_indexes(centers, 2.5)
    logits = head.logits(x).detach().view(7, 4, 6).log_softmax(2)
    expected = [
        -sum(float(shares[p % 2, i] @ logits[row, p]) for p, i in enumerate(indexes[row])) / 4
        for row in range(7)
    ]
    assert_close(head(x, indexes).detach(), torch.tensor(expected))
    # An index that is none costs nothing, and the others what they did.
    absent = torch.cat([indexes[:, :3], torch.full((7, 1), -100)], dim=1)
    share = -torch.stack([shares[1, i] @ logits[row, 3] for row, i in enumerate(indexes[:, 3])])
    assert_close(head(x, absent).detach(), torch.tensor(expected) - share / 4)
    # One entry alone: the loss of the head whose weights it has.
    hard, plain = SoftCodebookHead(5, 2, centers, 1.0), CodebookHead(5, 4, 6)
    plain.load_state_dict({k: v for k, v in hard.state_dict().items() if k != "shares"})
    assert_close(hard(x, indexes), plain(x, indexes))


def test_tied_logits_are_products_of_a_predicted_embedding_with_the_entries() -> None:
    torch.manual_seed(0)
    centers = torch.randn(2, 4, 3, dtype=torch.float64)
    head = TiedCodebookHead(5, 2, centers)
    torch.nn.init.normal_(head.bias)
    torch.nn.init.normal_(head.log_scale)
    # Whatever the teacher's units are, and whatever all entries of a codebook share.
    louder = TiedCodebookHead(5, 2, 100 * (centers + torch.randn(2, 1, 3)))
    louder.load_state_dict(
        {k: v for k, v in head.state_dict().items() if k != "centers"}, strict=False
    )
    centers = centers - centers.mean(1, keepdim=True)
    deviation = centers.square().mean(1).sum(0).mean().sqrt()
    x, indexes = (
        torch.randn(4, 5),
        torch.tensor([[1, 3, 2, 0], [0, 0, 1, 1], [3, 2, 0, 1], [2, 1, 1, 3]]),
    )
    found = head(x, indexes).detach()
    for row in range(4):
        total = 0.0
        for place, index in enumerate(indexes[row].tolist()):
            frame, q = divmod(place, 2)
            embedding = head.predict(x[row])[3 * frame : 3 * frame + 3]
            products = (centers[q] / deviation).float() @ embedding
            logits = head.log_scale[frame, q].exp() * products + head.bias[frame, q]
            total -= float(logits.detach().log_softmax(0)[index])
        assert float(found[row]) == pytest.approx(total / 4, rel=1e-5)
    assert_close(louder(x, indexes).detach(), found)


def test_tied_entries_begin_equally_likely_and_find_their_place() -> None:
    torch.manual_seed(0)
    centers = torch.randn(2, 8, 6)
    head = TiedCodebookHead(6, 1, centers)
    indexes = torch.randint(8, (64, 2))
    x = centers[0][indexes[:, 0]] + centers[1][indexes[:, 1]]
    start = head(x, indexes).detach().mean()
    assert float(start) == pytest.approx(math.log(8), abs=0.15)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(100):
        loss = head(x, indexes).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3 * float(start)
    assert not head.centers.requires_grad


def test_joint_loss_is_that_of_each_index_given_those_before_it() -> None:
    torch.manual_seed(0)
    head = JointCodebookHead(5, num_indexes=3, codebook_size=4, hidden_dim=6)
    x, indexes = torch.randn(4, 5), torch.tensor([[1, 3, 2], [0, 0, 1], [3, 2, 0], [2, 1, 1]])
    found = head(x, indexes).detach()
    for row in range(4):
        total, known = 0.0, torch.zeros(6)
        for place, hidden in enumerate(head.hidden(x[row]).view(3, 6)):
            logits = head.weight[place] @ (hidden + known).relu() + head.bias[place]
            total -= float(logits.detach().log_softmax(0)[indexes[row, place]])
            if place < 2:
                known = known + head.before.weight[4 * place + indexes[row, place]]
        assert float(found[row]) == pytest.approx(total / 3, rel=1e-5)


def test_joint_prediction_knows_nothing_of_an_index_that_is_none() -> None:
    torch.manual_seed(0)
    head = JointCodebookHead(5, num_indexes=2, codebook_size=4, hidden_dim=6)
    x, indexes = torch.randn(3, 5), torch.tensor([[-100, 1], [-100, 0], [-100, 3]])
    hidden = head.hidden(x).view(3, 2, 6)[:, 1].relu()
    logits = (hidden @ head.weight[1].T + head.bias[1]).log_softmax(1)
    wanted = -logits[range(3), indexes[:, 1]] / 2
    assert_close(head(x, indexes), wanted)


def test_joint_probabilities_of_all_sequences_add_up_to_one() -> None:
    torch.manual_seed(1)
    head = JointCodebookHead(5, num_indexes=3, codebook_size=3, hidden_dim=7)
    x = torch.randn(1, 5)
    sequences = torch.tensor(list(itertools.product(range(3), repeat=3)))
    log_probs = -3 * head(x.expand(27, -1), sequences)
    assert float(log_probs.exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_joint_prediction_learns_what_independent_prediction_cannot() -> None:
    # The second index equals the first, which is a coin toss: given the first it is certain.
    torch.manual_seed(2)
    first = torch.randint(0, 2, (256, 1))
    indexes = first.repeat(1, 2)
    x = torch.ones(256, 3)

    def trained(head: nn.Module) -> float:
        optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            loss = head(x, indexes).mean()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    coin = math.log(2)
    assert trained(CodebookHead(3, 2, 2)) == pytest.approx(coin, abs=0.01)
    assert trained(JointCodebookHead(3, 2, 2, hidden_dim=8)) == pytest.approx(coin / 2, abs=0.02)


@pytest.mark.parametrize("kind", [CodebookHead, JointCodebookHead])
def test_one_codebook_and_no_frames(kind: type[nn.Module]) -> None:
    head = kind(4, 1, 8)
    loss = head(torch.randn(3, 4), torch.randint(0, 8, (3, 1)))
    assert loss.shape == (3,) and loss.isfinite().all()
    nothing = head(torch.randn(0, 4), torch.zeros(0, 1, dtype=torch.int64))
    nothing.sum().backward()
    assert nothing.shape == (0,)
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize(
    "head",
    [
        CodebookHead(4, 6, 8),
        SoftCodebookHead(4, 2, torch.randn(3, 8, 5)),
        TiedCodebookHead(4, 2, torch.randn(3, 8, 5)),
        JointCodebookHead(4, 6, 8, hidden_dim=4),
    ],
)
def test_other_shapes_are_refused(head: nn.Module) -> None:
    x, indexes = torch.randn(6, 4), torch.zeros(6, 6, dtype=torch.int64)
    assert head(x, indexes).shape == (6,)
    wrong = [(x, indexes[:, :3]), (x, indexes.view(9, 4)), (x[:, :3], indexes), (x[:3], indexes)]
    wrong.append((x[None], indexes[None]))
    for frames, given in wrong:
        with pytest.raises(ValueError, match=r"x must be frames \(M, 4\) and indexes \(M, 6\)"):
            head(frames, given)


@pytest.mark.parametrize("kind", [CodebookHead, SoftCodebookHead, JointCodebookHead])
def test_losses_are_float32_under_autocast(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    head = kind(4, 1, torch.randn(2, 8, 3), 2.0) if kind is SoftCodebookHead else kind(4, 2, 8)
    x, indexes = torch.randn(3, 4), torch.randint(0, 8, (3, 2))
    exact = head(x, indexes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = head(x, indexes)
    assert rounded.dtype == torch.float32
    assert_close(rounded, exact, rtol=0.03, atol=0.03)
