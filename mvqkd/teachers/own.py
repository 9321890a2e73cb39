"""Teachers of our own: `mvqkd:exp/librispeech/baseline`, the Conformer of a trained experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mvqkd.checkpoints.files import PRETRAINED, epoch_path
from mvqkd.checkpoints.load import load_model
from mvqkd.errors import UserError
from mvqkd.features.extraction import extract
from mvqkd.features.kinds import kind_of_bins
from mvqkd.geometry import ENCODER_GRID, ENCODER_RATE, num_features
from mvqkd.models import AsrModel, Encoder, TransducerHead
from mvqkd.models.taps import Taps
from mvqkd.storage.files import file_digest
from mvqkd.storage.tensors import verify_tensors
from mvqkd.teachers.interface import CTCTranscriber, Embeddings
from mvqkd.teachers.layers import choose_layers


class ConformerTeacher(nn.Module):
    """A `Teacher` on an encoder of ours: 25 Hz, features computed on the CPU.

    Args:
        encoder: trained; a causal one runs in the streaming configuration of `chunk_size`.
        layers: wanted layers; None: all.
        chunk_size: frames of 40 ms, None: full context.
        left_context: frames of 40 ms, None: all.
        transducer: the head that was trained with it; None: there is none.
    """

    ctc: CTCTranscriber | None = None

    def __init__(
        self,
        encoder: Encoder,
        layers: Sequence[int] | None,
        *,
        chunk_size: int | None = None,
        left_context: int | None = None,
        transducer: TransducerHead | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.num_layers = encoder.num_layers
        self.wanted = choose_layers(layers, self.num_layers)
        self.depth = max(self.wanted)
        self.dim = encoder.dim
        self.frame_rate = ENCODER_RATE
        self.first_frame = ENCODER_GRID.first
        self.chunk_size = chunk_size
        self.left_context = left_context
        self.transducer = transducer

    def output_lens(self, lens: Tensor) -> Tensor:
        """(N,) samples -> (N,) frames."""
        return self.encoder.output_lens(num_features(lens))

    def forward(self, waveforms: Tensor, lens: Tensor) -> Embeddings:
        """See `Teacher.__call__`."""
        kind = kind_of_bins(self.encoder.input_dim)
        features = [
            torch.from_numpy(extract(waveform[:length].numpy(), kind))
            for waveform, length in zip(waveforms.cpu(), lens.tolist(), strict=True)
        ]
        feature_lens = torch.tensor([len(row) for row in features], device=waveforms.device)
        names = {layer: f"layers.{layer}" for layer in self.wanted}
        taps = Taps(names.values())
        _, output_lens = self.encoder(
            pad_sequence(features, batch_first=True).to(waveforms.device),
            feature_lens,
            chunk_size=self.chunk_size,
            left_context=self.left_context,
            taps=taps,
            num_layers=self.depth,
        )
        return Embeddings({layer: taps[name] for layer, name in names.items()}, output_lens)


class OpenedExperiment(NamedTuple):
    """A model of ours and the streaming configuration that it runs in."""

    model: AsrModel
    chunk_size: int | None
    """Frames of 40 ms, None: full context."""
    left_context: int | None
    """Frames of 40 ms, None: all."""


def load_own_teacher(
    exp_dir: str,
    layers: Sequence[int] | None,
    *,
    epoch: int | None = None,
    avg: int = 1,
    chunk_size: int | None = None,
    weights: str | None = None,
) -> ConformerTeacher:
    """Load the encoder of an experiment.

    Args:
        exp_dir: folder of the experiment.
        layers: wanted layers; None: all.
        epoch, avg, chunk_size, weights: see `open_experiment`.

    Raises:
        UserError: there are no such weights, or others.
    """
    opened = open_experiment(exp_dir, epoch=epoch, avg=avg, chunk_size=chunk_size, weights=weights)
    return ConformerTeacher(
        opened.model.encoder,
        layers,
        chunk_size=opened.chunk_size,
        left_context=opened.left_context,
        transducer=opened.model.transducer,
    )


def open_experiment(
    exp_dir: str,
    *,
    epoch: int | None = None,
    avg: int = 1,
    chunk_size: int | None = None,
    weights: str | None = None,
) -> OpenedExperiment:
    """Load the model of an experiment.

    Args:
        exp_dir: folder of the experiment.
        epoch, avg: average of the weights to take, as in decoding; default: `pretrained.pt`.
        chunk_size: frames of 40 ms in a chunk of a streaming encoder, -1: all; default: the first
            that it was trained with.
        weights: first hex digits of the SHA-256 that `pretrained.pt` has to have, or the file of
            `epoch`.

    Raises:
        UserError: there are no such weights, or others.
    """
    folder = Path(exp_dir)
    path = folder / PRETRAINED if epoch is None else epoch_path(folder, epoch)
    if not path.is_file():
        raise UserError(f"{path} is missing", step="training")
    verify_tensors(path, remedy="put a copy of it back, or train the teacher again")
    if weights is not None and not file_digest(path).startswith(weights):
        raise UserError(
            f"{path} has other weights than the {weights} that are asked for: it was trained anew",
            remedy="make the files of this teacher again, in an empty folder",
        )
    model = load_model(folder, epoch, avg if epoch is not None else 1)
    trained = model.description["model"]
    chunk = chunk_size or next(iter(trained["chunk_size"]), -1)
    left = trained["left_context"]
    return OpenedExperiment(model, None if chunk == -1 else chunk, None if left == -1 else left)
