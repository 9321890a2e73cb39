"""Exchange with the package `multi_quantization`."""

import pytest
import torch

from mvqkd.quantization import Quantizer
from mvqkd.quantization.reference import from_reference, reference_encode, to_reference


def package_quantizer(num_codebooks, dim=20):
    package = pytest.importorskip("multi_quantization")
    torch.manual_seed(num_codebooks)
    quantizer = package.Quantizer(dim, 256, num_codebooks)
    with torch.no_grad():
        quantizer.centers_scale += 0.05
        quantizer.logits_scale -= 0.03
        quantizer.to_logits.bias += 0.1 * torch.randn_like(quantizer.to_logits.bias)
    return quantizer


@pytest.mark.parametrize("num_codebooks", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("passes", [0, 1, 5])
def test_codes_are_the_packages_own(num_codebooks, passes):
    theirs = package_quantizer(num_codebooks)
    x = torch.randn(100, 20)
    expected = theirs.encode(x, refine_indexes_iters=passes)
    found = reference_encode(theirs.state_dict(), x, passes=passes)
    assert found.dtype == torch.uint8
    assert (found == expected).float().mean() > 0.995  # ties within rounding may differ


def test_of_no_frames_there_are_no_codes():
    assert reference_encode(package_quantizer(4).state_dict(), torch.empty(0, 20)).shape == (0, 4)


def test_loaded_quantizers_decode_alike_and_search_better():
    theirs = package_quantizer(4)
    ours = from_reference(theirs.state_dict())
    assert ours.id == theirs.get_id()
    x = torch.randn(300, 20)
    codes = theirs.encode(x)
    torch.testing.assert_close(ours.decode(codes), theirs.decode(codes).detach())
    error = (x - ours.decode(ours.encode(x, beam_size=16, sweeps=2))).square().sum()
    assert error <= (x - ours.decode(codes)).square().sum()
    torch.testing.assert_close(ours.mean, theirs.get_data_mean())


def test_written_quantizers_work_in_the_package():
    package = pytest.importorskip("multi_quantization")
    generator = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(2000, 10, generator=generator) @ torch.randn(10, 10, generator=generator)
    ours = Quantizer.fit(x, num_codebooks=2, num_steps=40)
    theirs = package.Quantizer(10, 256, 2)
    theirs.load_state_dict(to_reference(ours, x, num_steps=60))
    assert theirs.get_id() == ours.id
    codes = ours.encode(x)
    torch.testing.assert_close(theirs.decode(codes).detach(), ours.decode(codes))

    def error(codes):
        return float((x - ours.decode(codes)).square().sum())

    # Its own encoder works from the linear guess that was fitted for it.
    assert error(theirs.encode(x)) < 1.1 * error(codes)
    energy = float((x - ours.mean).square().sum())
    assert error(theirs.encode(x, refine_indexes_iters=0)) < 0.4 * energy
    again = from_reference(theirs.state_dict())
    assert (again.encode(x) == codes).float().mean() > 0.99


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"it has no 'to_logits.weight'"):
        from_reference({"centers": torch.zeros(2, 256, 4)})
    odd = Quantizer(torch.zeros(4), torch.randn(3, 256, 4))
    with pytest.raises(ValueError, match="powers of two"):
        to_reference(odd, torch.randn(300, 4))
