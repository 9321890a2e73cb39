"""Regression of embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mvqkd.distillation import RegressionHead

RATIO, DIM = 2, 3


def expected(measure: str, predicted: Tensor, wanted: Tensor) -> float:
    """Of one teacher frame, from the definition."""
    if measure == "l1":
        return float((predicted - wanted).abs().mean())
    if measure == "l2":
        return float(((predicted - wanted) ** 2).mean())
    if measure == "cosine":
        return 1 - float(predicted @ wanted / predicted.norm() / wanted.norm())
    p, q = wanted.softmax(0), predicted.softmax(0)
    return float((p * (p / q).log()).sum())


@pytest.mark.parametrize("measure", ["l1", "l2", "cosine", "kld"])
def test_distances_follow_their_definitions(measure: str) -> None:
    torch.manual_seed(0)
    head = RegressionHead(4, DIM, RATIO, measure)  # type: ignore[arg-type]
    x, wanted = torch.randn(5, 4), torch.randn(5, RATIO * DIM)
    found = head(x, wanted)
    for row in range(5):
        prediction = head.predict(x[row])
        parts = [
            expected(measure, prediction[i : i + DIM], wanted[row, i : i + DIM])
            for i in range(0, RATIO * DIM, DIM)
        ]
        assert float(found[row].detach()) == pytest.approx(sum(parts) / RATIO, rel=1e-4)


@pytest.mark.parametrize(("measure", "power"), [("l1", 1), ("l2", 2)])
def test_mean_and_scale_only_change_the_unit(measure: str, power: int) -> None:
    torch.manual_seed(1)
    mean, scale = torch.randn(DIM) * 10, 7.0
    head = RegressionHead(4, DIM, 1, measure, mean=mean, scale=scale)  # type: ignore[arg-type]
    plain = RegressionHead(4, DIM, 1, measure)  # type: ignore[arg-type]
    with torch.no_grad():  # predicts in the embeddings' own unit what `head` predicts in its unit
        plain.predict.weight.copy_(head.predict.weight * scale)
        plain.predict.bias.copy_(head.predict.bias * scale + mean)
    x, wanted = torch.randn(6, 4), torch.randn(6, DIM) * 20
    assert_close(head(x, wanted) * scale**power, plain(x, wanted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("measure", ["l1", "l2", "cosine", "kld"])
def test_a_perfect_prediction_costs_nothing(measure: str) -> None:
    head = RegressionHead(DIM, DIM, 1, measure)  # type: ignore[arg-type]
    with torch.no_grad():
        head.predict.weight.copy_(torch.eye(DIM))
        head.predict.bias.zero_()
    x = torch.randn(4, DIM)
    assert_close(head(x, x), torch.zeros(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("measure", ["l1", "l2", "cosine", "kld"])
def test_a_batch_without_targets_has_no_distances(measure: str) -> None:
    head = RegressionHead(4, DIM, RATIO, measure)  # type: ignore[arg-type]
    distances = head(torch.randn(0, 4), torch.randn(0, RATIO * DIM))
    assert distances.shape == (0,)
    distances.sum().backward()


def test_loading_weights_leaves_the_given_mean_alone() -> None:
    mean = torch.randn(DIM)
    before = mean.clone()
    head = RegressionHead(4, DIM, 1, "l2", mean=mean)
    head.load_state_dict({**head.state_dict(), "mean": torch.ones(DIM)})
    assert torch.equal(mean, before)
