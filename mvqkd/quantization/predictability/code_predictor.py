"""Prediction of codes from features, by a small network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvqkd.errors import UserError
from mvqkd.storage.tensors import load_tensors, save_tensors

CROP_FRAMES = 200
BATCH_CROPS = 8
_FORMAT = "mvqkd.probe.1"


class FrameNetwork(nn.Module):
    """A small convolutional network from features to targets of a frame.

    Receptive field: 2 * (1 + 3 * sum of dilations) + 1 target frames, about half a second to each
    side at 50 Hz. The features' rate is `ratio` times the targets'.
    """

    def __init__(self, input_dim: int, output_dim: int, ratio: int, *, dim: int = 256) -> None:
        super().__init__()
        self.ratio, self.output_dim = ratio, output_dim
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

    @torch.inference_mode()
    def of_utterance(self, features: Tensor, frames: int) -> Tensor:
        """features (T', C) of one utterance -> (T, output_dim) float32 of its first `frames` frames
        at most, on the CPU."""
        count = min(len(features) // self.ratio, frames)
        if count == 0:  # the convolution refuses what is shorter than its kernel
            return torch.empty(0, self.output_dim)
        x = features[None, : count * self.ratio].to(self.stem.weight)
        return self(x)[0].float().cpu()


class CodePredictor(nn.Module):
    """Probabilities of every codebook's entries in every frame, given the utterance's features.

    Args:
        input_dim: C, features of a frame.
        num_codebooks: Q.
        codebook_size: K.
        ratio: feature frames for a frame of codes.
        quantizer_id: of the quantizer that made the codes.
        energy: what a frame of embeddings has around the quantizer's mean, on average.
    """

    def __init__(
        self,
        input_dim: int,
        num_codebooks: int,
        codebook_size: int,
        ratio: int,
        *,
        quantizer_id: str = "",
        energy: float = 0.0,
    ) -> None:
        super().__init__()
        self.sizes = (input_dim, num_codebooks, codebook_size, ratio)
        self.quantizer_id = quantizer_id
        self.energy = energy
        self.network = FrameNetwork(input_dim, num_codebooks * codebook_size, ratio)

    @classmethod
    def fit(
        cls,
        features: Sequence[Tensor],
        codes: Sequence[Tensor],
        *,
        codebook_size: int = 256,
        num_steps: int = 1000,
        seed: int = 0,
        device: torch.device | str = "cpu",
        quantizer_id: str = "",
        energy: float = 0.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> CodePredictor:
        """Train on utterances, with cross-entropy.

        Args:
            features: (T', C) of each utterance; T' is about an integer multiple of T.
            codes: (T, Q) of each utterance.
            codebook_size: K.
            num_steps: minibatches of 8 crops of 200 frames.
            seed: the result is a function of it, the data and the other arguments.
            device: where to compute; the predictor stays there.
            quantizer_id, energy: facts to keep, see the class.
            progress: called with (steps done, steps).

        Raises:
            ValueError: no utterances, or lengths that do not fit each other.
        """
        predictor = cls(
            features[0].shape[1] if features else 0,
            codes[0].shape[1] if codes else 0,
            codebook_size,
            frame_ratio(features, codes),
            quantizer_id=quantizer_id,
            energy=energy,
        )
        train_network(
            predictor.network,
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
        return predictor

    @staticmethod
    def path_beside(quantizer: Path) -> Path:
        """Where the predictor of a quantizer's codes is kept: `<quantizer>.code_predictor.pt`, or
        `<quantizer>.probe.pt`, its name in version 0.1.0, if there is one."""
        old = quantizer.with_suffix(".probe.pt")
        return old if old.is_file() else quantizer.with_suffix(".code_predictor.pt")

    def log_probabilities(self, features: Tensor, frames: int) -> Tensor:
        """Of one utterance.

        Args:
            features: (T', C).
            frames: T at most.

        Returns:
            (T, Q, K) float32, natural logarithms, on the CPU.
        """
        _, num_codebooks, codebook_size, _ = self.sizes
        out = self.network.of_utterance(features, frames)
        return out.unflatten(1, (num_codebooks, codebook_size)).log_softmax(dim=2)

    def save(self, path: str | Path) -> None:
        """Write plain tensors and facts, whole or not at all."""
        save_tensors(
            path,
            {
                "format": _FORMAT,
                "sizes": self.sizes,
                "quantizer_id": self.quantizer_id,
                "energy": self.energy,
                "state": {name: value.cpu() for name, value in self.state_dict().items()},
            },
        )

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu") -> CodePredictor:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, damaged or something else.
        """
        if not Path(path).is_file():
            raise UserError(f"{path}, the predictor of codes, is missing", step="quantizer")
        state: dict[str, Any] = load_tensors(path, remedy="delete it", step="quantizer")
        try:
            facts = {name: state[name] for name in ("quantizer_id", "energy")}
            predictor = cls(*state["sizes"], **facts)
            predictor.load_state_dict(
                # `probe` was the network's name in version 0.1.0.
                {name.replace("probe.", "network."): x for name, x in state["state"].items()}
            )
        except Exception as error:  # bytes of anything end in errors of any kind
            raise UserError(
                f"{path} is not {_FORMAT}", remedy="delete it", step="quantizer"
            ) from error
        return predictor.eval().to(device)


def frame_ratio(features: Sequence[Tensor], targets: Sequence[Tensor]) -> int:
    """Feature frames per target frame; lengths may differ by a few frames.

    Raises:
        ValueError: no utterances, or lengths that do not fit each other.
    """
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


def train_network(
    net: FrameNetwork,
    loss: Callable[[Tensor, Tensor], Tensor],
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    num_steps: int,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Initialize and train a predictor by AdamW with one learning rate cycle.

    Args:
        loss: of outputs (N, T, output_dim) and targets (N, T, ...).
        features: (T', C) of each utterance.
        targets: (T, ...) of each utterance.
    """
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
    net.eval()
