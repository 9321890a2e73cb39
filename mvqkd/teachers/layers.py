"""The choice of a teacher's layers."""

from __future__ import annotations

from collections.abc import Sequence

from mvqkd.errors import UserError


def choose_layers(layers: Sequence[int] | None, num_layers: int) -> list[int]:
    """The wanted layers, ascending; all, from 1, when `layers` is None.

    Raises:
        UserError: a layer that the teacher does not have.
    """
    if layers is None:
        return list(range(1, num_layers + 1))
    for layer in layers:
        if not 0 <= layer <= num_layers:
            raise UserError(
                f"the teacher has no layer {layer}",
                remedy=f"layers are 1 to {num_layers}; 0 is the input of the first",
            )
    if not layers:
        raise UserError(
            "no layer of the teacher is wanted", remedy=f"name any of 1 to {num_layers}"
        )
    return sorted(set(layers))
