from __future__ import annotations

import numpy as np
import pytest
import torch

from mvqkd.data.loading.batch import collate
from mvqkd.data.loading.hypotheses import Hypotheses
from mvqkd.data.targets.frame_targets import FrameTargets, Waveforms
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
    assert batch.hypotheses.lens.tolist() == [0, 1, 2]
    assert batch.hypotheses.tokens.tolist() == [[TARGET_PADDING] * 2, [9, TARGET_PADDING], [4, 5]]
    for row, n in enumerate([1, 2, 0]):
        np.testing.assert_array_equal(batch.features[row, : lens[n]].numpy(), features[n])
        assert (batch.features[row, lens[n] :] == FEATURE_PADDING).all()
    assert batch.seconds == pytest.approx(0.15)
    assert len(batch) == 3


def test_texts_without_tokens_and_features_without_noise() -> None:
    empty = np.zeros(0, dtype=np.int32)
    features = [np.full((n, 80), n, np.float32) for n in (2, 3)]
    batch = collate(["a", "b"], features, ["A", "B"], [empty, empty])
    assert batch.labelled and batch.hypotheses.tokens.shape == (2, 0)
    assert batch.clean is None
    clean = [x + 0.5 for x in features]
    batch = collate(["a", "b"], features, ["A", "B"], None, clean=clean)
    assert not batch.labelled and batch.texts == ["B", "A"]
    assert torch.equal(batch.clean[0], batch.features[0] + 0.5)
    assert batch.clean[1, 2, 0] == FEATURE_PADDING


def test_to_and_first_concern_every_tensor() -> None:
    features = [np.zeros((n, 80), np.float32) for n in (3, 2)]
    tokens = [np.array([1]), np.array([2, 3])]
    batch = collate(["a", "b"], features, ["A", "B"], tokens, clean=features)
    targets = FrameTargets(torch.zeros(1, 4), torch.zeros(1).long(), torch.zeros(1).long(), 1)
    audio = Waveforms(torch.zeros(2, 480), torch.tensor([480, 320]), [480, 320], [1, 1])
    batch.targets = {"codes": targets, "embeddings": audio}

    def tensors(value: object) -> list[torch.Tensor]:
        found = []
        for part in vars(value).values():
            if isinstance(part, torch.Tensor):
                found.append(part)
            elif isinstance(part, dict):
                found += [x for inner in part.values() for x in tensors(inner)]
            elif isinstance(part, Hypotheses):
                found += tensors(part)
        return found

    moved = tensors(batch.to("meta"))
    assert len(moved) == 3 + 4 + 3 + 2
    assert all(tensor.device.type == "meta" for tensor in moved)
    first = batch.first(1)
    assert first.ids == ["a"] and first.features.shape[0] == first.clean.shape[0] == 1
    assert first.hypotheses.tokens.tolist() == [[1, TARGET_PADDING]] and first.targets == {}


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


def test_a_repeated_batch_has_every_utterance_once_a_round() -> None:
    features = [np.full((n, 80), n, np.float32) for n in (9, 8)]
    batch = collate(["a", "b"], features, ["A", "B"], [np.array([4, 5]), np.array([6])])
    of_three = Hypotheses(
        torch.tensor([[4, 5], [6, -100], [7, 8]]),
        torch.tensor([2, 1, 2]),
        torch.tensor([0, 1, 1]),
        torch.tensor([1.0, 0.25, 0.75]),
        one_each=False,
    )
    batch.targets["codes"] = FrameTargets(
        torch.tensor([[1], [2], [3]]), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2
    )
    batch.targets["audio"] = Waveforms(torch.randn(2, 20), torch.tensor([20, 15]), [20, 15], [2, 1])
    for hypotheses in (batch.hypotheses, of_three):
        batch.hypotheses = hypotheses
        twice = batch.repeat(2)
        assert (twice.ids, twice.views, twice.seconds) == (["a", "b"] * 2, 2, batch.seconds)
        codes, present = twice.targets["codes"].padded(4)
        for begin in (0, 2):
            part = slice(begin, begin + 2)
            assert torch.equal(twice.features[part], batch.features)
            owned = (twice.hypotheses.owners // 2) == begin // 2
            assert torch.equal(twice.hypotheses.owners[owned] - begin, hypotheses.owners)
            for name in ("tokens", "lens", "weights"):
                assert torch.equal(
                    getattr(twice.hypotheses, name)[owned], getattr(hypotheses, name)
                )
            wanted, there = batch.targets["codes"].padded(2)
            assert torch.equal(codes[part], wanted) and torch.equal(present[part], there)
            assert torch.equal(twice.targets["audio"].samples[part], batch.targets["audio"].samples)
        assert twice.targets["audio"].num_samples == [20, 15, 20, 15]
