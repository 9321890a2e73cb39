"""Searches by the names that programs and recognizers know them by."""

from __future__ import annotations

from typing import Any, Literal, get_args

from mvqkd.decoding.beam import ModifiedBeamSearch
from mvqkd.decoding.ctc import CTCGreedySearch
from mvqkd.decoding.ctc_prefix import CTCPrefixSearch
from mvqkd.decoding.greedy import GreedySearch
from mvqkd.decoding.search import Search
from mvqkd.models import AsrModel

Method = Literal[
    "greedy_search", "modified_beam_search", "ctc_greedy_search", "ctc_prefix_beam_search"
]
METHODS: tuple[Method, ...] = get_args(Method)


def build_search(
    model: AsrModel,
    method: str,
    *,
    beam_size: int = 4,
    nbest: int = 1,
    max_symbols_per_frame: int = 1,
    blank_penalty: float = 0.0,
) -> Search[Any]:
    """The search of a method over a head of a model.

    Args:
        model: in evaluation mode.
        method: one of `METHODS`.
        beam_size: hypotheses kept by beam searches.
        nbest: hypotheses that beam searches return.
        max_symbols_per_frame: tokens that greedy search may emit at a frame (25 Hz).
        blank_penalty: subtracted from the blank's logit.

    Raises:
        ValueError: an unknown method, values that it does not take, or one for which the model has
            no head.
    """
    if method not in METHODS:
        raise ValueError(f"there is no decoding method {method}: take one of {', '.join(METHODS)}")
    if method.startswith("ctc_"):
        if model.ctc is None:
            raise ValueError("the model has no CTC head: it was trained without one")
        if method == "ctc_prefix_beam_search":
            return CTCPrefixSearch(
                model.ctc, beam_size=beam_size, nbest=nbest, blank_penalty=blank_penalty
            )
        return CTCGreedySearch(model.ctc, blank_penalty=blank_penalty)
    if model.transducer is None:
        raise ValueError("the model has no transducer head")
    if method == "greedy_search":
        return GreedySearch(
            model.transducer,
            max_symbols_per_frame=max_symbols_per_frame,
            blank_penalty=blank_penalty,
        )
    return ModifiedBeamSearch(
        model.transducer, beam_size=beam_size, nbest=nbest, blank_penalty=blank_penalty
    )
