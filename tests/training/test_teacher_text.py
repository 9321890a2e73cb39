"""Training on a teacher's texts: losses, gradients and denominators."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mvqkd.data.loading.batch import Batch, collate
from mvqkd.data.loading.hypotheses import WeightedTokens
from tests.training.helpers import TapLoss, make_batch, make_objective


def with_texts(batch: Batch, *texts: list[tuple[list[int], float]]) -> Batch:
    """The batch with (tokens, weight) of each utterance."""
    rows = [
        x[:length].numpy() for x, length in zip(batch.features, batch.feature_lens, strict=True)
    ]
    items = [[WeightedTokens(np.array(x, np.int32), w) for x, w in of_one] for of_one in texts]
    return collate(batch.ids, rows, batch.texts, None, hypotheses=items)


def truth(batch: Batch) -> list[list[int]]:
    assert batch.hypotheses is not None
    return [row[row >= 0].tolist() for row in batch.hypotheses.tokens]


def gradients(objective, batch: Batch) -> dict[str, torch.Tensor]:
    objective.zero_grad()
    objective(batch).total().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in objective.named_parameters()
        if parameter.grad is not None
    }


def test_one_hypothesis_is_training_on_that_text() -> None:
    objective = make_objective()
    batch = make_batch("ab", "cd", "ef")
    one = with_texts(batch, *[[(tokens, 1.0)] for tokens in truth(batch)])
    assert one.hypotheses is not None and one.hypotheses.one_each
    assert torch.equal(one.hypotheses.tokens, batch.hypotheses.tokens)
    expected, found = objective(batch), objective(one)
    assert found.components == expected.components
    assert torch.equal(found.labelled_frames, expected.labelled_frames)
    for name, gradient in gradients(objective, batch).items():
        assert torch.equal(gradients(objective, one)[name], gradient)


def test_a_text_that_is_there_several_times_counts_by_its_weights() -> None:
    objective = make_objective()
    batch = make_batch("ab", "cd")
    tokens = truth(batch)
    split = with_texts(batch, [(tokens[0], 0.3), (tokens[0], 0.7)], [(tokens[1], 1.0)])
    torch.testing.assert_close(objective(split).recognition, objective(batch).recognition)
    expected, found = gradients(objective, batch), gradients(objective, split)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_utterances_without_hypotheses_have_no_part_in_the_denominator_of_recognition() -> None:
    objective = make_objective(distillation={"tap": TapLoss()})
    batch = make_batch("ab", "cd", "ef")
    tokens = truth(batch)
    some = with_texts(batch, [(tokens[0], 1.0)], [], [(tokens[2], 1.0)])
    assert some.hypotheses is not None and not some.hypotheses.one_each
    found, whole = objective(some), objective(batch)
    lens = objective.model.encoder.output_lens(batch.feature_lens)
    assert int(found.labelled_frames) == int(lens[0] + lens[2])
    assert int(found.frames) == int(lens.sum())
    torch.testing.assert_close(found.distillation, whole.distillation)
    pair = dataclasses.replace(
        collate(
            [some.ids[0], some.ids[2]],
            [batch.features[n, : batch.feature_lens[n]].numpy() for n in (0, 2)],
            ["", ""],
            [np.array(tokens[0]), np.array(tokens[2])],
        )
    )
    alone = objective(pair)
    torch.testing.assert_close(found.recognition, alone.recognition, rtol=1e-4, atol=1e-4)
    total = found.recognition / (lens[0] + lens[2]) + found.distillation / lens.sum()
    torch.testing.assert_close(found.total(), total)
    none = with_texts(batch, [], [], [])
    assert none.hypotheses is None and int(objective(none).labelled_frames) == 0


def test_the_mean_over_k_is_the_papers_sum_over_k_divided_by_k() -> None:
    objective = make_objective(ctc_scale=0.0)
    batch = make_batch("ab")
    texts = [[3, 4], [3, 5], [4]]
    mean = objective(with_texts(batch, [(text, 1 / 3) for text in texts])).recognition
    alone = [objective(with_texts(batch, [(text, 1.0)])).recognition for text in texts]
    torch.testing.assert_close(mean, torch.stack(alone).mean(), rtol=1e-4, atol=1e-4)


def test_more_tokens_than_frames_give_finite_losses_or_none() -> None:
    objective = make_objective()
    batch = make_batch("ab")
    frames = int(objective.model.encoder.output_lens(batch.feature_lens)[0])
    losses = objective(with_texts(batch, [([3] * (frames + 5), 1.0)]))
    assert losses.total().isfinite()
    assert float(losses.components["ctc"]) == 0.0
    assert float(losses.components["num_ctc_unaligned"]) == 1.0


@pytest.mark.parametrize("views", [2])
def test_two_views_have_the_hypotheses_of_each(views: int) -> None:
    batch = make_batch("ab", "cd")
    tokens = truth(batch)
    some = with_texts(batch, [(tokens[0], 0.4), ([3], 0.6)], [])
    twice = some.repeat(views)
    assert twice.hypotheses is not None
    assert twice.hypotheses.owners.tolist() == [0, 0, 2, 2]
    assert twice.hypotheses.owned(4).tolist() == [True, False, True, False]
    assert twice.labelled_frames(torch.tensor([5, 3, 5, 3])) == 10
