"""Teachers of our own: `mvqkd:exp/librispeech/baseline`, the Conformer of a trained experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lhotse.utils import compute_num_frames
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mvqkd.data.features import extract
from mvqkd.errors import UserError
from mvqkd.models import ConformerEncoder
from mvqkd.models.taps import Taps
from mvqkd.teachers.interface import SAMPLE_RATE, CTCHead, Embeddings
from mvqkd.teachers.layers import choose_layers

_FRAME_SHIFT = 0.01


class ConformerTeacher(nn.Module):
    """A `Teacher` on our Conformer encoder: 25 Hz, filterbank features computed on the CPU.

    Args:
        encoder: trained; a causal one is heard with `chunk_size`.
        layers: wanted layers; None: all.
        chunk_size: frames of 40 ms, None: full context.
        left_context: frames of 40 ms, None: all.
    """

    ctc: CTCHead | None = None

    def __init__(
        self,
        encoder: ConformerEncoder,
        layers: Sequence[int] | None,
        *,
        chunk_size: int | None = None,
        left_context: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.num_layers = encoder.num_layers
        self.wanted = choose_layers(layers, self.num_layers)
        self.encoder.layers = self.encoder.layers[: max(1, *self.wanted)]
        self.dim = encoder.dim
        self.frame_rate = 1 / _FRAME_SHIFT / encoder.subsampling_factor
        self.chunk_size = chunk_size
        self.left_context = left_context

    def output_lens(self, lens: Tensor) -> Tensor:
        """(N,) samples -> (N,) frames."""
        frames = [
            compute_num_frames(samples / SAMPLE_RATE, _FRAME_SHIFT, SAMPLE_RATE)
            for samples in lens.tolist()
        ]
        return self.encoder.output_lens(torch.tensor(frames, device=lens.device))

    def forward(self, waveforms: Tensor, lens: Tensor) -> Embeddings:
        """See `Teacher.__call__`."""
        features = [
            torch.from_numpy(extract(waveform[:length].numpy()))
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
        )
        return Embeddings({layer: taps[name] for layer, name in names.items()}, output_lens)


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
        epoch, avg: average of the weights to take, as in decoding; default: `pretrained.pt`.
        chunk_size: frames of 40 ms that a streaming encoder hears at once, -1: all; default: the
            first that it was trained with.
        weights: first hex digits of the SHA-256 that `pretrained.pt` has to have, or the file of
            `epoch`.

    Raises:
        UserError: there are no such weights, or others.
    """
    # The experiment's package builds on all others; a teacher of another source needs none of it.
    from mvqkd.experiment.build import load_student
    from mvqkd.experiment.teaching import weights_digest
    from mvqkd.training.averaging import load_for_decoding
    from mvqkd.training.checkpoint import PRETRAINED, epoch_path, load_checkpoint

    folder = Path(exp_dir)
    path = folder / PRETRAINED if epoch is None else epoch_path(folder, epoch)
    if not path.is_file():
        raise UserError(f"{path} is missing", remedy="train the experiment: ./run.sh --stage 8")
    if weights is not None and not weights_digest(path).startswith(weights):
        raise UserError(
            f"{path} has other weights than the {weights} that are asked for: it was trained anew",
            remedy="make the files of this teacher again, in an empty folder",
        )
    if epoch is None:
        state = load_checkpoint(path)
        parameters, description = state["model"], state["description"]
    else:
        parameters = load_for_decoding(folder, epoch=epoch, avg=avg)
        description = load_checkpoint(path, mmap=True)["description"]
    trained = description["model"]
    chunk = chunk_size or next(iter(trained["chunk_size"]), -1)
    left = trained["left_context"]
    return ConformerTeacher(
        load_student(parameters, description).encoder,
        layers,
        chunk_size=None if chunk == -1 else chunk,
        left_context=None if left == -1 else left,
    )
