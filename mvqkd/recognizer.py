"""Speech recognition with a trained student, in a few lines.

>>> from mvqkd import Recognizer  # doctest: +SKIP
>>> recognizer = Recognizer.load("exp/mini/streaming_mvq")  # doctest: +SKIP
>>> recognizer.transcribe(["speech.flac"])  # doctest: +SKIP
['THE SEA WAS CALM']
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse.cut import MonoCut
from numpy.typing import NDArray
from torch import Tensor

from mvqkd.checkpoints.load import load_model
from mvqkd.checkpoints.model_folder import lang_folder, local_path
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.data.prepare.audio_files import Fault, probe_file
from mvqkd.decoding import (
    Hypothesis,
    Session,
    StreamingRecognizer,
    build_search,
    decode_whole,
    default_method,
)
from mvqkd.errors import UserError
from mvqkd.features.extraction import extract
from mvqkd.features.kinds import kind_of_bins
from mvqkd.features.reading import read_audio
from mvqkd.geometry import SAMPLE_RATE, encoder_frames, num_features
from mvqkd.models import AsrModel, ConformerEncoder


class Recognizer:
    """A model with its tokens and a search.

    `load` makes one of the folder of an experiment.

    Args:
        model: in evaluation mode.
        tokenizer: of its tokens.
        method: one of `mvqkd.decoding.METHODS`; None: beam search of the first of transducer,
            attention and CTC that the model has.
        beam_size: hypotheses kept by beam searches.

    Raises:
        ValueError: an unknown method, or one for which the model has no head.
    """

    def __init__(
        self,
        model: AsrModel,
        tokenizer: Tokenizer,
        *,
        method: str | None = None,
        beam_size: int = 4,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._search = build_search(model, method or default_method(model), beam_size=beam_size)
        description = getattr(model, "description", {}).get("model", {})
        chunks = [size for size in description.get("chunk_size", []) if size > 0]
        left = description.get("left_context", -1)
        self._chunk_size = chunks[0] if chunks else None
        self._kind = kind_of_bins(model.encoder.input_dim)
        self._left_context = None if left < 0 else left

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        epoch: int | None = None,
        avg: int = 1,
        tokens: str | Path | None = None,
        method: str | None = None,
        beam_size: int = 4,
        device: str | torch.device = "cpu",
    ) -> Recognizer:
        """The recognizer of an experiment.

        Args:
            path, epoch, avg: see `mvqkd.load_model`.
            tokens: folder of `bpe.model`; None: as in the folder of the experiment or model.
            method, beam_size: see `Recognizer`.
            device: where the model goes.

        Raises:
            UserError: weights or tokens are missing or damaged.
            ValueError: an unknown method, or one for which the model has no head.
        """
        path = local_path(path)
        model = load_model(path, epoch, avg, device=device)
        folder = lang_folder(path if path.is_dir() else path.parent)
        tokenizer = Tokenizer.load(folder if tokens is None else tokens)
        return cls(model, tokenizer, method=method, beam_size=beam_size)

    def transcribe(self, files: Iterable[str | Path]) -> list[str]:
        """Texts of audio files, of any format and rate that libsndfile reads; channels are
        averaged.

        A streaming student decodes in chunks, as it was trained.

        Raises:
            UserError: a file is missing, cannot be read to its end, or is too short for a frame.
        """
        return [self._transcribe(self.features(path)) for path in files]

    def stream(self, *, left_context: int | None = None) -> Stream:
        """A stream that is recognized while it arrives.

        Args:
            left_context: frames of 40 ms before a chunk; None: as in training.

        Raises:
            ValueError: the student does not stream, has an unlimited left context, or receives
                other features than fbank.
        """
        return Stream(self.sessions(left_context=left_context), self.tokenizer)

    @property
    def tokens(self) -> list[str]:
        """Token of each id."""
        return self.tokenizer.tokens

    @property
    def streams(self) -> bool:
        """Whether the student was trained with chunks and a limited left context, on fbank."""
        limited = self._chunk_size is not None and self._left_context is not None
        return limited and self._kind == "fbank"

    def sessions(self, *, left_context: int | None = None) -> StreamingRecognizer[Any]:
        """What decodes many streams together; arguments and errors as those of `stream`."""
        left = self._left_context if left_context is None else left_context
        encoder = self.model.encoder
        if self._chunk_size is None or left is None or not isinstance(encoder, ConformerEncoder):
            raise ValueError(
                "streams need a student that was trained with chunks, and left_context"
            )
        if self._kind != "fbank":
            raise ValueError(f"streams have fbank features, the student receives {self._kind}")
        return StreamingRecognizer(
            encoder, self._search, chunk_size=self._chunk_size, left_context=left
        )

    def recognize(self, waves: Sequence[NDArray[np.float32]]) -> list[Hypothesis]:
        """The best hypothesis of each of several signals (S,) in [-1, 1] at 16 kHz, decoded in one
        batch; an empty one where there is not enough for a frame of the encoder."""
        found = [Hypothesis([], [], 0.0) for _ in waves]
        rows = [row for row, wave in enumerate(waves) if encoder_frames(num_features(len(wave)))]
        if rows:
            decoded = self._decode([extract(waves[row], self._kind) for row in rows])
            for row, hypothesis in zip(rows, decoded, strict=True):
                found[row] = hypothesis
        return found

    def features(self, path: str | Path) -> NDArray[np.float32]:
        """Features (T, C) of an audio file.

        Raises:
            UserError: as above.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path} is missing", remedy="name audio files")
        try:
            # Not by its header: a part of the speech would be recognized as if it were all.
            recording = probe_file(path.stem, path)
        except Fault as fault:
            raise UserError(
                f"{path} cannot be recognized: {fault.kind} ({fault.detail})",
                remedy="name whole audio files",
            ) from None
        recording = recording.resample(SAMPLE_RATE)
        channels = [
            read_audio(MonoCut(path.stem, 0.0, recording.duration, channel, recording=recording))
            for channel in recording.channel_ids
        ]
        features = extract(np.mean(channels, axis=0), self._kind)
        if int(self.model.encoder.output_lens(torch.tensor([len(features)]))) < 1:
            raise UserError(f"{path} is too short for a frame of the encoder")
        return features

    def _transcribe(self, features: NDArray[np.float32]) -> str:
        return self.tokenizer.decode(self._decode([features])[0].tokens)

    def _decode(self, features: Sequence[NDArray[np.float32]]) -> list[Hypothesis]:
        like = next(self.model.parameters())
        rows = [torch.from_numpy(each) for each in features]
        hypotheses = decode_whole(
            self.model.encoder,
            self._search,
            torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(like),
            torch.tensor([len(row) for row in rows], device=like.device),
            chunk_size=self._chunk_size,
            left_context=self._left_context if self._chunk_size else None,
        )
        return [of_wave[0] for of_wave in hypotheses]


class Stream:
    """One stream of audio. Made by `Recognizer.stream`."""

    def __init__(self, recognizer: StreamingRecognizer[Any], tokenizer: Tokenizer) -> None:
        self._recognizer = recognizer
        self._tokenizer = tokenizer
        self._session: Session[Any] = recognizer.open()

    def accept(self, samples: Tensor | NDArray[np.float32]) -> str:
        """Text so far, after more samples (S,) in [-1, 1] at 16 kHz."""
        self._session.accept_waveform(torch.as_tensor(samples))
        return self._text()

    def finish(self, tail_padding: int = 0) -> str:
        """The whole text; nothing follows.

        Args:
            tail_padding: frames of 10 ms of silence appended, for models that emit late.
        """
        self._session.finish(tail_padding)
        return self._text()

    def _text(self) -> str:
        self._recognizer.decode([self._session])
        return self._tokenizer.decode(self._recognizer.hypotheses(self._session)[0].tokens)
