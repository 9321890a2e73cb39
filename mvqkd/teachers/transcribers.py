"""Teachers that write text: `load_transcriber("hf:openai/whisper-tiny.en", beam_size=5)`.

| URI | teacher |
|---|---|
| `hf:ID_OR_FOLDER[?revision=R]` | Whisper, or a network with a CTC head (wav2vec 2.0, HuBERT ...) |
| ... of Whisper `[&language=L][&silence=S]` | see `mvqkd.teachers.whisper_text` |
| `torchaudio:NAME[?state_dict=FILE]` | a bundle with a CTC head |
| `mvqkd:EXP_DIR[?method=M][&epoch=N][&avg=A][&chunk_size=C][&weights=DIGEST]` | an experiment |
| `python:MODULE:FUNCTION[?name=value...]` | what `FUNCTION(beam_size=..., name=value)` returns |

For the last, values are strings, and the result is a `Transcriber`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mvqkd.errors import UserError
from mvqkd.teachers.load import Sources, split_uri


@dataclass(frozen=True)
class TextHypothesis:
    """One text of an utterance, as the teacher writes it."""

    text: str
    log_prob: float
    """Natural logarithm of its probability according to the teacher, its end included where the
    teacher has a symbol for it."""
    length: int
    """Tokens of the teacher."""
    finished: bool = True
    """Whether the search came to its end."""


@dataclass(frozen=True)
class Transcription:
    """What a teacher writes of an utterance."""

    hypotheses: list[TextHypothesis]
    """The best first, as the teacher's search ranks them."""
    no_speech: float | None = None
    """Probability that nothing is said, if the teacher knows it."""


class Transcriber(Protocol):
    """A frozen network from waveforms to N-best texts. An utterance's texts do not depend on what
    it is batched with, up to rounding."""

    settings: dict[str, Any]
    """Of its search; JSON-able."""
    max_seconds: float
    """Longer audio has to be left out."""
    num_parameters: int
    """Of the network."""

    def __call__(self, waveforms: Tensor, lens: Tensor) -> list[Transcription]:
        """Transcribe 16 kHz audio in [-1, 1]: waveforms (N, S) float32 padded with zeros, lens (N,)
        valid samples. Some may come back without hypotheses."""
        ...


def count_parameters(*modules: nn.Module) -> int:
    """Parameters of networks."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def load_transcriber(
    uri: str, *, beam_size: int, device: str | torch.device = "cpu"
) -> Transcriber:
    """Load a frozen teacher that writes text.

    Args:
        uri: see the table above.
        beam_size: hypotheses that its search keeps and returns.
        device: where it runs.

    Raises:
        UserError: no such teacher or option, or one that does not write text.
    """
    load, name, options = split_uri(uri, _SOURCES)
    return load(name, beam_size=beam_size, device=torch.device(device), **options)


def _hugging_face(
    name: str, *, beam_size: int, device: torch.device, revision: str | None = None, **options: Any
) -> Transcriber:
    from mvqkd.teachers.hugging_face import open_checkpoint

    config = open_checkpoint(name, revision).config
    if config.model_type == "whisper":
        from mvqkd.teachers.whisper_text import load_whisper

        return load_whisper(name, revision=revision, beam_size=beam_size, device=device, **options)
    if options:
        raise UserError(f"hf:{name} is no Whisper", remedy=f"leave out {', '.join(options)}")
    from mvqkd.teachers.ctc_text import load_ctc

    query = f"?revision={revision}" if revision else ""
    return load_ctc(
        f"hf:{name}{query}", config.num_hidden_layers, beam_size=beam_size, device=device
    )


def _torchaudio(
    name: str, *, beam_size: int, device: torch.device, state_dict: str | None = None
) -> Transcriber:
    from mvqkd.teachers.ctc_text import load_ctc

    query = f"?state_dict={state_dict}" if state_dict else ""
    return load_ctc(f"torchaudio:{name}{query}", None, beam_size=beam_size, device=device)


def _own(name: str, *, beam_size: int, device: torch.device, **options: Any) -> Transcriber:
    from mvqkd.teachers.own_text import load_own

    return load_own(name, beam_size=beam_size, device=device, **options)


def _python(name: str, *, beam_size: int, device: torch.device, **options: Any) -> Transcriber:
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"python:{name} cannot be imported: {error}",
            remedy="python:MODULE:FUNCTION, with the module's folder in PYTHONPATH",
        ) from error
    return function(beam_size=beam_size, **options)


_SOURCES: Sources = {
    "hf": (_hugging_face, {"revision": str, "language": str, "silence": float}),
    "torchaudio": (_torchaudio, {"state_dict": str}),
    "mvqkd": (
        _own,
        {"method": str, "epoch": int, "avg": int, "chunk_size": int, "weights": str},
    ),
    "python": (_python, None),
}
