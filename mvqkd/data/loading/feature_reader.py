"""Features of utterances by id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.loading.index import open_index
from mvqkd.errors import UserError
from mvqkd.features.reading import load_features


class FeatureReader:
    """Features of utterances by id, wherever in some manifests of cuts they are."""

    def __init__(self, manifests: Sequence[Path]) -> None:
        self._manifests = manifests
        self._places = {
            raw.decode(): (index, number)
            for index in (open_index(path, None) for path in manifests)
            for number, raw in enumerate(index.ids.tolist())
        }

    def __getitem__(self, utterance: str) -> NDArray[np.float32]:
        """(T, C).

        Raises:
            UserError: the utterance is in none of the manifests, or its features cannot be read.
        """
        if utterance not in self._places:
            raise UserError(
                f"{', '.join(map(str, self._manifests))}: there is no cut {utterance}",
                remedy="name all manifests that these utterances are from",
            )
        index, number = self._places[utterance]
        return load_features(index.cut(number), index.source)
