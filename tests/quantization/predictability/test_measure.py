"""The predictor finds the mutual information where there is some, and none where there is none."""

import pytest
import torch

from mvqkd.quantization.predictability.code_predictor import CodePredictor
from mvqkd.quantization.predictability.measure import predictability, regression_error


def utterances(count, seed, ratio=2):
    """Features whose first two dimensions decide the first code; the second code is noise."""
    generator = torch.Generator().manual_seed(seed)
    features, codes = [], []
    for i in range(count):
        frames = 150 + 10 * i
        hidden = torch.randint(4, (frames,), generator=generator)
        feats = torch.randn(frames, 6, generator=generator)
        feats[:, 0] += 6.0 * (hidden % 2)
        feats[:, 1] += 6.0 * (hidden // 2)
        noise = torch.randint(4, (frames,), generator=generator)
        features.append(feats.repeat_interleave(ratio, dim=0))
        codes.append(torch.stack([hidden, noise], dim=1).to(torch.uint8))
    return features, codes


def test_captured_information():
    features, codes = utterances(60, 0)
    test_features, test_codes = utterances(3, 1)
    centers = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    centers = centers - centers.mean(dim=1, keepdim=True)
    embeddings = [10 + centers[0][c[:, 0].long()] + centers[1][c[:, 1].long()] for c in test_codes]
    found = predictability(
        CodePredictor.fit(features, codes, codebook_size=4, num_steps=40),
        test_features,
        test_codes,
        centers=centers,
        mean=torch.full((5,), 10.0),
        embeddings=embeddings,
    )
    assert found.entropy == pytest.approx([2, 2], abs=0.02)
    assert found.captured[0] > 1.7
    assert -0.1 < found.captured[1] < 0.05
    # The posterior determines the first codebook's entries and is flat for the second's.
    part = centers.square().mean(dim=1).sum(dim=1)
    expected = float(part[1] / part.sum())
    assert found.reconstruction_error == pytest.approx(expected, abs=0.06)


def test_the_same_seed_gives_the_same_numbers():
    features, codes = utterances(2, 0, ratio=1)
    predictors = [
        CodePredictor.fit(features, codes, codebook_size=4, num_steps=3) for _ in range(2)
    ]
    a, b = (predictability(predictor, features, codes) for predictor in predictors)
    assert a == b
    assert a.reconstruction_error is None


def test_regression_on_what_is_known_and_what_is_not():
    features, codes = utterances(60, 0)
    x = [c.float() * torch.tensor([1.0, 3.0]) + 10 for c in codes]
    test_features, test_codes = utterances(2, 1)
    test = [c.float() * torch.tensor([1.0, 3.0]) + 10 for c in test_codes]
    error = regression_error(features, x, test_features, test, num_steps=40)
    assert error == pytest.approx(0.9, abs=0.06)  # 9 of 10 parts are noise


def test_lengths_that_do_not_fit_are_refused():
    features, codes = utterances(2, 0)
    with pytest.raises(ValueError, match="2 utterances with features, 1 with targets"):
        CodePredictor.fit(features, codes[:1])
    with pytest.raises(ValueError, match="utterance 1 has 280 frames of features"):
        CodePredictor.fit([features[0], features[1][:280]], codes)
