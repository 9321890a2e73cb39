"""At which speeds each cut of a split is stored."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lhotse import MonoCut

from mvqkd.data.loading.labelled import SPEED


def speeds_of(cuts: Sequence[MonoCut], speeds: Sequence[float]) -> list[tuple[float, ...]]:
    """The speeds at which each cut is stored, where a corpus may bring copies of its own.

    A copy (lhotse's `perturb_speed`, or a cut named after another one as that does) is stored as it
    is, and its original not again at its speed.

    Args:
        cuts: of a split.
        speeds: that are wanted.
    """
    if list(speeds) == [1.0]:
        return [(1.0,)] * len(cuts)
    names = {cut.id for cut in cuts}
    found: list[tuple[float, ...]] = []
    for cut in cuts:
        original = SPEED.sub("", cut.id)
        if (original != cut.id and original in names) or _is_perturbed(cut):
            found.append((1.0,))
        else:
            missing = (s for s in speeds if s == 1.0 or f"{cut.id}_sp{s}" not in names)
            found.append(tuple(missing))
    brought = sum(own != tuple(speeds) for own in found)
    if brought:
        logging.info("%d cuts are copies at other speeds, or have some: kept as they are", brought)
    return found


def _is_perturbed(cut: MonoCut) -> bool:
    transforms = cut.recording.transforms or [] if cut.recording is not None else []
    names = [t["name"] if isinstance(t, dict) else type(t).__name__ for t in transforms]
    return "Speed" in names or "Tempo" in names
