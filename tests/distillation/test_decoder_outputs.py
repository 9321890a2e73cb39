"""Imitation of an attention decoder's token probabilities."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mvqkd.data.loading.hypotheses import Hypotheses
from mvqkd.distillation import DecoderTeacher, TokenDivergence
from tests.training.helpers import make_batch
from tests.training.helpers import make_objective as transducer_objective
from tests.training.test_attention_head import make_objective


def with_teacher(**options):
    """A student and a teacher with other weights."""
    student, teacher = make_objective(), make_objective()
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model = teacher.model
    loss = TokenDivergence(DecoderTeacher(model.encoder, model.attention), weight=2.0, **options)
    student.distillation["tokens"] = loss
    return student, model


def several_hypotheses(batch):
    tokens = torch.tensor([[3, 4, 5], [4, 4, -100], [5, -100, -100]])
    batch.hypotheses = Hypotheses(
        tokens,
        torch.tensor([3, 2, 1]),
        torch.tensor([1, 0, 1]),
        torch.tensor([0.5, 1.0, 0.25]),
        one_each=False,
    )
    return batch


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_closed_form(temperature):
    student, teacher = with_teacher(temperature=temperature)
    batch = several_hypotheses(make_batch("a", "b"))
    text, expected = batch.hypotheses, 0.0
    for k, n in enumerate(text.owners.tolist()):
        features = batch.features[n : n + 1, : batch.feature_lens[n]]
        tokens = torch.cat([torch.tensor([1]), text.tokens[k, : text.lens[k]]])[None]
        logits = []
        for model in (teacher, student.model):
            out, lens = model.encoder(features, batch.feature_lens[n : n + 1])
            decoder = model.attention
            logits.append(decoder(decoder.memory(out, lens), tokens)[0] / temperature)
        theirs, own = (x.softmax(-1) for x in logits)
        divergence = (theirs * (theirs / own).log()).sum()
        expected = expected + temperature**2 * text.weights[k] * divergence
    losses = student(batch)
    assert_close(losses.components["tokens"], expected.detach(), rtol=1e-4, atol=1e-5)
    assert_close(losses.distillation, 2 * expected, rtol=1e-4, atol=1e-5)


def test_it_trains_the_student_alone_and_is_zero_for_equal_models():
    student, teacher = with_teacher()
    before = [parameter.clone() for parameter in teacher.parameters()]
    student(make_batch("a", "b"), step=1).total().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student.model.attention.output.weight.grad.any()
    assert not any("teacher" in name for name in student.state_dict())
    assert all(map(torch.equal, before, teacher.parameters()))
    teacher.load_state_dict(student.model.state_dict())
    assert abs(float(student(make_batch("a", "b")).components["tokens"])) < 1e-4


def test_the_teacher_receives_the_clean_features():
    student, _ = with_teacher()
    batch = make_batch("a", "b")
    batch.clean, batch.noisy = batch.features, True
    seen = []
    teacher = student.distillation["tokens"].teacher
    teacher.encoder.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    student(batch, features=batch.features * 0, step=1)
    assert torch.equal(seen[0], batch.clean)


def test_views_of_an_utterance_have_one_pass_of_the_teacher():
    student, _ = with_teacher()
    batch, passes = make_batch("a", "b"), []
    teacher = student.distillation["tokens"].teacher
    teacher.encoder.register_forward_hook(lambda _, args, __: passes.append(len(args[0])))
    once, twice = (student(x).components["tokens"] for x in (batch, batch.repeat(2)))
    assert_close(twice, 2 * once)
    assert passes == [2, 2]


def test_audio_without_transcripts_has_none():
    student, _ = with_teacher()
    losses = student(make_batch("a", labelled=False))
    assert "tokens" not in losses.components and losses.distillation == 0
    losses.total().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_a_student_without_an_attention_decoder_is_refused():
    student, _ = with_teacher()
    plain = transducer_objective(distillation={"tokens": student.distillation["tokens"]})
    with pytest.raises(ValueError, match="no attention decoder"):
        plain(make_batch("a"))
