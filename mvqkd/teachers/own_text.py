"""N-best texts of experiments of ours: `mvqkd:exp/librispeech/baseline`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.decoding import build_search, decode_whole, default_method
from mvqkd.errors import UserError
from mvqkd.features.extraction import extract
from mvqkd.features.kinds import kind_of_bins
from mvqkd.geometry import num_features
from mvqkd.models import AsrModel
from mvqkd.teachers.own import open_experiment
from mvqkd.teachers.transcribers import TextHypothesis, Transcription, count_parameters


class OwnTranscriber:
    """A `Transcriber` on a model of ours; features are computed on the CPU.

    Args:
        model: in evaluation mode.
        tokenizer: of its tokens.
        method: one of `mvqkd.decoding.METHODS`; None: beam search of the first head that it has.
        beam_size: hypotheses that the search keeps and returns.
        chunk_size: frames of 40 ms, None: full context.
        left_context: frames of 40 ms, None: all.

    Raises:
        ValueError: an unknown method, or one for which the model has no head.
    """

    max_seconds = math.inf

    def __init__(
        self,
        model: AsrModel,
        tokenizer: Tokenizer,
        *,
        method: str | None = None,
        beam_size: int,
        chunk_size: int | None = None,
        left_context: int | None = None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        if method is None:
            method = default_method(model)
            if method == "ctc_greedy_search":  # which finds one text
                method = "ctc_prefix_beam_search"
        self._search = build_search(model, method, beam_size=beam_size, nbest=beam_size)
        self._chunk_size = chunk_size
        self._left_context = left_context
        self.num_parameters = count_parameters(model)
        self.settings: dict[str, Any] = {
            "method": method,
            "beam_size": beam_size,
            "chunk_size": chunk_size,
            "left_context": left_context,
        }

    @torch.inference_mode()
    def __call__(self, waveforms: Tensor, lens: Tensor) -> list[Transcription]:
        """See `Transcriber.__call__`."""
        encoder = self._model.encoder
        found = [Transcription([])] * len(lens)
        frames = encoder.output_lens(num_features(lens.cpu()))
        rows = (frames > 0).nonzero().squeeze(1).tolist()
        if not rows:
            return found
        kind = kind_of_bins(encoder.input_dim)
        features = [
            torch.from_numpy(extract(waveforms[row, : int(lens[row])].cpu().numpy(), kind))
            for row in rows
        ]
        device = waveforms.device
        decoded = decode_whole(
            encoder,
            self._search,
            pad_sequence(features, batch_first=True).to(device),
            torch.tensor([len(x) for x in features], device=device),
            chunk_size=self._chunk_size,
            left_context=self._left_context,
        )
        for row, hypotheses in zip(rows, decoded, strict=True):
            found[row] = Transcription(
                [
                    TextHypothesis(
                        self._tokenizer.decode(hypothesis.tokens),
                        hypothesis.score,
                        len(hypothesis.tokens),
                    )
                    for hypothesis in hypotheses
                ]
            )
        return found


def load_own(
    exp_dir: str,
    *,
    beam_size: int,
    device: torch.device,
    method: str | None = None,
    epoch: int | None = None,
    avg: int = 1,
    chunk_size: int | None = None,
    weights: str | None = None,
) -> OwnTranscriber:
    """Load an experiment.

    Args:
        exp_dir: folder of the experiment.
        beam_size, method: see `OwnTranscriber`.
        device: where it runs.
        epoch, avg, chunk_size, weights: see `mvqkd.teachers.own.open_experiment`.

    Raises:
        UserError: there are no such weights or tokens, or the model does not allow the method.
    """
    opened = open_experiment(exp_dir, epoch=epoch, avg=avg, chunk_size=chunk_size, weights=weights)
    try:
        return OwnTranscriber(
            opened.model.eval().requires_grad_(False).to(device),
            Tokenizer.load(Path(exp_dir)),
            method=method,
            beam_size=beam_size,
            chunk_size=opened.chunk_size,
            left_context=opened.left_context,
        )
    except ValueError as error:
        raise UserError(
            f"mvqkd:{exp_dir}: {error}", remedy="another method, or another teacher"
        ) from error
