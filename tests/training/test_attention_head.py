"""Training of models with an attention decoder, with and without other heads."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mvqkd.data.loading.hypotheses import Hypotheses
from mvqkd.distillation.context import LossContext
from mvqkd.losses import cross_entropy_loss, decoder_targets
from mvqkd.models import AsrModel, ConformerEncoder, CTCHead, GruDecoder, TransformerDecoder
from mvqkd.training.heads import AttentionHeadLoss, CTCHeadLoss
from mvqkd.training.objective import Objective
from tests.training.helpers import BINS, VOCAB, make_batch


def make_objective(kind: str = "transformer", **options) -> Objective:
    """CTC and attention, without a transducer."""
    torch.manual_seed(0)
    encoder = ConformerEncoder(
        input_dim=BINS, dim=16, num_layers=1, num_heads=2, feedforward_dim=16, conv_kernel=3,
        dropout=0.0, subsampling_channels=4,
    )  # fmt: skip
    shared = {"encoder_dim": 16, "vocab_size": VOCAB, "dim": 16, "num_layers": 1, "dropout": 0.0}
    decoder = (
        GruDecoder(**shared, filters=4)
        if kind == "gru"
        else TransformerDecoder(**shared, num_heads=2, feedforward_dim=16)
    )
    model = AsrModel(encoder, ctc=CTCHead(encoder_dim=16, vocab_size=VOCAB), attention=decoder)
    losses = {
        "ctc": CTCHeadLoss(weight=0.3),
        "attention": AttentionHeadLoss(weight=0.7, **options),
    }
    return Objective(model, losses)


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_a_model_without_a_transducer_is_trained(kind):
    objective = make_objective(kind, smoothing=0.1)
    batch = make_batch("a", "b", tokens=2)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.02)
    before = float(objective(batch, step=1).total())
    for step in range(1, 31):
        optimizer.zero_grad()
        objective(batch, step=step).total().backward()
        assert all(p.grad is not None for p in objective.parameters())
        optimizer.step()
    after = objective(batch, step=31)
    assert objective.components == ["ctc", "num_ctc_unaligned", "attention"]
    assert float(after.total()) < 0.7 * before


def test_the_loss_is_the_cross_entropy_of_the_tokens_and_the_end():
    objective = make_objective(smoothing=0.2)
    batch = make_batch("a", "b")
    out, lens = objective.model.encoder(batch.features, batch.feature_lens)
    decoder, text = objective.model.attention, batch.hypotheses
    inputs = torch.cat([torch.ones(2, 1, dtype=torch.int64), text.tokens], dim=1)
    logits = decoder(decoder.memory(out, lens), inputs)
    targets = decoder_targets(text.tokens, text.lens, 1)
    for step, smoothing in ((1, 0.2), (None, 0.0)):  # validation losses compare
        expected = cross_entropy_loss(logits, targets, smoothing=smoothing).sum()
        assert_close(objective(batch, step=step).components["attention"], expected)


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_hypotheses_cost_what_they_cost_alone_times_their_weights(kind):
    objective = make_objective(kind)
    batch = make_batch("a", "b")
    calls = []
    objective.model.encoder.register_forward_hook(lambda *call: calls.append(1))
    torch.manual_seed(5)
    rows = torch.randint(3, VOCAB, (5, 4))
    owners, weights = torch.tensor([1, 0, 1, 1, 0]), torch.tensor([0.2, 0.5, 1.0, 0.3, 2.0])
    lens = torch.tensor([4, 4, 2, 3, 1])
    rows[torch.arange(4) >= lens[:, None]] = -100
    batch.hypotheses = Hypotheses(rows, lens, owners, weights, one_each=False)
    together = objective(batch).components["attention"]
    assert len(calls) == 1
    expected = torch.zeros(())
    for k in range(5):
        other = make_batch("a", "b")
        other.hypotheses = Hypotheses(
            rows[k : k + 1, : lens[k]],
            lens[k : k + 1],
            owners[k : k + 1],
            torch.ones(1),
            one_each=False,
        )
        expected = expected + weights[k] * objective(other).components["attention"]
    assert_close(together, expected)


def test_the_decoder_leaves_its_output_for_other_losses():
    objective = make_objective()
    seen: list[LossContext] = []
    loss = objective.head_losses["attention"]
    loss.register_forward_hook(lambda module, args, out: seen.append(args[1]))
    batch = make_batch("a", "b")
    objective(batch, step=1)
    logits, inputs, targets = seen[0].decoder
    assert logits.shape == (2, 4, VOCAB)
    assert inputs[:, 1:].equal(targets[:, :-1]) and (targets[:, -1] == 1).all()
