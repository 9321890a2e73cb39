"""Whether tokens and lengths of a batch are what a loss takes."""

from __future__ import annotations

import torch
from torch import Tensor


def check_lens(name: str, lens: Tensor, batch_size: int, longest: int) -> None:
    """Raise ValueError unless ``lens`` are ``batch_size`` integers between 0 and ``longest``."""
    if lens.shape != (batch_size,) or lens.is_floating_point():
        raise ValueError(
            f"{name} must be {batch_size} integers, not {lens.dtype} of shape {tuple(lens.shape)}"
        )
    if ((lens < 0) | (lens > longest)).any():
        raise ValueError(f"{name} must be between 0 and {longest}, not {lens.tolist()}")


def check_tokens(tokens: Tensor, token_lens: Tensor, vocab_size: int) -> None:
    """Raise ValueError unless the valid ones of ``tokens`` (N, U) are between 1 and V - 1; only
    where they are on a CPU, since to ask another device is to wait for it."""
    if tokens.device.type != "cpu":
        return
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    wrong = ((tokens < 1) | (tokens >= vocab_size)) & (positions < token_lens[:, None])
    if wrong.any():
        raise ValueError(
            f"tokens must be between 1 and {vocab_size - 1}, as 0 is blank and there are "
            f"{vocab_size} in all, not {tokens[wrong][0].item()}"
        )
