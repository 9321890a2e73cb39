"""How near layers of a student, or branches on them, are to layers of a teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.distillation.encoder_teacher import PARTS
from mvqkd.distillation.relations import regroup_heads, relation_loss
from mvqkd.models import Taps
from mvqkd.models.masks import valid_frames

_RIDGE = 1e-3


class LinearMap:
    """The affine map of least squares from one layer's frames to another's: layers of different
    widths have no angle between them, and a student's may hold the same in other directions."""

    def __init__(self) -> None:
        self._squares: Tensor | None = None
        self._products: Tensor | None = None
        self._weight: Tensor | None = None

    def add(self, x: Tensor, y: Tensor) -> None:
        """Frames (M, D) and (M, E)."""
        self._weight = None
        x, y = _with_bias(x), y.double()
        squares, products = x.T @ x, x.T @ y
        if self._squares is None or self._products is None:
            self._squares, self._products = squares, products
        else:
            self._squares, self._products = self._squares + squares, self._products + products

    def __call__(self, x: Tensor) -> Tensor:
        """(M, D) -> (M, E) float64.

        Raises:
            ValueError: no frames were added.
        """
        if self._squares is None or self._products is None:
            raise ValueError("there are no frames to find a map from")
        if self._weight is None:
            ridge = _RIDGE * self._squares.diagonal().mean()
            eye = torch.eye(len(self._squares), dtype=torch.float64, device=x.device)
            self._weight = torch.linalg.solve(self._squares + ridge * eye, self._products)
        return _with_bias(x) @ self._weight


def cosine_sum(x: Tensor, y: Tensor) -> float:
    """Sum of the cosines between frames (M, D) and (M, D)."""
    return float(F.cosine_similarity(x.double(), y.double(), dim=1).sum())


def relation_sum(
    student: Taps, teacher: Taps, lens: Tensor, names: tuple[str, str]
) -> float | None:
    """Sum over frames of the divergences between relations of queries, keys and values, see
    `relation_loss`.

    Args:
        student, teacher: (N, H, T, d) each.
        lens: (N,) valid frames.
        names: before `.query`, `.key` and `.value`, in the student's and in the teacher's.

    Returns:
        Nats; None where the student has none, or heads that cannot be regrouped to the teacher's
        number.
    """
    if any(f"{names[0]}.{part}" not in student for part in PARTS):
        return None
    total = 0.0
    for part in PARTS:
        wanted = teacher[f"{names[1]}.{part}"].float()
        try:
            found = regroup_heads(student[f"{names[0]}.{part}"].float(), wanted.size(1))
        except ValueError:
            return None
        total += float(relation_loss(found, wanted, lens).sum())
    return total


def frames_of(x: Tensor, lens: Tensor) -> Tensor:
    """(N, T, D) -> (M, D): the valid frames."""
    return x[valid_frames(lens, x.size(1))]


def _with_bias(x: Tensor) -> Tensor:
    return F.pad(x.double(), (0, 1), value=1.0)
