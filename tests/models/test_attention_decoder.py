"""Decoders of attention encoder-decoders."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mvqkd.geometry import SOS_EOS
from mvqkd.models import GruDecoder, TransformerDecoder
from mvqkd.models.attention_decoder import select_rows
from mvqkd.models.hypothesis_slots import HypothesisSlots

VOCAB = 9
DECODERS = {
    "transformer": lambda: TransformerDecoder(
        encoder_dim=12, vocab_size=VOCAB, dim=16, num_layers=2, num_heads=2, feedforward_dim=24
    ),
    "gru": lambda: GruDecoder(
        encoder_dim=12, vocab_size=VOCAB, dim=12, num_layers=2, embedding_dim=6, filters=4
    ),
}


@pytest.fixture(params=sorted(DECODERS))
def decoder(request):
    torch.manual_seed(1)
    return DECODERS[request.param]().double().eval()


def utterances():
    """Encoder outputs (3, 10, 12) and lens."""
    torch.manual_seed(2)
    lens = torch.tensor([10, 4, 7])
    out = torch.randn(3, 10, 12, dtype=torch.float64)
    return out * (torch.arange(10) < lens[:, None]).unsqueeze(2), lens


def texts(count: int, length: int = 6) -> torch.Tensor:
    torch.manual_seed(3)
    tokens = torch.randint(3, VOCAB, (count, length))
    tokens[:, 0] = SOS_EOS
    return tokens


def test_steps_with_a_cache_equal_the_whole(decoder):
    out, lens = utterances()
    memory = decoder.memory(out, lens)
    tokens = texts(6)  # two hypotheses for each utterance
    whole = decoder(memory, tokens, torch.tensor([0, 0, 1, 1, 2, 2]))
    state = decoder.start(memory, 2)
    for position in range(tokens.size(1)):
        logits, state = decoder.step(memory, state, tokens[:, position])
        assert_close(logits, whole[:, position])


def test_states_can_be_reordered_and_utterances_dropped(decoder):
    out, lens = utterances()
    memory = decoder.memory(out, lens)
    tokens = texts(6)
    state = decoder.start(memory, 2)
    for position in range(3):
        _, state = decoder.step(memory, state, tokens[:, position])
    kept, rows = torch.tensor([2, 0]), torch.tensor([5, 5, 1, 0])
    logits, _ = decoder.step(select_rows(memory, kept), select_rows(state, rows), tokens[rows, 3])
    whole = decoder(memory, tokens[rows], torch.tensor([2, 2, 0, 0]))
    assert_close(logits, whole[:, 3])


def test_hypotheses_in_one_pass_equal_as_many_passes(decoder):
    out, lens = utterances()
    tokens, owners = texts(5), torch.tensor([2, 0, 2, 2, 1])
    together = decoder(decoder.memory(out, lens), tokens, owners)
    for k, n in enumerate(owners.tolist()):
        alone = decoder.memory(out[n : n + 1], lens[n : n + 1])
        assert_close(together[k], decoder(alone, tokens[k : k + 1])[0])


def test_an_utterance_without_a_hypothesis_costs_nothing_else(decoder):
    out, lens = utterances()
    tokens = texts(2)
    memory = decoder.memory(out, lens)
    found = decoder(memory, tokens, torch.tensor([2, 0]))
    assert_close(found[0], decoder(select_rows(memory, torch.tensor([2])), tokens[:1])[0])


def test_padding_changes_nothing(decoder):
    out, lens = utterances()
    tokens = texts(3)
    whole = decoder(decoder.memory(out, lens), tokens)
    longer = torch.nn.functional.pad(out, (0, 0, 0, 5))
    assert_close(decoder(decoder.memory(longer, lens), tokens), whole)
    padded = torch.cat([tokens, torch.full((3, 4), SOS_EOS)], dim=1)
    assert_close(decoder(decoder.memory(out, lens), padded)[:, :6], whole)


def test_later_tokens_are_not_attended_to_and_frames_are(decoder):
    out, lens = utterances()
    tokens = texts(3)
    whole = decoder(decoder.memory(out, lens), tokens)
    other = tokens.clone()
    other[:, 4:] = 3 + (other[:, 4:] - 2) % (VOCAB - 3)
    changed = decoder(decoder.memory(out, lens), other)
    assert_close(changed[:, :4], whole[:, :4])
    assert not torch.allclose(changed[:, 4:], whole[:, 4:])
    assert not torch.allclose(decoder(decoder.memory(-out, lens), tokens), whole)


def test_an_utterance_without_frames_is_finite(decoder):
    out, _ = utterances()
    logits = decoder(decoder.memory(out * 0, torch.tensor([0, 0, 0])), texts(3))
    assert logits.isfinite().all()


def test_gradients_of_hypotheses_in_one_pass_add_up(decoder):
    out, lens = utterances()
    out.requires_grad_()
    tokens = texts(12, 3)

    def gradient(tokens, owners=None):
        logits = decoder(decoder.memory(out, lens), tokens, owners)
        return torch.autograd.grad(logits.square().sum(), out)[0]

    together = gradient(tokens, torch.arange(3).repeat_interleave(4))
    assert_close(together, sum(gradient(tokens[k::4]) for k in range(4)))


def test_gradients_of_the_gru_decoder():
    torch.manual_seed(0)
    decoder = GruDecoder(
        encoder_dim=4, vocab_size=5, dim=4, embedding_dim=3, filters=2, filter_frames=3
    )
    decoder = decoder.double().eval()
    lens, tokens = torch.tensor([5, 3]), torch.tensor([[1, 3, 4], [1, 4, 3]])

    def logits(out):
        return decoder(decoder.memory(out, lens), tokens)

    out = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(logits, (out,))


def test_location_aware_attention_moves_with_the_weights_before():
    """With filters that shift by a frame, and no other energy, the weights move by one frame."""
    decoder = GruDecoder(
        encoder_dim=4, vocab_size=5, dim=4, embedding_dim=3, filters=1, filter_frames=3
    ).double()
    with torch.no_grad():
        for parameter in (decoder.query.weight, decoder.key.weight, decoder.location_key.bias):
            parameter.zero_()
        decoder.location.weight.copy_(torch.tensor([[[1.0, 0.0, 0.0]]]))
        decoder.location_key.weight.fill_(1.0)
        decoder.energy.weight.fill_(100.0)
    decoder.eval()
    memory = decoder.memory(torch.randn(1, 6, 4, dtype=torch.float64), torch.tensor([6]))
    state = decoder.start(memory, 1)
    weights = torch.zeros(1, 6, dtype=torch.float64)
    weights[0, 2] = 1.0
    _, state = decoder.step(memory, state._replace(weights=weights), torch.tensor([1]))
    assert state.weights.argmax() == 3 and state.weights.max() > 0.99


def test_scheduled_sampling_uses_own_predictions_in_training_only():
    torch.manual_seed(0)
    decoder = DECODERS["gru"]().double()
    decoder.dropout.p = 0.0
    out, lens = utterances()
    memory, tokens = decoder.memory(out, lens), texts(3)
    own = decoder.train()(memory, tokens, forcing=0.0)
    inputs = torch.cat([tokens[:, :1], own.argmax(-1)[:, :-1]], dim=1)
    assert_close(decoder(memory, inputs), own)
    assert_close(decoder.eval()(memory, tokens, forcing=0.0), decoder(memory, tokens))
    with pytest.raises(ValueError, match="forcing must be 1"):
        transformer = DECODERS["transformer"]().double()
        transformer(transformer.memory(out, lens), tokens, forcing=0.5)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="multiple of num_heads=3"):
        TransformerDecoder(encoder_dim=8, vocab_size=5, dim=16, num_heads=3)
    with pytest.raises(ValueError, match="width of the encoder, 8, not dim=16"):
        GruDecoder(encoder_dim=8, vocab_size=5, dim=16)
    with pytest.raises(ValueError, match="must be odd"):
        GruDecoder(encoder_dim=8, vocab_size=5, dim=8, filter_frames=4)


def test_slots_hold_each_hypothesis_once():
    owners = torch.tensor([1, 0, 1, 1, 3])
    slots = HypothesisSlots(owners, 4)
    x = torch.arange(1.0, 6.0).unsqueeze(1)
    spread = slots.spread(x)
    assert spread.shape == (4, 3, 1)
    assert spread[:, :, 0].tolist() == [[2, 0, 0], [1, 3, 4], [0, 0, 0], [5, 0, 0]]
    assert torch.equal(slots.collect(spread), x)
