"""Ranges of numbers, written into the types of a configuration's fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """Values that a number may have, or each number of a list: `Annotated[int, Range(1)]`."""

    low: float = -math.inf
    """The smallest."""
    high: float = math.inf
    """The largest."""
    open_low: bool = False
    """Whether `low` itself is not allowed."""
    open_high: bool = False
    """Whether `high` itself is not allowed."""
    also: float | None = None
    """A value with a meaning of its own, such as -1 for "all"."""
    length: int | None = None
    """Numbers in the list; None: any."""

    def __contains__(self, value: float | Sequence[float]) -> bool:
        if isinstance(value, Sequence):
            fits = self.length is None or len(value) == self.length
            return fits and all(number in self for number in value)
        if value == self.also:
            return True
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        words = []
        if self.low > -math.inf:
            words.append(f"more than {self.low:g}" if self.open_low else f"{self.low:g} or more")
        if self.high < math.inf:
            words.append(f"less than {self.high:g}" if self.open_high else f"{self.high:g} or less")
        text = " and ".join(words) or "any number"
        if self.also is not None:
            text = f"{self.also:g}, or {text}"
        return text if self.length is None else f"{self.length} numbers, each {text}"


Count = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
Size = Annotated[int, Range(1, 65536)]
PositiveOrAll = Annotated[int, Range(1, also=-1)]
NotNegative = Annotated[float, Range(0)]
AboveZero = Annotated[float, Range(0, open_low=True)]
Share = Annotated[float, Range(0, 1)]
