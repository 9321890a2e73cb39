"""N-best texts of networks with a CTC head (wav2vec 2.0, HuBERT), by prefix beam search."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mvqkd.decoding.ctc_prefix import EMPTY, extend_beam
from mvqkd.errors import UserError
from mvqkd.teachers.interface import Teacher
from mvqkd.teachers.load import load_teacher
from mvqkd.teachers.transcribers import TextHypothesis, Transcription, count_parameters


class CTCTextTranscriber:
    """A `Transcriber` on a teacher that was fine-tuned with CTC.

    Args:
        teacher: its last layer is wanted, and it has a head.
        beam_size: hypotheses that the search keeps and returns.
        min_log_prob: symbols below it are not considered at a frame.
    """

    max_seconds = math.inf

    def __init__(self, teacher: Any, *, beam_size: int, min_log_prob: float = -10.0) -> None:
        self._teacher: Teacher = teacher
        self._beam_size = beam_size
        self._min_log_prob = min_log_prob
        self.num_parameters = count_parameters(teacher)
        self.settings: dict[str, Any] = {
            "method": "ctc_prefix_beam_search",
            "beam_size": beam_size,
            "min_log_prob": min_log_prob,
        }

    @torch.inference_mode()
    def __call__(self, waveforms: Tensor, lens: Tensor) -> list[Transcription]:
        """See `Transcriber.__call__`."""
        ctc = self._teacher.ctc
        assert ctc is not None
        embedded = self._teacher(waveforms, lens)
        last = embedded.layers[self._teacher.num_layers]
        log_probs = ctc.projection(last).float().log_softmax(-1).cpu()
        transcriptions = []
        for row, length in zip(log_probs, embedded.lens.tolist(), strict=True):
            beam = extend_beam(
                EMPTY,
                row[:length],
                beam_size=self._beam_size,
                blank=ctc.blank,
                min_log_prob=self._min_log_prob,
            )
            hypotheses = [
                TextHypothesis(ctc.spell(prefix.tokens), prefix.score, len(prefix.tokens))
                for prefix in beam
            ]
            transcriptions.append(Transcription(hypotheses))
        return transcriptions


def load_ctc(
    uri: str, num_layers: int | None, *, beam_size: int, device: torch.device
) -> CTCTextTranscriber:
    """Load a teacher with a CTC head.

    Args:
        uri: see `mvqkd.teachers.load`.
        num_layers: of the network, None: not known.
        beam_size: see `CTCTextTranscriber`.
        device: where it runs.

    Raises:
        UserError: there is no such teacher, or it has no head or no list of symbols.
    """
    teacher = load_teacher(uri, None if num_layers is None else [num_layers], device=device)
    if teacher.ctc is None:
        raise UserError(
            f"{uri} does not write text: it has no CTC head, or no list of its symbols",
            remedy="name a network that was fine-tuned for recognition, or Whisper",
        )
    return CTCTextTranscriber(teacher, beam_size=beam_size)
