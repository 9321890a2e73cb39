"""The transducer's lattice: total log-probability and how often each arc is taken.

A lattice has a cell for each pair of a frame t and a number s of tokens emitted so far. Two kinds
of arcs leave a cell: *blank* goes to the next frame, *symbol* emits token s + 1. With topology
``"regular"`` a symbol stays in its frame, so any number of tokens can be emitted in one; with
``"modified"`` it goes to the next frame, so each frame emits at most one. Every path begins in cell
(0, 0), takes one arc out of each frame's last cell and ends behind the last frame with all tokens
emitted. (Graves 2012, arXiv 1211.3711, section 2.4; in k2 and in Kuang et al. 2022, arXiv
2206.13236, this is the "mutual information recursion".)

The recursion itself has four implementations, one file each, that give the same results:

========  ==========================================================================
numba     CPU: compiled, vectorised, several threads
triton    CUDA: one kernel launch
k2        CPU and CUDA: k2's own, where k2 is installed
torch     anywhere, with a Python loop over the steps: what is left when the others are missing
========  ==========================================================================
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import shutil
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mvqkd.losses.checks import check_lens

Topology = Literal["regular", "modified"]
Backend = Literal["auto", "builtin", "k2", "numba", "triton", "torch"]

_FILES = ("k2", "numba", "triton", "torch")


def lattice_log_likelihood(
    symbol: Tensor,
    blank: Tensor,
    lens: Tensor,
    token_lens: Tensor,
    *,
    topology: Topology = "regular",
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the probabilities of all paths through each lattice.

    Args:
        symbol: (N, T, U) log-probability of emitting token u + 1 in frame t when u are emitted;
            float32 or float64. -inf forbids an arc.
        blank: (N, T, U + 1) log-probability of the blank there.
        lens: (N,) valid frames, at most T. What is beyond has no influence.
        token_lens: (N,) tokens, at most U.
        topology: ``"regular"`` or ``"modified"``.
        backend: ``"auto"`` takes the fastest at hand (on a CPU numba; on CUDA k2, then triton),
            ``"builtin"`` the fastest but k2's; or a name.

    Returns:
        scores: (N,) log-likelihoods. -inf where there is no path, for instance with topology
            ``"modified"`` where there are more tokens than frames. Differentiable, once.
        symbol_occupancy: (N, T, U) probability that a path takes the arc: the derivative of the
            score by ``symbol``. Zero in padding and where the score is -inf.
        blank_occupancy: (N, T, U + 1), likewise.

    Raises:
        ValueError: for shapes, lengths or names that do not fit.
    """
    check_lattice(symbol, blank, lens, token_lens)
    if topology not in ("regular", "modified"):
        raise ValueError(f"topology must be 'regular' or 'modified', not {topology!r}")
    name = choose_backend(backend, symbol.device.type)
    lens, token_lens = lens.to(symbol.device), token_lens.to(symbol.device)
    scores, symbol_occupancy, blank_occupancy = _LogLikelihood.apply(
        symbol, blank, lens, token_lens, topology, name
    )
    return scores, symbol_occupancy, blank_occupancy


class _LogLikelihood(torch.autograd.Function):
    """The occupancies are computed with the scores; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        symbol: Tensor,
        blank: Tensor,
        lens: Tensor,
        token_lens: Tensor,
        topology: Topology,
        name: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        module = importlib.import_module(f"{__package__}.lattice_{name}")
        results = module.forward_backward(
            symbol.detach(), blank.detach(), lens, token_lens, skew=int(topology == "regular")
        )
        ctx.save_for_backward(*results[1:])
        ctx.mark_non_differentiable(*results[1:])
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        symbol_occupancy, blank_occupancy = ctx.saved_tensors
        scale = grads[0][:, None, None]
        return scale * symbol_occupancy, scale * blank_occupancy, None, None, None, None


def check_lattice(symbol: Tensor, blank: Tensor, lens: Tensor, token_lens: Tensor) -> None:
    """Raise ValueError unless the arguments of :func:`lattice_log_likelihood` fit together."""
    if blank.dim() != 3 or symbol.shape != (*blank.shape[:2], blank.shape[2] - 1):
        raise ValueError(
            f"symbol must be (N, T, U) and blank (N, T, U + 1), not {tuple(symbol.shape)} and "
            f"{tuple(blank.shape)}"
        )
    if symbol.dtype != blank.dtype or symbol.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"symbol and blank must both be float32 or both float64, not {symbol.dtype} and "
            f"{blank.dtype}"
        )
    check_lens("lens", lens, blank.shape[0], blank.shape[1])
    check_lens("token_lens", token_lens, blank.shape[0], symbol.shape[2])


def choose_backend(backend: str, device_type: str) -> str:
    """The name of the implementation to use on this type of device.

    Raises:
        ValueError: there is no such backend, or its library is missing.
    """
    if backend in _FILES:
        if not _available(backend):
            raise ValueError(
                f"backend {backend!r} was asked for, but {backend} cannot be imported here"
            )
        return backend
    if backend not in ("auto", "builtin"):
        raise ValueError(f"backend must be 'auto', 'builtin' or one of {_FILES}, not {backend!r}")
    if device_type == "cpu":
        return "numba" if _available("numba") else "torch"
    if device_type == "cuda":
        if backend == "auto" and _available("k2") and importlib.import_module("k2").with_cuda:
            return "k2"
        if _triton_works():
            return "triton"
    return "torch"


@cache
def _available(name: str) -> bool:
    """Whether the library can be imported, not only found: a k2 wheel for another torch cannot."""
    if importlib.util.find_spec(name) is None:
        return False
    try:
        importlib.import_module(name)
    except (ImportError, OSError):
        return False
    return True


@cache
def _triton_works() -> bool:
    """Triton is there, and so is the C compiler with Python's headers that launch its kernels."""
    if not _available("triton"):
        return False
    compilers = (os.environ.get("CC", ""), "gcc", "clang")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    works = headers.is_file() and any(map(shutil.which, compilers))
    if not works:
        logging.warning(
            "Triton needs a C compiler and Python's headers (apt install gcc python3-dev): without "
            "them the transducer loss is slow on a GPU"
        )
    return works
