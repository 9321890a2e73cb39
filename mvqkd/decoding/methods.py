"""Searches by the names that programs and recognizers know them by."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

from mvqkd.decoding.attention import attention_beam_search, attention_greedy_search
from mvqkd.decoding.beam import ModifiedBeamSearch
from mvqkd.decoding.ctc import CTCGreedySearch
from mvqkd.decoding.ctc_prefix import CTCPrefixSearch
from mvqkd.decoding.greedy import GreedySearch
from mvqkd.decoding.search import Search
from mvqkd.decoding.whole import WholeUtteranceSearch
from mvqkd.models import AsrModel

Method = Literal[
    "greedy_search",
    "modified_beam_search",
    "ctc_greedy_search",
    "ctc_prefix_beam_search",
    "attention_greedy_search",
    "attention_beam_search",
]
METHODS: tuple[Method, ...] = get_args(Method)
_HEADS = {"attention_": "attention", "ctc_": "ctc", "": "transducer"}
"""By the beginning of a method's name, the head that it searches over."""


def head_of(method: str) -> str:
    """The head that a method searches over, as in `AsrModel.heads`."""
    return next(head for prefix, head in _HEADS.items() if method.startswith(prefix))


def default_method(model: AsrModel, *, greedy: bool = False) -> Method:
    """Beam search of the first of transducer, attention and CTC that a model has."""
    if model.transducer is not None:
        return "greedy_search" if greedy else "modified_beam_search"
    if model.attention is not None:
        return "attention_greedy_search" if greedy else "attention_beam_search"
    return "ctc_greedy_search"


def build_search(
    model: AsrModel,
    method: str,
    *,
    beam_size: int = 4,
    nbest: int = 1,
    max_symbols_per_frame: int = 1,
    blank_penalty: float = 0.0,
    length_exponent: float = 1.0,
    ctc_weight: float = 0.0,
    max_tokens_per_frame: float = 1.0,
) -> Search[Any]:
    """The search of a method over a head of a model.

    Args:
        model: in evaluation mode.
        method: one of `METHODS`.
        beam_size: hypotheses kept by beam searches.
        nbest: hypotheses that beam searches return.
        max_symbols_per_frame: tokens that greedy search may emit at a frame (25 Hz).
        blank_penalty: subtracted from the blank's logit.
        length_exponent, ctc_weight, max_tokens_per_frame: see `attention_beam_search`.

    Raises:
        ValueError: an unknown method, values that it does not take, or one for which the model has
            no head.
    """
    if method not in METHODS:
        raise ValueError(f"there is no decoding method {method}: take one of {', '.join(METHODS)}")
    head = head_of(method)
    if head not in model.heads:
        name = "CTC" if head == "ctc" else head
        raise ValueError(
            f"the model has no {name} head for {method}: it was trained with "
            f"{', '.join(model.heads)}"
        )
    if model.attention is not None and head == "attention":
        find = partial(
            attention_greedy_search, model.attention, max_tokens_per_frame=max_tokens_per_frame
        )
        if method == "attention_beam_search":
            find = partial(
                attention_beam_search,
                model.attention,
                beam_size=beam_size,
                nbest=nbest,
                length_exponent=length_exponent,
                ctc=model.ctc,
                ctc_weight=ctc_weight,
                max_tokens_per_frame=max_tokens_per_frame,
            )
        like = next(model.attention.parameters())
        return WholeUtteranceSearch(find, like=like, dim=model.attention.encoder_dim)
    if model.ctc is not None and head == "ctc":
        if method == "ctc_prefix_beam_search":
            return CTCPrefixSearch(
                model.ctc, beam_size=beam_size, nbest=nbest, blank_penalty=blank_penalty
            )
        return CTCGreedySearch(model.ctc, blank_penalty=blank_penalty)
    assert model.transducer is not None
    if method == "greedy_search":
        return GreedySearch(
            model.transducer,
            max_symbols_per_frame=max_symbols_per_frame,
            blank_penalty=blank_penalty,
        )
    return ModifiedBeamSearch(
        model.transducer, beam_size=beam_size, nbest=nbest, blank_penalty=blank_penalty
    )
