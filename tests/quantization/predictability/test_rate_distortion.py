"""Rate-distortion search: the right minimum, and more predictable codes at little cost."""

import itertools
from pathlib import Path

import pytest
import torch

from mvqkd.errors import UserError
from mvqkd.quantization import Quantizer
from mvqkd.quantization import quantizer as quantizer_module
from mvqkd.quantization.predictability.code_predictor import CodePredictor
from mvqkd.quantization.predictability.measure import predictability
from mvqkd.quantization.predictability.rate_distortion import encode_with_rate


def test_a_penalty_joins_the_squared_error():
    generator = torch.Generator().manual_seed(0)
    quantizer = Quantizer(
        torch.randn(5, generator=generator), torch.randn(3, 4, 5, generator=generator)
    )
    x = 2 * torch.randn(40, 5, generator=generator)
    penalty = 4 * torch.rand(40, 3, 4, generator=generator)
    every = torch.tensor(list(itertools.product(range(4), repeat=3)))
    errors = (x[:, None] - quantizer.decode(every)).square().sum(dim=2)
    extra = sum(penalty[:, q, every[:, q]] for q in range(3))
    expected = every[(errors + extra).argmin(dim=1)]
    codes = quantizer.encode(x, beam_size=64, penalty=penalty)
    assert torch.equal(codes.long(), expected)
    assert not torch.equal(codes, quantizer.encode(x, beam_size=64))
    folded = quantizer.encode(x.view(8, 5, 5), beam_size=64, penalty=penalty.view(8, 5, 3, 4))
    assert torch.equal(folded, codes.view(8, 5, 3))
    with pytest.raises(ValueError, match="penalty of shape"):
        quantizer.encode(x[1:], penalty=penalty)
    with pytest.raises(ValueError, match="not finite"):
        quantizer.encode(x, penalty=penalty / 0)


def test_frames_of_every_chunk_have_their_own_penalty(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    quantizer = Quantizer(torch.zeros(5), torch.randn(3, 4, 5, generator=generator))
    x = torch.randn(200, 5, generator=generator)
    penalty = 4 * torch.rand(200, 3, 4, generator=generator)
    whole = quantizer.encode(x, penalty=penalty)
    monkeypatch.setattr(quantizer_module, "_CHUNK_CPU", 1)  # 64 frames at once
    assert torch.equal(quantizer.encode(x, penalty=penalty), whole)


def speech(count, seed):
    """Frames whose first dimensions are predictable from features, the others are noise; two
    codebooks share every dimension, so that a frame has many descriptions of almost the same
    error."""
    generator = torch.Generator().manual_seed(seed)
    features, x = [], []
    for i in range(count):
        frames = 150 + 10 * i
        observed = torch.randn(frames, 3, generator=generator)
        silent = torch.randn(frames, 3, generator=generator)
        x.append(torch.cat([2 * observed, silent], dim=1))
        features.append(observed.repeat_interleave(2, dim=0))
    return features, x


@pytest.fixture(scope="module")
def fitted():
    features, x = speech(40, 0)
    quantizer = Quantizer.fit(torch.cat(x), num_codebooks=2, codebook_size=16, num_steps=200)
    predictor = CodePredictor.fit(
        features,
        [quantizer.encode(rows) for rows in x],
        codebook_size=16,
        num_steps=50,
        quantizer_id=quantizer.id,
        energy=float((torch.cat(x) - quantizer.mean).square().sum(dim=1).mean()),
    )
    return quantizer, predictor


def test_more_is_reported_at_little_cost(fitted):
    quantizer, predictor = fitted
    features, x = speech(4, 1)
    told, errors = [], []
    for weight in (0.0, 0.003, 0.03, 0.3):
        codes = [
            encode_with_rate(quantizer, predictor, rows, observed, rate_weight=weight)
            for rows, observed in zip(x, features, strict=True)
        ]
        told.append(sum(predictability(predictor, features, codes).captured))
        error = (torch.cat(x) - quantizer.decode(torch.cat(codes))).square().sum(dim=1).mean()
        errors.append(float(error) / predictor.energy)
        if not weight:
            assert torch.equal(torch.cat(codes), quantizer.encode(torch.cat(x)))
    assert told == sorted(told)
    assert errors == sorted(errors)
    assert told[2] > 1.1 * told[0] and errors[2] < 1.1 * errors[0]


def test_frames_without_features_have_their_nearest_codes(fitted):
    quantizer, predictor = fitted
    features, x = speech(1, 2)
    codes = encode_with_rate(quantizer, predictor, x[0], features[0][:200], rate_weight=0.3)
    nearest = quantizer.encode(x[0])
    assert torch.equal(codes[100:], nearest[100:])
    assert not torch.equal(codes[:100], nearest[:100])
    none = encode_with_rate(quantizer, predictor, x[0], features[0][:1], rate_weight=0.3)
    assert torch.equal(none, nearest)


def test_a_predictor_is_what_it_was_after_loading(fitted, tmp_path: Path):
    quantizer, predictor = fitted
    features, _ = speech(1, 3)
    predictor.save(tmp_path / "predictor.pt")
    loaded = CodePredictor.load(tmp_path / "predictor.pt")
    assert (loaded.quantizer_id, loaded.energy) == (quantizer.id, predictor.energy)
    expected = predictor.log_probabilities(features[0], 100)
    assert expected.shape == (100, 2, 16)
    assert torch.equal(loaded.log_probabilities(features[0], 100), expected)
    assert expected.exp().sum(dim=2).allclose(torch.ones(100, 2))
    with pytest.raises(UserError, match=r"none\.pt, the predictor of codes, is missing"):
        CodePredictor.load(tmp_path / "none.pt")
    for name, content in (
        ("half.pt", (tmp_path / "predictor.pt").read_bytes()[:900]),
        ("x.pt", b"x"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is damaged"):
            CodePredictor.load(tmp_path / name)
    quantizer.save(tmp_path / "q.pt")
    with pytest.raises(UserError, match=r"q\.pt is not mvqkd\.probe"):
        CodePredictor.load(tmp_path / "q.pt")


def test_predictors_of_other_quantizers_and_without_energy_are_refused(fitted):
    quantizer, predictor = fitted
    features, x = speech(1, 4)
    other = Quantizer(quantizer.mean + 1, quantizer.centers)
    with pytest.raises(ValueError, match=f"codes of quantizer {quantizer.id}, not {other.id}"):
        encode_with_rate(other, predictor, x[0], features[0], rate_weight=0.1)
    nameless = CodePredictor(3, 2, 16, 2, quantizer_id=quantizer.id)
    with pytest.raises(ValueError, match="energy"):
        encode_with_rate(quantizer, nameless, x[0], features[0], rate_weight=0.1)
