"""The quantizers that `benchmarks/quantizer.py` compares, behind one small interface."""

from __future__ import annotations

import importlib.util
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from local_search import train_local_search
from reference_training import train_reference
from torch import Tensor

from mvqkd.quantization import Quantizer
from mvqkd.quantization.search import default_effort


class Coder(Protocol):
    """A fitted quantizer. Frames (T, D) are float32, codes (T, Q) uint8, both on the CPU."""

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, codes: Tensor) -> Tensor: ...


@dataclass
class Scaled:
    """A coder of frames that were centred and scaled to unit variance over all dimensions."""

    coder: Coder
    mean: Tensor
    scale: Tensor

    def encode(self, x: Tensor) -> Tensor:
        return self.coder.encode((x - self.mean) / self.scale)

    def decode(self, codes: Tensor) -> Tensor:
        return self.coder.decode(codes) * self.scale + self.mean


class Faiss:
    """A faiss quantizer or, with `rotation`, one behind a linear transform."""

    def __init__(self, quantizer: object, rotation: object | None = None) -> None:
        self.quantizer, self.rotation = quantizer, rotation

    def encode(self, x: Tensor) -> Tensor:
        rows = np.ascontiguousarray(x.numpy())
        if self.rotation is not None:
            rows = self.rotation.apply(rows)
        return torch.from_numpy(self.quantizer.compute_codes(rows))

    def decode(self, codes: Tensor) -> Tensor:
        rows = self.quantizer.decode(np.ascontiguousarray(codes.numpy()))
        if self.rotation is not None:
            rows = self.rotation.reverse_transform(rows)
        return torch.from_numpy(rows)


class Reference:
    """A quantizer of the package `multi_quantization`, encoding with its own default refinement."""

    def __init__(self, quantizer: torch.nn.Module) -> None:
        self.quantizer = quantizer.eval()

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([self.quantizer.encode(part) for part in x.split(512)])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        return self.quantizer.decode(codes)


@dataclass
class Ours:
    """Our quantizer at an effort of its search."""

    quantizer: Quantizer
    beam_size: int
    sweeps: int

    def encode(self, x: Tensor) -> Tensor:
        return self.quantizer.encode(x, beam_size=self.beam_size, sweeps=self.sweeps)

    def decode(self, codes: Tensor) -> Tensor:
        return self.quantizer.decode(codes)


def direct_sum(coder: Coder, num_codebooks: int) -> Tensor:
    """What every entry adds to a decoded frame: (Q, 256, D), up to one constant vector for each
    codebook. Decoders of the others are sums over codebooks, so decoding one-hot differences finds
    it.
    """
    if isinstance(coder, Ours):
        centers = coder.quantizer.centers.clone()
        centers[0] += coder.quantizer.mean
        return centers
    codes = torch.zeros(num_codebooks, 256, num_codebooks, dtype=torch.uint8)
    for q in range(num_codebooks):
        codes[q, :, q] = torch.arange(256)
    zero = coder.decode(torch.zeros(1, num_codebooks, dtype=torch.uint8))
    centers = coder.decode(codes.flatten(0, 1)).view(num_codebooks, 256, -1) - zero
    centers[0] += zero
    return centers


def user_seconds() -> float:
    """Processor seconds of this process so far, without those of the kernel, over all threads."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


METHODS = {
    "ours": "ours",
    "multi_quantization-2k+2k": "multi_quantization, 2k + 2k steps",
    "multi_quantization-10k+10k": "multi_quantization, 10k + 10k steps",
    "faiss-PQ": "faiss ProductQuantizer",
    "faiss-OPQ": "faiss OPQ",
    "faiss-RQ": "faiss ResidualQuantizer, beam 16",
    "faiss-LSQ": "faiss LocalSearchQuantizer",
}


def installed(method: str) -> bool:
    package = {"multi_quantization": "multi_quantization", "faiss": "faiss"}
    name = package.get(method.split("-")[0])
    return name is None or importlib.util.find_spec(name) is not None


def fit(
    method: str, x: Tensor, num_codebooks: int, seed: int, kept: Path | None = None
) -> tuple[Coder, float]:
    """Learn a quantizer of `num_codebooks` bytes from frames x (T, D); with the seconds it took.

    What takes hours is kept in the file `kept` on the way, and goes on from there.
    """
    begin = user_seconds()
    if method == "ours":
        quantizer = Quantizer.fit(x, num_codebooks=num_codebooks, seed=seed)
        seconds = user_seconds() - begin
        return Ours(quantizer, *default_effort(num_codebooks)), seconds
    mean = x.mean(dim=0)
    scale = (x - mean).square().mean().sqrt()
    normal = (x - mean) / scale
    package, kind = method.split("-")
    coder: Coder
    if package == "faiss":
        coder, seconds = _fit_faiss(kind, normal.numpy(), num_codebooks, kept)
    else:
        first, second = (1000 * int(steps.removesuffix("k")) for steps in kind.split("+"))
        trained, seconds = train_reference(
            normal, num_codebooks, (first, second), kept, user_seconds, seed=seed
        )
        coder = Reference(trained)
    return Scaled(coder, mean, scale), seconds


def _fit_faiss(
    kind: str, x: np.ndarray, num_codebooks: int, kept: Path | None
) -> tuple[Coder, float]:
    import faiss

    dim, begin = x.shape[1], user_seconds()
    if kind == "PQ":
        quantizer = faiss.ProductQuantizer(dim, num_codebooks, 8)
    elif kind == "OPQ":
        rotation = faiss.OPQMatrix(dim, num_codebooks)
        rotation.train(x)
        quantizer = faiss.ProductQuantizer(dim, num_codebooks, 8)
        quantizer.train(rotation.apply(x))
        return Faiss(quantizer, rotation), user_seconds() - begin
    elif kind == "RQ":
        quantizer = faiss.ResidualQuantizer(dim, num_codebooks, 8)
        quantizer.max_beam_size = 16
    elif kind == "LSQ":
        quantizer = faiss.LocalSearchQuantizer(dim, num_codebooks, 8)
        return Faiss(quantizer), train_local_search(quantizer, x, kept, user_seconds)
    else:
        raise ValueError(f"no faiss quantizer {kind!r}")
    quantizer.train(x)
    return Faiss(quantizer), user_seconds() - begin
