"""Log-probabilities of the joiner within the pruned band, in little memory.

A band holds S positions of each valid frame, without padding: R = sum(lens) rows of S cells. The
joiner's logits of the cells, (R, S, V), are by far the largest thing in training a transducer. The
loss needs two numbers of each cell, the log-probability of the next token and that of blank, and
the gradient of the logits is known from the gradients of these two:
``-(g_symbol + g_blank) * softmax``, plus ``g_symbol`` and ``g_blank`` at the two places. So one
tensor of that size is kept, the exponentials of the logits, and nothing else of that size is made:
the work is done in chunks that stay in a processor's cache. On a CPU, the backward pass skips
the cells with negligible occupancy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mvqkd.losses.band import Band

# Logits that are worked on at once: few enough to stay in a core's cache on a CPU, many enough to
# fill a GPU.
_CPU_CHUNK, _GPU_CHUNK = 2**19, 2**27


class ProjectingJoiner(Protocol):
    """A joiner whose projections run once per frame and once per token instead of once per cell."""

    @property
    def project_encoder(self) -> nn.Module:
        """(..., De) -> (..., J)."""
        ...

    @property
    def project_predictor(self) -> nn.Module:
        """(..., Dp) -> (..., J)."""
        ...

    @property
    def tanh_output(self) -> nn.Linear | None:
        """The layer that makes logits of ``tanh(a + b)``, if that is what the joiner computes of
        projected inputs; else None."""
        ...

    def __call__(self, encoder_proj: Tensor, predictor_proj: Tensor, /) -> Tensor:
        """(R, S, J) and (R, S, J) -> logits (R, S, V)."""
        ...


def joint_log_probs(
    encoder: Tensor,
    predictor: Tensor,
    joiner: Callable[[Tensor, Tensor], Tensor],
    tokens: Tensor,
    band: Band,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the next token and of blank under any joiner, -inf outside of the band.

    Args:
        encoder: (N, T, De), predictor: (N, U + 1, Dp): what the joiner takes.
        joiner: maps (R, S, De) and (R, S, Dp) to logits (R, S, V).
        tokens: (N, U) int64 between 0 and V - 1, in padding too.

    Returns:
        symbol (N, T, U) and blank (N, T, U + 1).
    """
    rows, next_tokens = _cells(predictor, tokens, band)
    encoder_cells = encoder[band.utterances, band.frames][:, None].expand(-1, rows.shape[1], -1)
    logits = joiner(encoder_cells, predictor.flatten(0, 1)[rows])
    return _spread(encoder, predictor, band, *two_log_probs(logits, next_tokens))


def tanh_joint_log_probs(
    encoder: Tensor, predictor: Tensor, output: nn.Linear, tokens: Tensor, band: Band
) -> tuple[Tensor, Tensor]:
    """:func:`joint_log_probs` of the joiner ``output(tanh(a + b))``, without a copy of its inputs.

    Args:
        encoder: (N, T, J), predictor: (N, U + 1, J): projected already.
        output: J -> V.
        tokens: (N, U) int64 between 0 and V - 1, in padding too.

    Returns:
        symbol (N, T, U) and blank (N, T, U + 1).
    """
    rows, next_tokens = _cells(predictor, tokens, band)
    encoder_rows = encoder[band.utterances, band.frames]
    log_probs = tanh_linear_log_probs(
        encoder_rows, predictor.flatten(0, 1), rows, output, next_tokens
    )
    return _spread(encoder, predictor, band, *log_probs)


def band_log_probs(
    encoder: Tensor,
    predictor: Tensor,
    joiner: ProjectingJoiner | Callable[[Tensor, Tensor], Tensor],
    tokens: Tensor,
    band: Band,
) -> tuple[Tensor, Tensor]:
    """:func:`joint_log_probs` in the way that is the fastest with this joiner.

    Args:
        encoder: (N, T, De), predictor: (N, U + 1, Dp): not projected.
        joiner: a `ProjectingJoiner`; or anything that maps (R, S, De) and (R, S, Dp) to logits.
        tokens: (N, U) int64 between 0 and V - 1, in padding too.

    Returns:
        symbol (N, T, U) and blank (N, T, U + 1).
    """
    output = None
    if hasattr(joiner, "project_encoder") and hasattr(joiner, "project_predictor"):
        encoder = joiner.project_encoder(encoder)
        predictor = joiner.project_predictor(predictor)
        output = getattr(joiner, "tanh_output", None)
    if output is not None:
        return tanh_joint_log_probs(encoder, predictor, output, tokens, band)
    return joint_log_probs(encoder, predictor, joiner, tokens, band)


