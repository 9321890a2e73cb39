"""Named intermediate results of a forward pass, collected only when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor


class Taps:
    """Names of wanted tensors; a module that is given the taps fills them in its forward pass.

    >>> taps = Taps(["layers.6", "layers.6.query"])
    >>> out, lens = encoder(features, lens, taps=taps)  # doctest: +SKIP
    >>> taps["layers.6"].shape  # doctest: +SKIP
    torch.Size([2, 101, 256])

    The tensors are those of the computation, with gradient, and include padded frames.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self._tensors: dict[str, Tensor] = {}

    def check(self, available: Iterable[str]) -> None:
        """Raise ValueError if a wanted name is not among those that a module has."""
        valid = list(available)
        unknown = sorted(self.names.difference(valid))
        if unknown:
            raise ValueError(f"unknown taps {unknown}; valid are: {', '.join(valid)}")

    @property
    def num_layers(self) -> int | None:
        """Layers that have to be computed to fill all taps; None: all there are."""
        if "output" in self.names:
            return None
        return max((int(name.split(".")[1]) for name in self.names), default=0)

    def put(self, name: str, tensor: Tensor) -> None:
        """Keep the tensor if it is wanted."""
        if name in self.names:
            self._tensors[name] = tensor

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
