"""The multi-codebook quantizer: a frame becomes Q bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mvqkd.errors import UserError
from mvqkd.quantization.correction import Correction, fit_correction
from mvqkd.quantization.fit import BEAM_SIZE, NUM_STEPS, fit_centers
from mvqkd.quantization.frames import Frames, as_frames
from mvqkd.quantization.multi_quantization.search import search_multi_quantization
from mvqkd.quantization.search import default_effort, pairwise_costs, search, unary_costs
from mvqkd.quantization.weights import ScaledFrames, Weighting, dimension_scales
from mvqkd.storage.tensors import load_tensors, save_tensors

_FORMAT = "mvqkd.quantizer.1"
_REMEDY = "put a copy of it back, or make it and the codes that it made anew"
# Costs of single codes held at once, in numbers: small enough for a processor's cache level, large
# enough to keep a GPU busy.
_CHUNK_CPU, _CHUNK_GPU = 2**22, 2**25
_STEPS_PER_CORRECTION = 4


class Quantizer(nn.Module):
    """Direct-sum codebooks: x_hat = mean + sum_q centers[q, code_q], one byte per codebook; and a
    correction of that sum, which decoding applies and encoding does not know of.

    When it was fitted here, its gauge is fixed: every codebook's entries average to zero, weighted
    by how often they are used, so that `mean` is the mean of the data. (Of `multi_quantization`:
    the unweighted average.)

    Args:
        mean: (D,).
        centers: (Q, K, D), 1 <= Q <= 32, K <= 256.
        guess: weight (Q * K, D) and bias (Q * K,) of the linear layer from which
            `multi_quantization` begins to encode frames less their mean. A quantizer that has one
            chooses codes as that package does, see
            `mvqkd.quantization.multi_quantization.exchange`.
        correction: of what `direct_sum` gives, less the mean, both multiplied with `scales`.
        scales: (D,), square roots of the weights of dimensions in the squared error that codes are
            chosen by; None: all are 1. Mean and centers are in the units of embeddings.
        id: 8 hexadecimal digits that name this quantizer in every file of codes. Default: a digest
            of mean, centers and scales, so that the same fit has the same id, and others another.
        metadata: JSON-able facts to keep with the quantizer (teacher, layer, frame rate).

    Raises:
        ValueError: shapes that are not a quantizer, an id that is not 8 hexadecimal digits, or
            metadata that are not JSON-able.
    """

    mean: Tensor
    centers: Tensor
    guess_weight: Tensor | None
    guess_bias: Tensor | None
    scales: Tensor | None

    def __init__(
        self,
        mean: Tensor,
        centers: Tensor,
        *,
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        guess: tuple[Tensor, Tensor] | None = None,
        correction: Correction | None = None,
        scales: Tensor | None = None,
    ) -> None:
        super().__init__()
        if centers.ndim != 3 or mean.shape != centers.shape[2:]:
            raise ValueError(
                f"centers must be (Q, K, D) and the mean (D,), not {tuple(centers.shape)} and "
                f"{tuple(mean.shape)}"
            )
        if not (1 <= centers.shape[0] <= 32 and 1 <= centers.shape[1] <= 256):
            raise ValueError(
                f"{centers.shape[0]} codebooks of {centers.shape[1]} entries: 1 to 32 codebooks of "
                "at most 256 entries are supported"
            )
        if correction is not None and correction.dim != len(mean):
            raise ValueError(
                f"a correction of {correction.dim} dimensions, for centers of {len(mean)}"
            )
        self.register_buffer("mean", mean.detach().float().clone())
        self.register_buffer("centers", centers.detach().float().clone())
        weight, bias = guess or (None, None)
        self.register_buffer("guess_weight", None if weight is None else weight.detach().clone())
        self.register_buffer("guess_bias", None if bias is None else bias.detach().clone())
        self.correction = correction
        if scales is not None and (scales.shape != mean.shape or guess is not None):
            raise ValueError(
                f"scales of shape {tuple(scales.shape)} for {len(mean)} dimensions, or of a "
                "quantizer of multi_quantization, which has none"
            )
        self.register_buffer("scales", None if scales is None else scales.detach().float().clone())
        chosen_by = (self.mean, self.centers, self.scales)
        self.id = _digest(*(x for x in chosen_by if x is not None)) if id is None else id
        if len(self.id) != 8 or not set(self.id) <= set("0123456789abcdef"):
            raise ValueError(f"quantizer id {self.id!r} is not 8 hexadecimal digits")
        try:  # a file of them could not be read again
            facts = json.loads(json.dumps(dict(metadata or {})))
        except TypeError as error:
            raise ValueError(f"metadata {metadata}: {error}") from error
        self.metadata: dict[str, Any] = facts
        self._searched: tuple[object, tuple[Tensor, Tensor]] | None = None

    @classmethod
    def fit(
        cls,
        embeddings: Frames | Tensor | np.ndarray,
        *,
        num_codebooks: int = 8,
        codebook_size: int = 256,
        seed: int = 0,
        num_steps: int | None = None,
        device: torch.device | str = "cpu",
        progress: Callable[[int, int], None] | None = None,
        metadata: Mapping[str, Any] | None = None,
        weighting: Weighting = "none",
    ) -> Quantizer:
        """Learn a quantizer, which stays on `device`: first its centers, see
        `mvqkd.quantization.fit.fit_centers` for method and arguments, then, in a quarter as many
        steps, its correction (`mvqkd.quantization.correction`).

        With a `weighting` of dimensions (`mvqkd.quantization.weights`) both minimize a weighted
        error."""
        frames = as_frames(embeddings)
        scales = dimension_scales(frames, weighting)
        units = torch.ones(frames.dim) if scales is None else scales
        if scales is not None:
            frames = ScaledFrames(frames, scales)
        steps = NUM_STEPS if num_steps is None else num_steps
        total = steps + steps // _STEPS_PER_CORRECTION

        def report(done: int) -> None:
            if progress is not None:
                progress(done, total)

        with torch.autocast(torch.device(device).type, enabled=False):
            mean, centers = fit_centers(
                frames,
                num_codebooks=num_codebooks,
                codebook_size=codebook_size,
                seed=seed,
                num_steps=steps,
                device=torch.device(device),
                progress=lambda done, _: report(done),
            )
            scaled = cls(mean, centers).to(device)
            correction = fit_correction(
                frames,
                scaled.mean,
                lambda x: scaled.direct_sum(scaled.encode(x, beam_size=BEAM_SIZE, sweeps=1)),
                seed=seed,
                num_steps=total - steps,
                progress=lambda done, _: report(steps + done),
            )
        return cls(
            mean / units,
            centers / units,
            metadata=metadata,
            correction=correction,
            scales=scales,
        ).to(device)

    @property
    def num_codebooks(self) -> int:
        """Q."""
        return self.centers.shape[0]

    @property
    def codebook_size(self) -> int:
        """K, entries of a codebook."""
        return self.centers.shape[1]

    @property
    def dim(self) -> int:
        """D, width of embeddings."""
        return self.centers.shape[2]

    @property
    def scaled_centers(self) -> Tensor:
        """(Q, K, D): between these, Euclidean distances are those that codes are chosen by."""
        return self.centers if self.scales is None else self.centers * self.scales

    @property
    def guess(self) -> tuple[Tensor, Tensor] | None:
        """Of a quantizer of `multi_quantization`, see the class."""
        if self.guess_weight is None or self.guess_bias is None:
            return None
        return self.guess_weight, self.guess_bias

    @property
    def encoder(self) -> str:
        """Whose search `encode` is: `mvqkd`, or `multi_quantization`."""
        return "mvqkd" if self.guess is None else "multi_quantization"

    @torch.no_grad()
    def encode(
        self,
        x: Tensor,
        *,
        beam_size: int | None = None,
        sweeps: int | None = None,
        penalty: Tensor | None = None,
    ) -> Tensor:
        """Codes of frames.

        Args:
            x: (..., D) of any floating-point type, on the quantizer's device; computed in float32.
            beam_size, sweeps: effort of our search, see `mvqkd.quantization.search`, whose
                `default_effort` is the default. A quantizer of `multi_quantization` has that
                package's search unless one of these or a penalty is given.
            penalty: (..., Q, K) float32, what every code costs beside its squared error; see
                `mvqkd.quantization.predictability.rate_distortion`.

        Returns:
            (..., Q) uint8.

        Raises:
            ValueError: another dimension than D; or a frame, its square or a penalty is not finite.
        """
        if x.shape[-1] != self.dim:
            raise ValueError(f"frames have {x.shape[-1]} dimensions, the quantizer {self.dim}")
        if not x.is_floating_point():
            raise ValueError(f"frames must be floating-point numbers, not {x.dtype}")
        rows = x.reshape(-1, self.dim)
        limit = _CHUNK_CPU if rows.device.type == "cpu" else _CHUNK_GPU
        chunk = max(64, limit // (self.num_codebooks * self.codebook_size))
        ours = not (beam_size is None and sweeps is None and penalty is None)
        guess = None if ours else self.guess
        extra = None
        if penalty is not None:
            extra = penalty.reshape(-1, self.num_codebooks, self.codebook_size)
            if len(extra) != len(rows) or not extra.isfinite().all():
                raise ValueError(
                    f"a penalty of shape {tuple(penalty.shape)}, or one that is not finite, for "
                    f"frames of shape {tuple(x.shape)}"
                )
        default_beam_size, default_sweeps = default_effort(self.num_codebooks)
        codes = []
        for index, part in enumerate(rows.split(chunk)):
            part = part.float()
            finite = part.square().sum(dim=1).isfinite()  # else there are infinite costs
            if not finite.all():
                bad = index * chunk + int((~finite).nonzero()[0])
                raise ValueError(f"frame {bad} has NaN, infinite or too large values")
            with torch.autocast(part.device.type, enabled=False):
                if guess is not None:
                    codes.append(search_multi_quantization(part - self.mean, self.centers, *guess))
                    continue
                unary = unary_costs(self._scaled(part - self.mean), self._centers_and_pairs()[0])
            if extra is not None:
                unary += extra[index * chunk : index * chunk + len(part)]
            codes.append(
                search(
                    unary,
                    self._centers_and_pairs()[1],
                    beam_size=default_beam_size if beam_size is None else beam_size,
                    sweeps=default_sweeps if sweeps is None else sweeps,
                )
            )
        stacked = torch.cat(codes) if codes else rows.new_empty(0, self.num_codebooks).byte()
        return stacked.view(*x.shape[:-1], self.num_codebooks)

    def forward(self, x: Tensor) -> Tensor:
        """The same as `encode` with its default effort."""
        return self.encode(x)

    def decode(self, codes: Tensor) -> Tensor:
        """Reconstruct frames: their direct sum, corrected if there is a correction.

        Args:
            codes: (..., Q) integers from 0 to K - 1.

        Returns:
            (..., D) float32.

        Raises:
            ValueError: another number of codebooks than Q, or codes that are not as above.
        """
        x = self.direct_sum(codes)
        if self.correction is None:
            return x
        corrected = self.correction(self._scaled(x - self.mean))
        return (corrected if self.scales is None else corrected / self.scales) + self.mean

    def direct_sum(self, codes: Tensor) -> Tensor:
        """The mean and the centers of codes, added up: arguments, result and errors are those of
        `decode`."""
        if codes.shape[-1] != self.num_codebooks:
            raise ValueError(
                f"codes have {codes.shape[-1]} codebooks, the quantizer {self.num_codebooks}"
            )
        indexes = codes.long()  # 256 is 0 in uint8
        if codes.is_floating_point() or ((indexes < 0) | (indexes >= self.codebook_size)).any():
            raise ValueError(f"codes must be integers from 0 to {self.codebook_size - 1}")
        x = self.mean.expand(*codes.shape[:-1], self.dim).clone()
        for q in range(self.num_codebooks):
            x += self.centers[q][indexes[..., q]]
        return x

    def save(self, path: str | Path) -> None:
        """Write plain tensors and facts, whole or not at all."""
        save_tensors(
            path,
            {
                "format": _FORMAT,
                "id": self.id,
                "mean": self.mean.cpu(),
                "centers": self.centers.cpu(),
                "guess": None if self.guess is None else tuple(x.cpu() for x in self.guess),
                "correction": None if self.correction is None else _on_cpu(self.correction),
                "scales": None if self.scales is None else self.scales.cpu(),
                "metadata": self.metadata,
            },
        )

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu") -> Quantizer:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, damaged or something else.
        """
        return cls.from_state(read_tensors(path), path).to(device)

    @classmethod
    def from_state(cls, state: object, path: str | Path) -> Quantizer:
        """The quantizer in the contents of a file; `path` is for the error.

        Raises:
            UserError: they are something else.
        """
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise UserError(
                f"{path} is not a quantizer ({_FORMAT})", remedy="name the file of a quantizer"
            )
        correction = state.get("correction")
        try:
            return cls(
                state["mean"],
                state["centers"],
                id=state["id"],
                metadata=state["metadata"],
                guess=state.get("guess"),
                correction=Correction(**correction) if correction else None,
                scales=state.get("scales"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is not a quantizer: {error!r}", remedy=_REMEDY) from error

    def extra_repr(self) -> str:
        return (
            f"num_codebooks={self.num_codebooks}, codebook_size={self.codebook_size}, "
            f"dim={self.dim}, id={self.id}"
        )

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.scales is None else x * self.scales

    def _centers_and_pairs(self) -> tuple[Tensor, Tensor]:
        """Scaled centers and their costs of pairs, kept until the centers change or move."""
        version = 0 if self.centers.is_inference() else self.centers._version
        key = (self.centers.data_ptr(), version, self.centers.device)
        if self._searched is None or self._searched[0] != key:
            with torch.autocast(self.centers.device.type, enabled=False):
                centers = self.scaled_centers
                self._searched = (key, (centers, pairwise_costs(centers)))
        return self._searched[1]


def read_tensors(path: str | Path) -> object:
    """What `torch.save` wrote, verified.

    Raises:
        UserError: the file is missing, damaged or something else.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} is missing", step="quantizer")
    return load_tensors(path, remedy=_REMEDY)


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in module.state_dict().items()}


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]
