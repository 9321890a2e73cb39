from __future__ import annotations

import numpy as np
import pytest
import torch
from lhotse.dataset.signal_transforms import SpecAugment as LhotseSpecAugment
from lhotse.utils import fix_random_seed

from mvqkd.features.spec_augment import SpecAugment


def seeds(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(2**60, size=count).tolist()


def spans(mask: torch.Tensor) -> list[int]:
    """Lengths of the runs of True in (T,)."""
    edges = torch.nn.functional.pad(mask.int(), (1, 1)).diff()
    return ((edges == -1).nonzero() - (edges == 1).nonzero()).flatten().tolist()


def test_only_masked_values_change_and_padding_never() -> None:
    features = torch.randn(4, 500, 80)
    lens = torch.tensor([500, 300, 120, 7])
    features[torch.arange(500) >= lens[:, None]] = -23.0
    masked, time_mask = SpecAugment(probability=1.0)(features, lens, seeds(len(lens)))
    assert time_mask.shape == (4, 500)
    assert time_mask.any()
    assert not time_mask[torch.arange(500) >= lens[:, None]].any()
    for n, length in enumerate(lens.tolist()):
        mean = features[n, :length].mean()
        changed = masked[n] != features[n]
        assert not changed[length:].any()
        torch.testing.assert_close(masked[n][changed], mean.expand(int(changed.sum())))
        # What changed is a union of whole frames and whole bands.
        bands = changed[:length][~time_mask[n, :length]].float().mean(0)
        assert set(bands.tolist()) <= {0.0, 1.0}
        assert changed[time_mask[n]].all()


def test_padding_of_the_batch_changes_nothing() -> None:
    features, lens = torch.randn(3, 200, 80), torch.tensor([200, 150, 90])
    longer = torch.nn.functional.pad(features, (0, 0, 0, 64), value=5.0)
    augment = SpecAugment()
    short, short_mask = augment(features, lens, seeds(len(lens), 3))
    long, long_mask = augment(longer, lens, seeds(len(lens), 3))
    torch.testing.assert_close(long[:, :200], short)
    assert torch.equal(long_mask[:, :200], short_mask)


@pytest.mark.parametrize("frames", [5, 100, 700, 3000])
def test_masks_stay_within_bounds(frames: int) -> None:
    augment = SpecAugment(probability=1.0, num_frequency_masks=1)
    features = torch.randn(64, frames, 80)
    masked, time_mask = augment(features, torch.full((64,), frames), seeds(64))
    assert time_mask.float().mean(1).max() <= 0.15
    for n in range(64):
        free = ~time_mask[n]
        bands = (masked[n] != features[n])[free].all(0)
        assert len(spans(bands)) <= 1
        assert int(bands.sum()) <= 27


def test_masks_as_much_as_lhotse() -> None:
    features = torch.randn(600, 1000, 80)
    lens = torch.full((600,), 1000)
    fix_random_seed(0)
    theirs = LhotseSpecAugment(
        time_warp_factor=None,
        num_feature_masks=2,
        features_mask_size=27,
        num_frame_masks=10,
        frames_mask_size=100,
    )(features.clone())
    ours, _ = SpecAugment()(features, lens, seeds(len(lens)))
    changed = [(x != features).float() for x in (theirs, ours)]
    frames = [float((c.mean(2) == 1).float().mean()) for c in changed]
    bins = [float((c.mean(1) == 1).float().mean()) for c in changed]
    # 600 utterances: standard errors of 0.0025 (frames) and 0.005 (bins).
    assert frames[1] == pytest.approx(frames[0], abs=0.012)
    assert bins[1] == pytest.approx(bins[0], abs=0.025)


def test_every_frame_is_masked_equally_often() -> None:
    # A span of constant length 30 in 200 frames, anywhere: frames far from the ends alike.
    augment = SpecAugment(
        num_time_masks=1, time_mask_size=30, num_frequency_masks=0, probability=1.0
    )
    features = torch.zeros(20000, 200, 1)
    _, mask = augment(features, torch.full((20000,), 200), seeds(20000))
    lengths = mask.sum(1)
    # Uniform over 0..30.
    counts = np.bincount(lengths.numpy(), minlength=31)
    assert counts.shape == (31,)
    assert abs(counts - 20000 / 31).max() < 6 * (20000 / 31) ** 0.5
    middle = mask.float().mean(0)[30:170]
    assert float(middle.max() - middle.min()) < 0.02


def test_is_a_function_of_the_seeds() -> None:
    features, lens = torch.randn(8, 300, 80), torch.full((8,), 300)
    augment = SpecAugment()
    torch.manual_seed(0)
    first, _ = augment(features, lens, seeds(8, 1))
    torch.manual_seed(99)
    again, _ = augment(features, lens, seeds(8, 1))
    other, _ = augment(features, lens, seeds(8, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # Each utterance has its own: in another batch it has the same masks.
    part, _ = augment(features[[5, 2]], lens[:2], [seeds(8, 1)[5], seeds(8, 1)[2]])
    torch.testing.assert_close(part, first[[5, 2]])


def test_probability_is_of_utterances() -> None:
    features, lens = torch.randn(2000, 100, 80), torch.full((2000,), 100)
    untouched, mask = SpecAugment(probability=0.0)(features[:10], lens[:10], seeds(10))
    assert torch.equal(untouched, features[:10])
    assert not mask.any()
    masked, _ = SpecAugment(probability=0.3, num_time_masks=0)(features, lens, seeds(len(lens)))
    share = float((masked != features).flatten(1).any(1).float().mean())
    # Two masks of width 0..27 are both empty in 1 of 28^2 cases.
    assert share == pytest.approx(0.3, abs=0.04)


def test_bfloat16_and_options() -> None:
    features = torch.randn(2, 100, 80, dtype=torch.bfloat16)
    masked, _ = SpecAugment()(features, torch.tensor([100, 50]), seeds(2))
    assert masked.dtype == torch.bfloat16
    with pytest.raises(ValueError):
        SpecAugment(probability=1.5)
    with pytest.raises(ValueError):
        SpecAugment(num_time_masks=-1)
