"""Decoding of batches of whole utterances, streaming or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mvqkd.decoding.hypothesis import Hypothesis
from mvqkd.decoding.search import Search
from mvqkd.decoding.streaming import StreamingRecognizer
from mvqkd.geometry import DIGITAL_SILENCE
from mvqkd.models import ConformerEncoder, Encoder


def pad_tail(features: Tensor, lens: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """Append frames of silence to each utterance, for models with emission delay.

    Args:
        features: (N, T, C).
        lens: (N,) valid frames.
        num_frames: to append.

    Returns:
        (N, T + num_frames, C) and (N,).
    """
    if num_frames == 0:
        return features, lens
    padded = torch.nn.functional.pad(features, (0, 0, 0, num_frames), value=DIGITAL_SILENCE)
    ended = torch.arange(padded.size(1), device=lens.device) >= lens.unsqueeze(1)
    return padded.masked_fill(ended.unsqueeze(2), DIGITAL_SILENCE), lens + num_frames


@torch.inference_mode()
def decode_whole(
    encoder: Encoder,
    search: Search[Any],
    features: Tensor,
    lens: Tensor,
    *,
    chunk_size: int | None = None,
    left_context: int | None = None,
    tail_padding: int = 0,
) -> list[list[Hypothesis]]:
    """Decode utterances with one forward pass; with chunk_size, a simulation of streaming.

    Args:
        encoder: in evaluation mode.
        search: the search over the encoder's output.
        features: (N, T, C) log-mel energies at 100 Hz.
        lens: (N,) int64, valid frames.
        chunk_size: encoder frames (25 Hz) of a chunk; None: full context.
        left_context: encoder frames seen before a chunk; None: all.
        tail_padding: frames (100 Hz) of silence appended to each utterance.

    Returns:
        For each utterance its hypotheses, the best first.
    """
    features, lens = pad_tail(features, lens, tail_padding)
    encoder_out, out_lens = encoder(
        features, lens, chunk_size=chunk_size, left_context=left_context
    )
    return search.hypotheses(search.advance(search.start(len(lens)), encoder_out, out_lens))


def decode_chunked(
    encoder: ConformerEncoder,
    search: Search[Any],
    features: Tensor,
    lens: Tensor,
    *,
    chunk_size: int,
    left_context: int,
    tail_padding: int = 0,
) -> list[list[Hypothesis]]:
    """Decode utterances chunk by chunk, each a session of its own; arguments as `decode_whole`."""
    recognizer = StreamingRecognizer(
        encoder, search, chunk_size=chunk_size, left_context=left_context
    )
    sessions = [recognizer.open() for _ in range(len(lens))]
    for session, utterance, length in zip(sessions, features, lens.tolist(), strict=True):
        session.accept_features(utterance[:length])
        session.finish(tail_padding)
    recognizer.decode(sessions)
    return [recognizer.hypotheses(session) for session in sessions]
