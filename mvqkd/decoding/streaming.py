"""Recognition of streams, chunk by chunk, many at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvqkd.decoding.hypothesis import Hypothesis
from mvqkd.decoding.search import Search, State
from mvqkd.features.online_fbank import OnlineFbank
from mvqkd.geometry import (
    DIGITAL_SILENCE,
    RECEPTIVE_FIELD,
    SUBSAMPLING,
    encoder_frames,
    needed_features,
)


class StreamingEncoder(Protocol):
    """What encodes chunks: `mvqkd.models.ConformerEncoder`, or its export.

    Its states have `stack`, of a list of states, and `unstack`, as those of searches.
    """

    causal: bool
    input_dim: int

    def parameters(self) -> Iterator[Tensor]:
        """The first one has the type and the device of features."""
        ...

    def initial_state(self, batch_size: int, left_context: int) -> Any:
        """State of new streams."""
        ...

    def stream(
        self, features: Tensor, state: Any, chunk_size: int, lens: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """See `ConformerEncoder.stream`."""
        ...


class Session(Generic[State]):
    """One stream: features not yet decoded, state of the encoder, state of the search.

    Opened by `StreamingRecognizer.open`. Either samples or features are accepted, not both.
    """

    def __init__(self, num_bins: int, encoder: Any, search: State) -> None:
        self.encoder = encoder
        self.search = search
        self.finished = False
        self.decoded = 0
        """Encoder frames (25 Hz) decoded so far."""
        self._fbank: OnlineFbank | None = None
        # (T, C) from the beginning of the next chunk on; NumPy's calls cost less than torch's.
        self._features = np.zeros((0, num_bins), np.float32)

    def accept_waveform(self, samples: Tensor) -> None:
        """Samples (S,) in [-1, 1] at 16 kHz, any number of them. Frames with samples that are not
        finite are taken as silence, with a warning.

        Raises:
            ValueError: the session is finished, or was given features before, or samples are
                integers or of several channels.
        """
        if self._fbank is None:
            if len(self._features):
                raise ValueError("this session has accepted features: samples cannot follow")
            self._fbank = OnlineFbank(self._features.shape[1])
        self._append(self._fbank.accept(samples).numpy())

    def accept_features(self, features: Tensor) -> None:
        """Frames (T, C) of log-mel energies at 100 Hz, any number of them.

        Raises:
            ValueError: the session is finished, or was given samples before.
        """
        if self._fbank is not None:
            raise ValueError("this session has accepted samples: features cannot follow")
        # NumPy has no bfloat16.
        dtype = torch.promote_types(features.dtype, torch.float32)
        self._append(features.detach().to("cpu", dtype).numpy())

    def finish(self, tail_padding: int = 0) -> None:
        """Nothing follows: what has arrived can be decoded to its last frame.

        Args:
            tail_padding: frames (100 Hz) of silence appended, for models with emission delay.
        """
        if self.finished:
            return
        if self._fbank is not None:
            self._append(self._fbank.finish().numpy())
        if tail_padding:
            shape = (tail_padding, self._features.shape[1])
            self._append(np.full(shape, DIGITAL_SILENCE, np.float32))
        self.finished = True

    @property
    def pending(self) -> NDArray[Any]:
        """(T, C): the features from the beginning of the next chunk on."""
        return self._features

    def skip(self, num_frames: int) -> None:
        """Drop features that have been decoded."""
        self._features = self._features[num_frames:]

    def _append(self, features: NDArray[Any]) -> None:
        if self.finished:
            raise ValueError("this session is finished: open another one")
        # One such frame would stay in the encoder's state for the rest of the stream.
        finite = np.isfinite(features)
        if not finite.all():
            whole = finite.all(axis=1)
            logging.warning(
                "a stream has received samples or features that are not finite or too large: %d "
                "frames of 10 ms are taken as silence",
                int((~whole).sum()),
            )
            features = np.where(whole[:, None], features, features.dtype.type(DIGITAL_SILENCE))
        self._features = np.concatenate([self._features, features])


class StreamingRecognizer(Generic[State]):
    """Decodes sessions together, whatever their ages.

    The result of a session is that of the encoder's masked forward pass over the whole utterance
    with the same chunk_size and left_context, and the same search.

        search = GreedySearch(model.transducer)
        recognizer = StreamingRecognizer(model.encoder, search, chunk_size=16, left_context=64)
        session = recognizer.open()
        for samples in microphone:
            session.accept_waveform(samples)
            recognizer.decode([session])
            print(tokenizer.decode(recognizer.hypotheses(session)[0].tokens))
        session.finish()
        recognizer.decode([session])

    Args:
        encoder: causal, in evaluation mode.
        search: the search over its output.
        chunk_size: encoder frames (25 Hz) of a chunk.
        left_context: encoder frames before a chunk that its frames attend to.

    Raises:
        ValueError: the encoder is not causal, or chunk_size is not positive.
    """

    def __init__(
        self,
        encoder: StreamingEncoder,
        search: Search[State],
        *,
        chunk_size: int,
        left_context: int,
    ) -> None:
        if not encoder.causal:
            raise ValueError("streaming needs an encoder trained with causal=True")
        if chunk_size < 1 or left_context < 0:
            raise ValueError(
                f"chunk_size={chunk_size} must be positive and left_context={left_context} "
                "not negative"
            )
        self.encoder = encoder
        self.search = search
        self.chunk_size = chunk_size
        self.left_context = left_context
        self._shift = SUBSAMPLING * chunk_size
        self._window = needed_features(chunk_size)

    def open(self) -> Session[State]:
        """A new stream."""
        return Session(
            self.encoder.input_dim,
            self.encoder.initial_state(1, self.left_context),
            self.search.start(1),
        )

    def is_ready(self, session: Session[State]) -> bool:
        """True if a chunk has arrived whole, or the session is finished and has frames left."""
        available = len(session.pending)
        if session.finished:
            return available >= RECEPTIVE_FIELD
        return available >= self._window

    def decode(self, sessions: Sequence[Session[State]]) -> None:
        """Decode all that has arrived: chunk after chunk, all ready sessions in one batch."""
        while ready := [session for session in sessions if self.is_ready(session)]:
            self.step(ready)

    def hypotheses(self, session: Session[State]) -> list[Hypothesis]:
        """What is recognized so far, or since the last `reset`, the best first."""
        return self.search.hypotheses(session.search)[0]

    def reset(self, session: Session[State]) -> None:
        """Begin a new segment: what has been recognized is forgotten, see `Search.reset`."""
        session.search = self.search.reset(session.search)

    @torch.inference_mode()
    def step(self, sessions: Sequence[Session[State]]) -> None:
        """Decode one chunk of each of these sessions, all of which are ready, in one batch."""
        chunks = [session.pending[: self._window] for session in sessions]
        lens = [len(chunk) for chunk in chunks]
        frames = [encoder_frames(length) for length in lens]
        like, valid = next(self.encoder.parameters()), None
        if min(lens) < self._window:
            valid = torch.tensor(lens, device=like.device)
            chunks = [np.pad(each, ((0, self._window - len(each)), (0, 0))) for each in chunks]
        batch = chunks[0][None] if len(chunks) == 1 else np.stack(chunks)
        features = torch.from_numpy(batch).to(like)
        encoder_out, encoder_state = self.encoder.stream(
            features, _stack([session.encoder for session in sessions]), self.chunk_size, valid
        )
        search_state = self.search.advance(
            sessions[0].search
            if len(sessions) == 1
            else self.search.stack([session.search for session in sessions]),
            encoder_out,
            torch.tensor(frames, device=encoder_out.device),
        )
        encoders, searches = [encoder_state], [search_state]
        if len(sessions) > 1:
            encoders, searches = encoder_state.unstack(), self.search.unstack(search_state)
        for session, encoder, search, count in zip(
            sessions, encoders, searches, frames, strict=True
        ):
            session.encoder, session.search = encoder, search
            session.decoded += count
            session.skip(self._shift)


def _stack(states: Sequence[Any]) -> Any:
    return states[0] if len(states) == 1 else states[0].stack(states)