def _cells(predictor: Tensor, tokens: Tensor, band: Band) -> tuple[Tensor, Tensor]:
    """Of each cell (R, S) of the band: row of the predictor's (N * (U + 1), Dp), and next token."""
    rows = band.utterances[:, None] * predictor.shape[1] + band.positions
    # Position U has no next token: its column of the lattice is cut off in the end.
    return rows, functional.pad(tokens, (0, 1)).flatten()[rows]


def _spread(
    encoder: Tensor, predictor: Tensor, band: Band, symbol: Tensor, blank: Tensor
) -> tuple[Tensor, Tensor]:
    """Values of the band's cells (R, S) in lattices (N, T, U) and (N, T, U + 1)."""
    cells = (band.utterances[:, None], band.frames[:, None], band.positions)
    outside = symbol.new_full((*encoder.shape[:2], predictor.shape[1]), float("-inf"))
    return outside.index_put(cells, symbol)[:, :, :-1], outside.index_put(cells, blank)


def tanh_linear_log_probs(
    encoder_rows: Tensor,
    predictor_rows: Tensor,
    rows: Tensor,
    output: nn.Linear,
    next_tokens: Tensor,
) -> tuple[Tensor, Tensor]:
    """:func:`two_log_probs` of ``output(tanh(encoder_rows[r] + predictor_rows[rows[r, s]]))``.

    Args:
        encoder_rows: (R, J). predictor_rows: (N * (U + 1), J).
        rows: (R, S) int64, row of ``predictor_rows`` that belongs to each cell.
        next_tokens: (R, S) int64.

    Returns:
        symbol and blank, (R, S); float32, or float64 if the inputs are. Under autocast the matrix
        products are in autocast's type.
    """
    device_type = encoder_rows.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    else:
        dtype = output.weight.dtype
    return _TanhLinearLogProbs.apply(
        encoder_rows.to(dtype),
        predictor_rows.to(dtype),
        rows,
        output.weight.to(dtype),
        None if output.bias is None else output.bias.to(dtype),
        next_tokens,
    )


def two_log_probs(logits: Tensor, next_tokens: Tensor) -> tuple[Tensor, Tensor]:
    """``log_softmax(logits)`` at ``next_tokens`` and at blank.

    Args:
        logits: (R, S, V). next_tokens: (R, S) int64.

    Returns:
        symbol and blank, (R, S); float32, or float64 if the logits are.
    """
    return _TwoLogProbs.apply(logits, next_tokens)


