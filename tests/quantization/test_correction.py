"""The correction of sums of centers."""

import pytest
import torch

from mvqkd.quantization.correction import Correction, fit_correction
from mvqkd.quantization.frames import TensorFrames


def error(x, x_hat):
    return float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


def rounded(x):
    """A stand-in for codes: each of the first two coordinates says its sign, the third nothing."""
    return torch.cat([x[:, :2].sign(), torch.zeros(len(x), 1)], dim=1)


def interacting(count, seed):
    """The third coordinate is the product of the first two, and independent of each alone."""
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)).sign()
    return torch.cat([x, x.prod(dim=1, keepdim=True)], dim=1)


def test_it_learns_what_codes_say_together():
    x, fresh = interacting(6000, 0), interacting(1000, 1)
    mean = torch.tensor([0.1, 0.0, -0.1])
    correction = fit_correction(
        TensorFrames(x), mean, lambda rows: rounded(rows) + mean, seed=0, num_steps=100
    )
    assert error(fresh, rounded(fresh) + mean) > 0.3
    assert error(fresh, correction(rounded(fresh)) + mean) < 0.001


def test_where_nothing_is_to_be_learned_it_does_no_harm():
    """With few frames, to which a network this wide can overfit."""
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 1200, 16, generator=generator).unbind()
    x = z + noise
    table = {tuple(row.tolist()): sums for row, sums in zip(x, z, strict=True)}
    correction = fit_correction(
        TensorFrames(x[:200]),
        torch.zeros(16),
        lambda rows: torch.stack([table[tuple(row.tolist())] for row in rows]),
        seed=0,
        num_steps=200,
    )
    plain = error(x[200:], z[200:])
    assert error(x[200:], correction(z[200:])) < 1.02 * plain


def test_scale_of_the_frames_changes_only_the_scale():
    x = interacting(2000, 0)

    def fitted(scale):
        return fit_correction(
            TensorFrames(scale * x),
            torch.zeros(3),
            lambda rows: rounded(rows) * scale,
            seed=0,
            num_steps=20,
        )

    z = rounded(interacting(100, 1))
    torch.testing.assert_close(fitted(4096.0)(4096 * z), 4096 * fitted(1.0)(z))


def test_the_seed_decides_everything():
    x = interacting(2000, 0)
    a, b, c = (
        fit_correction(TensorFrames(x), torch.zeros(3), rounded, seed=seed, num_steps=5)
        for seed in (1, 1, 2)
    )
    assert torch.equal(a.outer_weight, b.outer_weight)
    assert not torch.equal(a.outer_weight, c.outer_weight)


def random_correction():
    generator = torch.Generator().manual_seed(0)
    shapes = ((7, 4), (7,), (4, 7), (4,))
    return Correction(*(torch.randn(shape, generator=generator) for shape in shapes))


def test_it_is_a_network_of_two_layers_beside_the_identity():
    correction = random_correction()
    z = torch.randn(2, 5000, 4, generator=torch.Generator().manual_seed(1))
    a, b, c, d = (tensor.double() for tensor in correction.state_dict().values())
    expected = z.double() + (z.double() @ a.T + b).clamp(min=0) @ c.T + d
    torch.testing.assert_close(correction(z), expected.float(), rtol=1e-4, atol=1e-4)
    assert correction(z[:0]).shape == (0, 5000, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(correction(z), random_correction()(z))
    assert correction(z).dtype == torch.float32


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="two layers"):
        Correction(torch.zeros(7, 4), torch.zeros(7), torch.zeros(4, 6), torch.zeros(4))
