"""Checks that third-party teachers satisfy the `Teacher` protocol."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mvqkd.errors import UserError
from mvqkd.teachers.interface import CTCTranscriber, Embeddings
from mvqkd.teachers.layers import choose_layers

_REMEDY = "correct it: see mvqkd.teachers.interface.Teacher"


@contextmanager
def blamed_on(name: str) -> Iterator[None]:
    """Turn what third-party code raises into a `UserError` with its own part of the traceback.

    Args:
        name: how to name it to its author.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        own = error.__traceback__
        while own and own.tb_next and own.tb_frame.f_globals["__name__"].startswith("mvqkd."):
            own = own.tb_next
        lines = "".join(traceback.format_exception(type(error), error, own)).rstrip()
        raise UserError(
            f"{name} failed when mvqkd called it:\n{lines}", remedy="correct it, then go on"
        ) from None


class CheckedTeacher(nn.Module):
    """A `Teacher` that checks what another one returns, batch by batch, and passes on the wanted
    layers alone.

    Without it a wrong number of frames would surface only when a file with hours of embeddings is
    closed.

    Args:
        teacher: an nn.Module that is meant to be a `Teacher`; `ctc` may be absent.
        layers: wanted layers; None: all.
        name: how to name it to its author.

    Raises:
        UserError: a layer that the teacher does not have.
    """

    ctc: CTCTranscriber | None

    def __init__(self, teacher: Any, layers: Sequence[int] | None, *, name: str) -> None:
        super().__init__()
        self.teacher = teacher
        self.dim = teacher.dim
        self.num_layers = teacher.num_layers
        self.frame_rate = teacher.frame_rate
        self.first_frame = teacher.first_frame
        self.ctc = getattr(teacher, "ctc", None)
        self.wanted = choose_layers(layers, self.num_layers)
        self._name = f"{name} ({type(teacher).__name__})"

    def output_lens(self, lens: Tensor) -> Tensor:
        """(N,) samples -> (N,) frames."""
        with blamed_on(self._name):
            return self.teacher.output_lens(lens)

    def forward(self, waveforms: Tensor, lens: Tensor) -> Embeddings:
        """See `Teacher.__call__`.

        Raises:
            UserError: the teacher returns other frames than `output_lens` says, not every wanted
                layer, or embeddings of another shape.
        """
        with blamed_on(self._name):
            output: Embeddings = self.teacher(waveforms, lens)
        self._check_lens(lens.tolist(), output.lens.tolist())
        self._check_layers(output)
        return Embeddings({layer: output.layers[layer] for layer in self.wanted}, output.lens)

    def _check_lens(self, samples: list[int], found: list[int]) -> None:
        # On the CPU, as the programs ask that plan their files by it.
        said = self.output_lens(torch.tensor(samples)).tolist()
        if len(found) != len(said):
            raise UserError(
                f"{self._name} returns lens of {len(found)} utterances for {len(said)}",
                remedy=_REMEDY,
            )
        for length, frames, expected in zip(samples, found, said, strict=True):
            if frames != expected:
                raise UserError(
                    f"{self._name} makes {frames} frames of {length} samples, but its output_lens "
                    f"says {expected}",
                    remedy=_REMEDY,
                )

    def _check_layers(self, output: Embeddings) -> None:
        frames = max(output.lens.tolist())
        for layer in self.wanted:
            if layer not in output.layers:
                raise UserError(
                    f"{self._name} returns layers {sorted(output.layers)}, but not layer {layer}, "
                    "which is wanted",
                    remedy=_REMEDY,
                )
            shape = tuple(output.layers[layer].shape)
            expected = (len(output.lens), frames, self.dim)
            # Rows may be padded further than the longest.
            if len(shape) != 3 or (shape[0], min(shape[1], frames), shape[2]) != expected:
                raise UserError(
                    f"{self._name} returns layer {layer} of shape {shape}, but its lens and dim "
                    f"say {expected}",
                    remedy=_REMEDY,
                )
