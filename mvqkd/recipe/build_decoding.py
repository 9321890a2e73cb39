"""From section `decoding` to searches and decoders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from mvqkd.decoding import Search, build_search, decode_chunked, decode_whole
from mvqkd.decoding.split import Decode
from mvqkd.errors import UserError
from mvqkd.models import AsrModel, ConformerEncoder, Encoder
from mvqkd.recipe.config.schema import DecodingConfig


@dataclass
class Chunks:
    """Streaming configuration of the encoder; frames of 40 ms."""

    size: int | None
    """None: full context."""
    left_context: int | None
    """None: all."""
    with_states: bool
    """Chunk by chunk instead of a masked forward pass."""

    @property
    def suffix(self) -> str:
        """For names of files."""
        if self.size is None:
            return ""
        left = "all" if self.left_context is None else self.left_context
        return f"-chunk-{self.size}-left-{left}" + ("-chunked" if self.with_states else "")


def choose_chunks(config: DecodingConfig, model: dict[str, Any]) -> list[Chunks]:
    """Chunks of a student whose `model` section is given, of each size that it is decoded with.

    Raises:
        UserError: the student cannot be decoded that way.
    """
    trained = next((size for size in model["chunk_size"] if size > 0), 0)
    sizes = dict.fromkeys(size or trained for size in config.chunk_size or [0])
    return [_choose(config, model, size) for size in sizes]


def _choose(config: DecodingConfig, model: dict[str, Any], size: int) -> Chunks:
    if config.streaming == "none" or not size:
        return Chunks(None, None, False)
    if not model["causal"]:
        raise UserError(
            f"decoding.chunk_size is {size}, but the student has full context",
            remedy="train a streaming student: --model.causal true --model.chunk_size '[16]'",
        )
    left = config.left_context or model["left_context"]
    if left < 0 and config.streaming == "chunked":
        raise UserError(
            "a stream cannot keep an unlimited left context",
            remedy="--decoding.left_context 64, or --decoding.streaming simulated",
        )
    if model.get("half_rate") and (size % 2 or (left > 0 and left % 2)):
        raise UserError(
            f"chunks of {size} frames with a left context of {left} are not possible: layers of "
            "the student work on pairs of frames",
            remedy="even --decoding.chunk_size and --decoding.left_context",
        )
    return Chunks(size, left if left >= 0 else None, config.streaming == "chunked")


def search_of(config: DecodingConfig, method: str, model: AsrModel) -> Search[Any]:
    """The search that section `decoding` describes.

    Raises:
        UserError: the method is unknown, or the student or the settings do not allow it.
    """
    try:
        return build_search(
            model,
            method,
            beam_size=config.beam_size,
            nbest=max(1, config.nbest),
            max_symbols_per_frame=config.max_symbols_per_frame,
            blank_penalty=config.blank_penalty,
            length_exponent=config.length_exponent,
            ctc_weight=config.ctc_weight,
            max_tokens_per_frame=config.max_tokens_per_frame,
        )
    except ValueError as error:
        raise UserError(
            str(error), remedy="see ./run.sh --help-config, section decoding"
        ) from error


def build_decoder(
    config: DecodingConfig, chunks: Chunks, search: Search[Any], encoder: Encoder
) -> Decode:
    """Features and lens -> hypotheses."""
    if chunks.with_states:
        assert isinstance(encoder, ConformerEncoder)  # others are not causal
        assert chunks.size is not None and chunks.left_context is not None
        return partial(
            decode_chunked,
            encoder,
            search,
            chunk_size=chunks.size,
            left_context=chunks.left_context,
            tail_padding=config.tail_padding,
        )
    return partial(
        decode_whole,
        encoder,
        search,
        chunk_size=chunks.size,
        left_context=chunks.left_context,
        tail_padding=config.tail_padding,
    )