class _TanhLinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        encoder: Tensor,
        predictor: Tensor,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        next_tokens: Tensor,
    ) -> tuple[Tensor, Tensor]:
        (num_rows, width), (vocab_size, dim) = rows.shape, weight.shape
        flat_rows, flat_tokens = rows.flatten(), next_tokens.flatten()[:, None]
        dtype = torch.promote_types(encoder.dtype, torch.float32)
        symbol = encoder.new_empty(num_rows * width, 1, dtype=dtype)
        blank, sums = torch.empty_like(symbol), torch.empty_like(symbol)
        kept = []
        for chunk, cells in _chunks(num_rows, width, vocab_size, encoder.device.type):
            hidden = predictor.index_select(0, flat_rows[cells])
            hidden.view(-1, width, dim).add_(encoder[chunk, None])
            logits = functional.linear(_tanh_(hidden), weight, bias)
            exps = logits.to(dtype)  # the same tensor, if it is of this type already
            exps -= exps.amax(dim=1, keepdim=True)
            symbol[cells] = exps.gather(1, flat_tokens[cells])
            blank[cells] = exps[:, :1]
            sums[cells] = exps.exp_().sum(dim=1, keepdim=True)
            kept += [hidden, exps.to(logits.dtype)]
        normalizers = sums.log()
        symbol -= normalizers
        blank -= normalizers
        ctx.save_for_backward(weight, flat_rows, flat_tokens, sums, *kept)
        ctx.num_predictor_rows, ctx.has_bias = predictor.shape[0], bias is not None
        return symbol.view(num_rows, width), blank.view(num_rows, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, rows, tokens, sums, *kept = ctx.saved_tensors
        num_rows, width = grads[0].shape
        vocab_size, dim = weight.shape
        needed = _needed_cells(*grads)
        grad_symbol, grad_blank = (grad.reshape(-1, 1) for grad in grads)
        # Sums over many cells are kept in float32 whatever the type of the matrix products.
        dtype = sums.dtype
        grad_encoder = weight.new_zeros(num_rows, dim, dtype=dtype)
        grad_predictor = weight.new_zeros(ctx.num_predictor_rows, dim, dtype=dtype)
        grad_weight = torch.zeros_like(weight, dtype=dtype)
        grad_bias = weight.new_zeros(vocab_size, dtype=dtype)
        chunks = _chunks(num_rows, width, vocab_size, weight.device.type)
        for (chunk, cells), hidden, exps in zip(chunks, kept[::2], kept[1::2], strict=True):
            here = None if needed is None else needed[cells].nonzero().squeeze(1)
            parts = [x[cells] for x in (rows, sums, tokens, grad_symbol, grad_blank)]
            if here is not None:
                hidden, exps, *parts = (x.index_select(0, here) for x in (hidden, exps, *parts))
            predictor_rows, *cell_parts = parts
            grad_logits = _grad_logits(exps, *cell_parts)
            grad_bias += grad_logits.sum(0)
            grad_logits = grad_logits.to(weight.dtype)
            if dtype == weight.dtype:
                grad_weight.addmm_(grad_logits.t(), hidden)
            else:
                grad_weight += grad_logits.t() @ hidden
            grad_hidden = grad_logits @ weight
            torch.ops.aten.tanh_backward.grad_input(grad_hidden, hidden, grad_input=grad_hidden)
            grad_hidden = grad_hidden.to(dtype)
            grad_predictor.index_add_(0, predictor_rows, grad_hidden)
            if here is None:
                torch.sum(grad_hidden.view(-1, width, dim), 1, out=grad_encoder[chunk])
            else:
                grad_encoder[chunk].index_add_(0, here // width, grad_hidden)
        return (
            grad_encoder.to(weight.dtype),
            grad_predictor.to(weight.dtype),
            None,
            grad_weight.to(weight.dtype),
            grad_bias.to(weight.dtype) if ctx.has_bias else None,
            None,
        )


class _TwoLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, next_tokens: Tensor) -> tuple[Tensor, Tensor]:
        float_dtype = torch.promote_types(logits.dtype, torch.float32)
        log_probs = torch.log_softmax(logits, dim=2, dtype=float_dtype)
        ctx.save_for_backward(log_probs, next_tokens)
        ctx.dtype = logits.dtype
        return log_probs.gather(2, next_tokens[:, :, None]).squeeze(2), log_probs[:, :, 0].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        log_probs, tokens = ctx.saved_tensors
        grad_symbol, grad_blank = (grad.reshape(-1, 1) for grad in grads)
        grad = _grad_logits(
            log_probs.flatten(0, 1).exp(), 1.0, tokens.flatten()[:, None], grad_symbol, grad_blank
        )
        return grad.view_as(log_probs).to(ctx.dtype), None


def _tanh_(x: Tensor) -> Tensor:
    """tanh in place; on a CPU by the sigmoid, which torch computes much faster (tanh(x) is
    2 sigmoid(2x) - 1; in float32 within 2e-7)."""
    if x.device.type == "cpu" and x.dtype == torch.float32:
        return x.mul_(2).sigmoid_().mul_(2).sub_(1)
    return x.tanh_()


def _needed_cells(grad_symbol: Tensor, grad_blank: Tensor) -> Tensor | None:
    """(R * S,) bool: the cells to compute gradients for, given those of the two results, (R, S).

    None, all cells, on CUDA: to gather cells by a condition, the CPU would wait for the GPU.

    Paths go through few cells of a window. Cells are skipped where both gradients are below the
    rounding error (``finfo.eps``) of the largest in their frame: in all, a frame loses less than
    S - 1 such errors. Without these cells there are no denormal numbers in the matrix products
    either, which would slow them down by half.
    """
    if grad_symbol.device.type != "cpu":
        return None
    sizes = torch.maximum(grad_symbol.abs(), grad_blank.abs())
    limits = sizes.amax(dim=1, keepdim=True) * torch.finfo(sizes.dtype).eps
    # A comparison that nan fails, so that nan comes through.
    return ~(sizes <= limits).flatten()


def _grad_logits(
    exps: Tensor, sums: Tensor | float, tokens: Tensor, grad_symbol: Tensor, grad_blank: Tensor
) -> Tensor:
    """(C, V), from the gradients (C, 1) of the log-probabilities at ``tokens`` and at blank.

    ``exps`` are ``sums`` (C, 1) times the probabilities.
    """
    grad = exps * (-(grad_symbol + grad_blank) / sums)
    grad.scatter_add_(1, tokens, grad_symbol)
    grad[:, :1] += grad_blank
    return grad


def _chunks(
    num_rows: int, width: int, vocab_size: int, device_type: str
) -> list[tuple[slice, slice]]:
    """Slices of rows, and of the cells in them, that make up chunks of limited size."""
    limit = _CPU_CHUNK if device_type == "cpu" else _GPU_CHUNK
    size = max(1, limit // (width * vocab_size))
    return [
        (slice(i, min(i + size, num_rows)), slice(i * width, min(i + size, num_rows) * width))
        for i in range(0, num_rows, size)
    ]
