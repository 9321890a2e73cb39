"""What a student could learn from codes: a small network predicts them from features.

A quantizer that reconstructs well is not yet a good teacher: codes that depend on choices the
student cannot see (which of two near-equal sums of entries was taken) cannot be predicted. The
probe here sees the utterance's features, not the embeddings, as a student does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvqkd.quantization.counts import code_counts, code_entropy

CROP_FRAMES = 200
BATCH_CROPS = 8


class Probe(nn.Module):
    """A small convolutional network from features to targets of a frame.

    Receptive field: 2 * (1 + 3 * sum of dilations) + 1 target frames, about half a second to each
    side at 50 Hz. The features' rate is `ratio` times the targets'.
    """

    def __init__(self, input_dim: int, output_dim: int, ratio: int, *, dim: int = 256) -> None:
        super().__init__()
        self.ratio = ratio
        self.norm = nn.BatchNorm1d(input_dim, affine=False)
        self.stem = nn.Conv1d(input_dim, dim, 2 * ratio + 1, stride=ratio, padding=ratio)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, dim),
                nn.Conv1d(dim, dim, 5, padding=2 * dilation, dilation=dilation, groups=dim),
                nn.Conv1d(dim, 2 * dim, 1),
                nn.GELU(),
                nn.Conv1d(2 * dim, dim, 1),
            )
            for dilation in (1, 2, 4, 8)
        )
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, output_dim))

    def forward(self, features: Tensor) -> Tensor:
        """features (N, ratio * T, C) -> (N, T, output_dim)."""
        x = self.stem(self.norm(features.transpose(1, 2)))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.transpose(1, 2))


@dataclass
class Predictability:
    """What the probe knows of held-out codes, in bits per frame and codebook."""

    entropy: list[float]
    cross_entropy: list[float]
    reconstruction_error: float | None
    """Relative error of the reconstruction from the probe's posteriors, where embeddings and
    centers were given: the mean over its posteriors, the best guess in squared error."""

    @property
    def captured(self) -> list[float]:
        """Entropy less cross-entropy of each codebook: a lower bound of what the features tell."""
        return [h - c for h, c in zip(self.entropy, self.cross_entropy, strict=True)]


def predictability(
    features: Sequence[Tensor],
    codes: Sequence[Tensor],
    test_features: Sequence[Tensor],
    test_codes: Sequence[Tensor],
    *,
    codebook_size: int = 256,
    centers: Tensor | None = None,
    mean: Tensor | None = None,
    test_embeddings: Sequence[Tensor] | None = None,
    num_steps: int = 1000,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Predictability:
    """Train a probe on some utterances and test it on others.

    Args:
        features: (T', C) of each utterance; T' is about an integer multiple of T.
        codes: (T, Q) of each utterance.
        test_features, test_codes: the same of held-out utterances.
        codebook_size: K.
        centers, mean, test_embeddings: (Q, K, D), (D,) and (T, D) of each test utterance, for the
            reconstruction from posteriors. All or none.
        num_steps: minibatches of 8 crops of 200 frames.

    Raises:
        ValueError: no utterances, or lengths that do not fit each other.
    """
    ratio = _ratio(features, codes)
    num_codebooks = codes[0].shape[1]
    net = _train(
        Probe(features[0].shape[1], num_codebooks * codebook_size, ratio),
        lambda out, target: F.cross_entropy(
            out.reshape(-1, codebook_size), target.reshape(-1).long()
        ),
        features,
        codes,
        num_steps=num_steps,
        seed=seed,
        device=torch.device(device),
        progress=progress,
    )
    loss = torch.zeros(num_codebooks, dtype=torch.float64)
    counts = torch.zeros(num_codebooks, codebook_size, dtype=torch.long)
    error = energy = 0.0
    for i, target in enumerate(test_codes):
        out, count = _apply(net, test_features[i], len(target), device)
        logp = out.unflatten(1, (num_codebooks, codebook_size)).log_softmax(dim=2).cpu()
        target = target[:count].long()
        loss -= logp.gather(2, target[:, :, None]).sum(dim=(0, 2)).double()
        counts += code_counts(target, codebook_size)
        if centers is not None and mean is not None and test_embeddings is not None:
            x = test_embeddings[i][:count].float()
            guess = mean.cpu() + torch.einsum("tqk,qkd->td", logp.exp(), centers.cpu())
            error += float((x - guess).square().sum())
            energy += float((x - mean.cpu()).square().sum())
    total = counts.sum(dim=1)
    return Predictability(
        entropy=code_entropy(counts).tolist(),
        cross_entropy=(loss / total / np.log(2)).tolist(),
        reconstruction_error=error / energy if energy > 0 else None,
    )


def regression_error(
    features: Sequence[Tensor],
    embeddings: Sequence[Tensor],
    test_features: Sequence[Tensor],
    test_embeddings: Sequence[Tensor],
    *,
    num_steps: int = 1000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> float:
    """Relative error of the same probe when it learns the embeddings themselves, by squared error:
    what there is to know, to compare reconstructions from posteriors with."""
    ratio = _ratio(features, embeddings)
    rows = torch.cat([e.float() for e in embeddings])
    mean, scale = rows.mean(dim=0), (rows - rows.mean(dim=0)).square().mean().sqrt()
    net = _train(
        Probe(features[0].shape[1], rows.shape[1], ratio),
        lambda out, target: F.mse_loss(out, (target.float() - mean.to(out)) / scale.to(out)),
        features,
        embeddings,
        num_steps=num_steps,
        seed=seed,
        device=torch.device(device),
        progress=None,
    )
    error = energy = 0.0
    for i, target in enumerate(test_embeddings):
        out, count = _apply(net, test_features[i], len(target), device)
        x = target[:count].float()
        error += float((x - (out.cpu() * scale + mean)).square().sum())
        energy += float((x - mean).square().sum())
    return error / energy


def _ratio(features: Sequence[Tensor], targets: Sequence[Tensor]) -> int:
    """Feature frames per target frame; lengths may differ by a few frames."""
    if len(features) != len(targets) or not features:
        raise ValueError(f"{len(features)} utterances with features, {len(targets)} with targets")
    ratio = round(sum(map(len, features)) / sum(map(len, targets)))
    for i, (f, t) in enumerate(zip(features, targets, strict=True)):
        if ratio < 1 or abs(len(f) - ratio * len(t)) > 5 * ratio:
            raise ValueError(
                f"utterance {i} has {len(f)} frames of features and {len(t)} of targets; the "
                "features must have an integer number of frames per target frame"
            )
    return ratio


def _train(
    net: Probe,
    loss: Callable[[Tensor, Tensor], Tensor],
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    num_steps: int,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> Probe:
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, (nn.Conv1d, nn.Linear)):
            nn.init.trunc_normal_(
                module.weight, std=module.weight[0].numel() ** -0.5, generator=generator
            )
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    net.to(device).train()
    # All utterances as one stream: a crop over a boundary costs less than the bookkeeping.
    lens = [min(len(f) // net.ratio, len(t)) for f, t in zip(features, targets, strict=True)]
    stream = torch.cat([f[: n * net.ratio] for f, n in zip(features, lens, strict=True)]).float()
    target = torch.cat([t[:n] for t, n in zip(targets, lens, strict=True)])
    crop = min(CROP_FRAMES, len(target))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=num_steps + 1, pct_start=0.1, cycle_momentum=False
    )
    for step in range(num_steps):
        begins = torch.randint(len(target) - crop + 1, (BATCH_CROPS,), generator=generator).tolist()
        x = torch.stack([stream[b * net.ratio : (b + crop) * net.ratio] for b in begins])
        y = torch.stack([target[b : b + crop] for b in begins])
        optimizer.zero_grad()
        loss(net(x.to(device)), y.to(device)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, num_steps)
    return net.eval()


@torch.inference_mode()
def _apply(
    net: Probe, features: Tensor, frames: int, device: torch.device | str
) -> tuple[Tensor, int]:
    """Outputs of one utterance and their number, at most `frames`."""
    count = min(len(features) // net.ratio, frames)
    return net(features[None, : count * net.ratio].float().to(device))[0], count
