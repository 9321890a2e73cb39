"""Where the loader's workers take the teacher's side of a batch from: files of codes or embeddings,
or the audio that a teacher beside the student receives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mvqkd.data.targets.embeddings import EmbeddingStore
from mvqkd.data.targets.frame_targets import FrameTargets, Waveforms, pack
from mvqkd.data.targets.store import TeacherFrameStore
from mvqkd.data.targets.teacher_frames import Pairing
from mvqkd.errors import UserError
from mvqkd.geometry import ENCODER_GRID, FrameGrid


class StoredFrames:
    """A `TargetSource` of stored teacher frames: targets are (M, ratio * columns) of the file's
    type.

    Args:
        store: of the frames.
        student: grid of the student's frames.
        delay: target delay in student frames.

    Attributes:
        pairing: of teacher and student frames.

    Raises:
        UserError: frame rates without an integer ratio.
    """

    dtype: type[np.generic] | None = None
    """Of the targets; None: the file's."""

    def __init__(
        self, store: TeacherFrameStore, *, student: FrameGrid = ENCODER_GRID, delay: int = 0
    ) -> None:
        self.store = store
        self.pairing = Pairing.of(store.frame_rate, store.first_frame, student=student, delay=delay)

    def read(self, utterance: str) -> np.ndarray:
        """(frames, columns) of an utterance."""
        return self.store[utterance]

    def __call__(self, ids: Sequence[str], student_lens: Sequence[int]) -> FrameTargets:
        """See `TargetSource`."""
        return pack(
            ids,
            [torch.from_numpy(np.array(self.read(name), dtype=self.dtype)) for name in ids],
            student_lens,
            pairing=self.pairing,
            source=self.store.path,
        )


class StoredCodes(StoredFrames):
    """Codebook indexes: targets are (M, ratio * Q) int64; arguments as those of `StoredFrames`."""

    dtype = np.int64


class StoredEmbeddings(StoredFrames):
    """Embeddings: targets are (M, ratio * D); arguments as those of `StoredFrames`.

    Each utterance is checked when it is read: a start of the training reads no embeddings.
    """

    store: EmbeddingStore

    def read(self, utterance: str) -> np.ndarray:
        """(frames, D) of an utterance.

        Raises:
            UserError: it has NaN or infinity.
        """
        return self.store.finite(utterance)


class Audio(Protocol):
    """Audio by number, as `mvqkd.data.loading.audio_cuts.AudioCuts` has it."""

    ids: list[str]
    """Utterance ids."""

    def samples(self, number: int) -> NDArray[np.float32]:
        """(S,) of an utterance at 16 kHz."""
        ...


class StoredAudio:
    """A `TargetSource` of waveforms, for an online teacher.

    Args:
        cuts: with the audio of every utterance, without the student's augmentation.
    """

    def __init__(self, cuts: Audio) -> None:
        self._cuts = cuts
        self._numbers = {utterance: number for number, utterance in enumerate(cuts.ids)}

    def __call__(self, ids: Sequence[str], student_lens: Sequence[int]) -> Waveforms:
        """See `TargetSource`."""
        if missing := [utterance for utterance in ids if utterance not in self._numbers]:
            raise UserError(
                f"the teacher has no audio of utterance {missing[0]}",
                remedy="train on cuts with audio, or on stored targets",
            )
        waves = [torch.from_numpy(self._cuts.samples(self._numbers[name])) for name in ids]
        lens = [len(wave) for wave in waves]
        return Waveforms(
            samples=torch.nn.utils.rnn.pad_sequence(waves, batch_first=True),
            lens=torch.tensor(lens),
            num_samples=lens,
            student_lens=list(student_lens),
        )
