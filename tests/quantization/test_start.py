"""Where the fit begins, how far it steps, and how it ends."""

import itertools

import torch

from mvqkd.quantization import Quantizer
from mvqkd.quantization.fit import _fix_gauge
from mvqkd.quantization.start import allocate, product_start


def test_groups_of_dimensions_need_about_the_same_bits():
    bits = torch.tensor([4.0, 3, 1, 0, 0, 0], dtype=torch.float64)  # of dimensions, above the level
    groups = allocate(4**bits, 2, bits=4)
    assert sorted(d for group in groups for d in group) == list(range(6))
    assert [len(group) for group in groups] == [3, 3]
    assert [float(bits[group].sum()) for group in groups] == [4, 4]


def test_a_product_in_rotated_axes_is_found():
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4))).repeat(4, 1)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator))[0]
    x = corners * torch.tensor([4.0, 3.0, 2.0, 1.0]) @ rotation
    centers = product_start(x, 2, 8, generator, num_iters=15)
    sums = (centers[0][:, None] + centers[1]).flatten(0, 1)
    # Not cdist: by matrix products, as some machines compute it, it has errors of 1e-3 here.
    distances = (x[:, None] - sums).norm(dim=2)
    assert distances.amin(dim=1).max() < 1e-4


def test_entries_that_no_frame_chooses_move_to_rare_frames():
    x = torch.tensor([0.0] * 60 + [10.0, 20.0, 30.0, 40.0])[:, None]
    x = x - x.mean()
    generator = torch.Generator().manual_seed(0)
    centers = product_start(x, 2, 8, generator, num_iters=100)
    assert (centers[1] == 0).all()  # there is no dimension for it
    distances = (x - centers[0].T).abs().amin(dim=1)
    assert distances.max() < 1e-4


def test_a_step_goes_as_far_along_each_axis_as_the_data_vary_there():
    deviations = torch.tensor([16.0, 4.0, 1.0, 0.25])
    x = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0)) * deviations
    start, stepped = (
        Quantizer.fit(x, num_codebooks=1, codebook_size=16, num_steps=steps) for steps in (0, 1)
    )
    moved = (stepped.centers - start.centers).abs().amax(dim=(0, 1)) / deviations
    assert 0 < moved.max() < 3 * moved.min()


def test_fixing_the_gauge_changes_no_reconstruction():
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(3, 8, 5, generator=generator) + 1
    centers *= torch.tensor([1.0, 3.0, 9.0])[:, None, None]
    codes = torch.randint(8, (50, 3), generator=generator)
    shift, fixed = _fix_gauge(centers, codes)
    flipped = codes.flip(1)  # the codebook of the most energy is first
    parts = [fixed[q][flipped[:, q]] for q in range(3)]
    for part in parts:
        torch.testing.assert_close(part.mean(dim=0), torch.zeros(5), atol=1e-5, rtol=0)
    before = sum(centers[q][codes[:, q]] for q in range(3))
    torch.testing.assert_close(shift + sum(parts), before)
