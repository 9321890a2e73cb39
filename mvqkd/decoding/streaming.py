"""Recognition of streams, chunk by chunk, many at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Generic

import torch
from torch import Tensor

from mvqkd.decoding.hypothesis import Hypothesis
from mvqkd.decoding.search import Search, State
from mvqkd.features.online_fbank import OnlineFbank
from mvqkd.geometry import DIGITAL_SILENCE, RECEPTIVE_FIELD, needed_features
from mvqkd.models import ConformerEncoder, EncoderState


class Session(Generic[State]):
    """One stream: features not yet decoded, state of the encoder, state of the search.

    Opened by `StreamingRecognizer.open`. Either samples or features are accepted, not both.
    """

    def __init__(self, features: Tensor, encoder: EncoderState, search: State) -> None:
        self.encoder = encoder
        self.search = search
        self.finished = False
        self.decoded = 0
        """Encoder frames (25 Hz) decoded so far."""
        self._fbank: OnlineFbank | None = None
        self._features = features  # (T, C) from the beginning of the next chunk

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
            self._fbank = OnlineFbank(self._features.size(1))
        self._append(self._fbank.accept(samples))

    def accept_features(self, features: Tensor) -> None:
        """Frames (T, C) of log-mel energies at 100 Hz, any number of them.

        Raises:
            ValueError: the session is finished, or was given samples before.
        """
        if self._fbank is not None:
            raise ValueError("this session has accepted samples: features cannot follow")
        self._append(features)

    def finish(self, tail_padding: int = 0) -> None:
        """Nothing follows: what has arrived can be decoded to its last frame.

        Args:
            tail_padding: frames (100 Hz) of silence appended, for models with emission delay.
        """
        if self.finished:
            return
        if self._fbank is not None:
            self._append(self._fbank.finish())
        if tail_padding:
            shape = (tail_padding, self._features.size(1))
            self._append(torch.full(shape, DIGITAL_SILENCE))
        self.finished = True

    @property
    def pending(self) -> Tensor:
        """(T, C): the features from the beginning of the next chunk on."""
        return self._features

    def skip(self, num_frames: int) -> None:
        """Drop features that have been decoded."""
        self._features = self._features[num_frames:]

    def _append(self, features: Tensor) -> None:
        if self.finished:
            raise ValueError("this session is finished: open another one")
        features = features.to(self._features)
        # One such frame would stay in the encoder's state for the rest of the stream.
        finite = features.isfinite().all(dim=1)
        if not finite.all():
            logging.warning(
                "a stream has received samples or features that are not finite or too large: %d "
                "frames of 10 ms are taken as silence",
                int((~finite).sum()),
            )
            silence = features.new_tensor(DIGITAL_SILENCE)
            features = torch.where(finite[:, None], features, silence)
        self._features = torch.cat([self._features, features])


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
        encoder: ConformerEncoder,
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
        self._shift = encoder.subsampling_factor * chunk_size
        self._window = needed_features(chunk_size)

    def open(self) -> Session[State]:
        """A new stream."""
        like = next(self.encoder.parameters())
        return Session(
            like.new_zeros(0, self.encoder.input_dim),
            self.encoder.initial_state(1, self.left_context),
            self.search.start(1),
        )

    def is_ready(self, session: Session[State]) -> bool:
        """True if a chunk has arrived whole, or the session is finished and has frames left."""
        available = len(session.pending)
        if session.finished:
            return available >= RECEPTIVE_FIELD
        return available >= self._window

    @torch.inference_mode()
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
        lens = torch.tensor([len(chunk) for chunk in chunks], device=chunks[0].device)
        features = torch.nn.utils.rnn.pad_sequence(chunks, batch_first=True)
        features = torch.nn.functional.pad(features, (0, 0, 0, self._window - features.size(1)))
        encoder_out, encoder_state = self.encoder.stream(
            features,
            EncoderState.stack([session.encoder for session in sessions]),
            self.chunk_size,
            lens,
        )
        out_lens = self.encoder.output_lens(lens)
        search_state = self.search.advance(
            self.search.stack([session.search for session in sessions]), encoder_out, out_lens
        )
        for session, encoder, search, frames in zip(
            sessions,
            encoder_state.unstack(),
            self.search.unstack(search_state),
            out_lens.tolist(),
            strict=True,
        ):
            session.encoder, session.search = encoder, search
            session.decoded += frames
            session.skip(self._shift)
