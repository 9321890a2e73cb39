from __future__ import annotations

import numpy as np
import pytest
import torch

from mvqkd.data.batch import collate
from mvqkd.geometry import FEATURE_PADDING, TARGET_PADDING, encoder_frames


def test_pads_each_utterance_and_sorts_by_length() -> None:
    random = np.random.default_rng(0)
    lens = [3, 7, 5]
    features = [random.standard_normal((n, 80)).astype(np.float32) for n in lens]
    tokens = [np.array([4, 5]), np.array([], dtype=np.int32), np.array([9])]
    batch = collate(["a", "b", "c"], features, ["A", "", "C"], tokens)

    assert batch.ids == ["b", "c", "a"]
    assert batch.texts == ["", "C", "A"]
    assert batch.feature_lens.tolist() == [7, 5, 3]
    assert batch.token_lens.tolist() == [0, 1, 2]
    assert batch.tokens.tolist() == [[TARGET_PADDING] * 2, [9, TARGET_PADDING], [4, 5]]
    for row, n in enumerate([1, 2, 0]):
        np.testing.assert_array_equal(batch.features[row, : lens[n]].numpy(), features[n])
        assert (batch.features[row, lens[n] :] == FEATURE_PADDING).all()
    assert batch.seconds == pytest.approx(0.15)
    assert len(batch) == 3


def test_without_tokens() -> None:
    empty = np.zeros(0, dtype=np.int32)
    batch = collate(["a"], [np.zeros((2, 80), np.float32)], ["A"], [empty])
    assert batch.tokens.shape == (1, 0)


def test_to_moves_every_tensor() -> None:
    batch = collate(["a"], [np.zeros((2, 80), np.float32)], ["A"], [np.array([1])]).to("meta")
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 4
    assert all(tensor.device.type == "meta" for tensor in tensors)


def test_unlabelled_leaves_transcripts_out() -> None:
    features = [np.zeros((n, 80), np.float32) for n in (2, 3)]
    batch = collate(["a", "b"], features, ["A", "B"], [np.array([1]), np.array([2, 3])])
    assert batch.labelled
    batch = collate(
        ["a", "b"], features, ["A", "B"], [np.array([1]), np.array([2, 3])], labelled=False
    )
    for one in (batch, batch.to("meta")):
        assert not one.labelled
        assert one.ids == ["b", "a"]
        assert one.texts == ["", ""]
        assert one.tokens.shape == (2, 0)
        assert one.tokens.dtype == torch.int64
    assert batch.token_lens.tolist() == [0, 0]
    assert batch.feature_lens.tolist() == [3, 2]


@pytest.mark.parametrize("lens", [[2], [3, 1], [4, 3], [35, 20], [36, 7], [67, 66]])
def test_padding_to_a_multiple_makes_multiples_of_the_encoders_frames(lens: list[int]) -> None:
    features = [np.full((n, 80), 1.0, np.float32) for n in lens]
    ids, texts = [str(n) for n in lens], [""] * len(lens)
    tokens = [np.array([n], np.int32) for n in lens]
    plain = collate(ids, features, texts, tokens)
    padded = collate(ids, features, texts, tokens, pad_multiple=32)
    assert plain.features.size(1) == max(lens)
    longer = padded.features.size(1) - max(lens)
    assert 0 <= longer < 32
    assert encoder_frames(padded.features.size(1)) % 8 == 0
    assert torch.equal(padded.features[:, : max(lens)], plain.features)
    assert (padded.features[:, max(lens) :] == FEATURE_PADDING).all()
    assert torch.equal(padded.feature_lens, plain.feature_lens)
    assert padded.seconds == plain.seconds
