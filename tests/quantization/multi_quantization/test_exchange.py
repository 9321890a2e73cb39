"""Exchange with the package `multi_quantization`."""

import pytest
import torch

from mvqkd.quantization import Quantizer, load_quantizer
from mvqkd.quantization.multi_quantization.exchange import (
    from_multi_quantization,
    to_multi_quantization,
)
from mvqkd.quantization.multi_quantization.search import search_multi_quantization


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
    ours = from_multi_quantization(theirs.state_dict())
    x = torch.randn(100, 20)
    expected = theirs.encode(x, refine_indexes_iters=passes)
    found = search_multi_quantization(x - ours.mean, ours.centers, *ours.guess, passes=passes)
    assert found.dtype == torch.uint8
    assert (found == expected).float().mean() > 0.995  # ties within rounding may differ


def test_of_no_frames_there_are_no_codes():
    ours = from_multi_quantization(package_quantizer(4).state_dict())
    assert ours.encode(torch.empty(0, 20)).shape == (0, 4)


def trained_quantizer(x):
    """One whose search finds other codes than ours does."""
    package = pytest.importorskip("multi_quantization")
    torch.manual_seed(0)
    trainer = package.QuantizerTrainer(
        dim=x.shape[1], bytes_per_frame=4, device=torch.device("cpu"),
        phase_one_iters=40, phase_two_iters=40,
    )  # fmt: skip
    while not trainer.done():
        trainer.step(x[torch.randint(len(x), (600,))])
    return trainer.get_quantizer().eval()


def test_loaded_quantizers_encode_and_decode_as_the_package_does(tmp_path):
    generator = torch.Generator().manual_seed(1)
    x = 2 + torch.randn(3000, 24, generator=generator) @ torch.randn(24, 24, generator=generator)
    theirs = trained_quantizer(x[:2500])
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    x = x[2500:]
    ours = load_quantizer(tmp_path / "theirs.pt")
    assert (ours.id, ours.encoder) == (theirs.get_id(), "multi_quantization")
    with torch.no_grad():
        codes, decoded = theirs.encode(x), theirs.decode(theirs.encode(x))
    assert (ours.encode(x) == codes).float().mean() > 0.995
    assert (ours.encode(x, beam_size=8) == codes).float().mean() < 0.97
    torch.testing.assert_close(ours.decode(codes), decoded)
    torch.testing.assert_close(ours.mean, theirs.get_data_mean())

    # And so it does when it comes from our own file, or from a state dict that we wrote.
    ours.save(tmp_path / "ours.pt")
    assert torch.equal(load_quantizer(tmp_path / "ours.pt").encode(x), ours.encode(x))
    again = from_multi_quantization(to_multi_quantization(ours, x, num_steps=0))
    assert (again.encode(x) == codes).float().mean() > 0.995


def test_written_quantizers_work_in_the_package():
    package = pytest.importorskip("multi_quantization")
    generator = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(2000, 10, generator=generator) @ torch.randn(10, 10, generator=generator)
    ours = Quantizer.fit(x, num_codebooks=2, num_steps=40)
    theirs = package.Quantizer(10, 256, 2)
    theirs.load_state_dict(to_multi_quantization(ours, x, num_steps=60))
    assert theirs.get_id() == ours.id
    codes = ours.encode(x)
    torch.testing.assert_close(theirs.decode(codes).detach(), ours.direct_sum(codes))

    def error(codes):
        return float((x - ours.decode(codes)).square().sum())

    # Its own encoder works from the linear guess that was fitted for it.
    assert error(theirs.encode(x)) < 1.1 * error(codes)
    energy = float((x - ours.mean).square().sum())
    assert error(theirs.encode(x, refine_indexes_iters=0)) < 0.4 * energy
    again = from_multi_quantization(theirs.state_dict())
    assert (again.encode(x, beam_size=8) == codes).float().mean() > 0.99
    assert torch.equal(again.encode(x), theirs.encode(x).byte())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"it has no 'to_logits.weight'"):
        from_multi_quantization({"centers": torch.zeros(2, 256, 4)})
    odd = Quantizer(torch.zeros(4), torch.randn(3, 256, 4))
    with pytest.raises(ValueError, match="powers of two"):
        to_multi_quantization(odd, torch.randn(300, 4))
