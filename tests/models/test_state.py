from __future__ import annotations

import torch

from mvqkd.models import EncoderState


def test_unstack_is_the_inverse_of_stack() -> None:
    one = EncoderState(torch.randn(2, 3, 1, 4), torch.randn(2, 5, 1, 4), torch.tensor([64]))
    two = EncoderState(torch.randn(2, 3, 2, 4), torch.randn(2, 5, 2, 4), torch.tensor([0, 128]))
    stacked = EncoderState.stack([one, two])
    assert stacked.attention.shape == (2, 3, 3, 4)
    assert stacked.convolution.shape == (2, 5, 3, 4)
    assert stacked.processed.tolist() == [64, 0, 128]
    parts = stacked.unstack()
    assert [part.processed.tolist() for part in parts] == [[64], [0], [128]]
    for first, again in zip(one, parts[0], strict=True):
        assert torch.equal(first, again)
    for first, again in zip(stacked, EncoderState.stack(parts), strict=True):
        assert torch.equal(first, again)


def test_the_state_of_one_stream_does_not_keep_the_others_alive() -> None:
    batch = EncoderState(torch.randn(2, 3, 50, 4), torch.randn(2, 5, 50, 4), torch.zeros(50))
    for part in batch.unstack()[7]:
        assert part.untyped_storage().nbytes() == part.nbytes
