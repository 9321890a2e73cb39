"""A few utterances of noise on disk, and a teacher that is quick, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch
from lhotse import MonoCut, Recording, SupervisionSegment
from torch import Tensor, nn

from mvqkd.storage.jsonl import write_items
from mvqkd.teachers import CTCTranscriber, Embeddings
from mvqkd.teachers.transcribers import TextHypothesis, Transcription


def make_corpus(
    folder: Path, seconds: list[float], *, speed: bool = False, name: str = "cuts", seed: int = 0
) -> Path:
    """Write audio and its manifest, with speed-perturbed copies; ids `a0`, `a0_sp0.9`, ..."""
    generator = np.random.default_rng(seed)
    cuts = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, duration in enumerate(seconds):
        path = folder / f"{name}{number}.wav"
        samples = 0.1 * generator.standard_normal(round(16000 * duration)).astype(np.float32)
        soundfile.write(path, samples, 16000, subtype="FLOAT")
        recording = Recording.from_file(path, recording_id=f"{name[0]}{number}")
        segment = SupervisionSegment(
            id=recording.id,
            recording_id=recording.id,
            start=0.0,
            duration=recording.duration,
            text="ab ba" if number % 2 else "b a",
        )
        cut = MonoCut(
            id=recording.id,
            start=0.0,
            duration=recording.duration,
            channel=0,
            recording=recording,
            supervisions=[segment],
        )
        cuts.append(cut)
        if speed:
            cuts.append(cut.perturb_speed(0.9))
    manifest = folder / f"{name}.jsonl.gz"
    write_items(manifest, (cut.to_dict() for cut in cuts))
    return manifest


class Spectra(nn.Module):
    """Layer i is i times the first 12 log energies of the spectrum of 320 samples; 50 Hz."""

    dim, num_layers, frame_rate, first_frame = 12, 3, 50.0, 0.01

    def __init__(self, layers: list[int] | None) -> None:
        super().__init__()
        self.layers = layers or [1, 2, 3]
        self.ctc: CTCTranscriber | None = None

    def output_lens(self, lens: Tensor) -> Tensor:
        return torch.div(lens, 320, rounding_mode="floor")

    def forward(self, waveforms: Tensor, lens: Tensor) -> Embeddings:
        frames = waveforms[:, : waveforms.shape[1] // 320 * 320].unflatten(1, (-1, 320))
        energy = torch.fft.rfft(frames).abs()[..., :12].clamp(min=1e-5).log()
        return Embeddings({layer: layer * energy for layer in self.layers}, self.output_lens(lens))


def spectra(layers: list[int] | None) -> Spectra:
    """For `python:tests.teachers.corpus:spectra`."""
    return Spectra(layers)


class Multiplied(Spectra):
    """Has a product of matrices, of which automatic mixed precision rounds the factors."""

    def forward(self, waveforms: Tensor, lens: Tensor) -> Embeddings:
        output = super().forward(waveforms, lens)
        layers = {layer: x @ torch.eye(self.dim) for layer, x in output.layers.items()}
        return Embeddings(layers, output.lens)


class Faulty(Spectra):
    """Gives NaN for utterances longer than a second."""

    def forward(self, waveforms: Tensor, lens: Tensor) -> Embeddings:
        output = super().forward(waveforms, lens)
        for x in output.layers.values():
            x[lens > 16000] = torch.nan
        return output


def faulty(layers: list[int] | None) -> Faulty:
    """For `python:tests.teachers.corpus:faulty`."""
    return Faulty(layers)


class Loud(Spectra):
    """Its embeddings do not fit into float16."""

    def forward(self, waveforms: Tensor, lens: Tensor) -> Embeddings:
        output = super().forward(waveforms, lens)
        output.layers = {layer: 1e6 * x for layer, x in output.layers.items()}
        return output


def loud(layers: list[int] | None) -> Loud:
    """For `python:tests.teachers.corpus:loud`."""
    return Loud(layers)


class Flawed(Spectra):
    """Violates the requirement of a teacher that `fault` names; `more` is no violation."""

    def __init__(self, layers: list[int] | None, fault: str) -> None:
        super().__init__(layers)
        self.fault = fault

    def output_lens(self, lens: Tensor) -> Tensor:
        return super().output_lens(lens) + {"lens": 1, "longer": -1}.get(self.fault, 0)

    def forward(self, waveforms: Tensor, lens: Tensor) -> Embeddings:
        output = super().forward(waveforms, lens)
        x = output.layers[self.layers[0]]
        match self.fault:
            case "lens":
                output.lens = output.lens - 1
            case "longer":
                output.lens = output.lens + 1
            case "rows":
                output.lens = output.lens[:1]
            case "layer":
                output.layers = {7: x}
            case "more":
                output.layers |= {7: x, 8: x[..., :3]}
            case "dim":
                output.layers = {layer: x[..., :11] for layer in output.layers}
            case "frames":
                output.layers = {layer: x[:, :-1] for layer in output.layers}
        return output


def flawed(layers: list[int] | None, fault: str) -> Flawed:
    """For `python:tests.teachers.corpus:flawed?fault=...`."""
    return Flawed(layers, fault)


def at_rate(layers: list[int] | None, hz: str) -> Spectra:
    """For `python:tests.teachers.corpus:at_rate?hz=...`: it declares this rate."""
    teacher = Spectra(layers)
    teacher.frame_rate = float(hz)
    return teacher


def recognizer(layers: list[int] | None) -> Spectra:
    """For `python:tests.teachers.corpus:recognizer`: it outputs the word `b`, whatever is said."""
    teacher = Spectra(layers)
    projection = nn.Linear(teacher.dim, 2)
    nn.init.zeros_(projection.weight)
    projection.bias.data = torch.tensor([0.0, 1.0])
    teacher.ctc = CTCTranscriber(projection, ["", "b"], blank=0)
    return teacher


URI = "python:tests.teachers.corpus:spectra"


class Writer:
    """A `Transcriber` whose texts follow from the number of samples; nothing above two seconds."""

    max_seconds, num_parameters = 2.0, 7

    def __init__(self, beam_size: int, word: str) -> None:
        self.settings = {"beam_size": beam_size}
        self._beam_size = beam_size
        self._word = word

    def __call__(self, waveforms: Tensor, lens: Tensor) -> list[Transcription]:
        return [self._write(length) for length in lens.tolist()]

    def _write(self, length: int) -> Transcription:
        best = self._word * (1 + length // 6000)
        written = [f"{best}.", "ba ab", best.upper(), "thank you " * 200, "é"]
        return Transcription(
            [
                TextHypothesis(text, -0.5 - rank, 9)
                for rank, text in enumerate(written[: self._beam_size])
            ]
        )


def writer(beam_size: int, word: str = "ab ") -> Writer:
    """For `python:tests.teachers.corpus:writer`."""
    return Writer(beam_size, word)
