"""Teachers by name: `load_teacher("torchaudio:HUBERT_ASR_XLARGE", [36])`.

| URI | teacher |
|---|---|
| `torchaudio:NAME[?state_dict=FILE]` | a bundle of `torchaudio.pipelines` |
| `hf:ID_OR_FOLDER[?revision=R]` | HuBERT, WavLM, wav2vec 2.0, data2vec-audio, Whisper |
| ... of Whisper `[&silence=S][&position_directions=K]` | see `mvqkd.teachers.whisper` |
| `mvqkd:EXP_DIR[?epoch=N][&avg=M][&chunk_size=C][&weights=DIGEST]` | an experiment's encoder |
| `python:MODULE:FUNCTION[?name=value...]` | whatever `FUNCTION(layers, name=value, ...)` returns |

For the last, `layers` is the wanted layers or None for all, values are strings, and the result is
an nn.Module that is a `mvqkd.teachers.interface.Teacher`; it may compute more layers than are
wanted, and what it returns is checked.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import torch
from torch import nn

from mvqkd.errors import UserError
from mvqkd.teachers.checked import CheckedTeacher, blamed_on
from mvqkd.teachers.interface import Teacher

Sources = Mapping[str, tuple[Callable[..., Any], dict[str, Callable[[str], Any]] | None]]

_NEEDED = ("dim", "num_layers", "frame_rate", "first_frame", "output_lens")


def split_uri(uri: str, sources: Sources) -> tuple[Callable[..., Any], str, dict[str, Any]]:
    """What loads a URI's network, the network's name, and its options.

    Args:
        uri: `SCHEME:NAME[?key=value&...]`.
        sources: by scheme, the function, and its options with what makes their values of texts;
            None: any options, of texts.

    Raises:
        UserError: no such scheme or option.
    """
    scheme, _, rest = uri.partition(":")
    name, _, query = rest.partition("?")
    options: dict[str, Any] = {}
    for part in query.split("&") if query else []:
        key, _, value = part.partition("=")
        options[unquote(key)] = unquote(value)  # a plus sign is one: paths may have it
    if scheme not in sources or not name:
        raise UserError(
            f"{uri!r} names no teacher", remedy=f"{', '.join(f'{s}:...' for s in sources)}"
        )
    load, known = sources[scheme]
    if known is not None:
        for key, value in options.items():
            if key not in known:
                raise UserError(f"{uri}: there is no option {key}", remedy=f"known: {list(known)}")
            try:
                options[key] = known[key](value)
            except ValueError as error:
                raise UserError(f"{uri}: {key}={value} is no number") from error
    return load, name, options


def load_teacher(
    uri: str, layers: Sequence[int] | None = None, *, device: str | torch.device = "cpu"
) -> Teacher:
    """Load a frozen teacher.

    Args:
        uri: see the table above.
        layers: layers that are wanted, 1-based; 0 is the input of the first; None: 1 to the last.
            Layers above the highest are not computed.
        device: where it runs.

    Raises:
        UserError: no such teacher, layer or option.
    """
    load, name, options = split_uri(uri, _SOURCES)
    teacher = load(name, layers, **options)
    return teacher.eval().requires_grad_(False).to(device)


def _torchaudio(name: str, layers: Sequence[int] | None, **options: Any) -> Any:
    try:
        from mvqkd.teachers.torchaudio_models import load_torchaudio_teacher
    except ModuleNotFoundError as error:
        if error.name != "torchaudio":
            raise
        raise UserError(
            f"torchaudio:{name} needs torchaudio, which is not installed",
            remedy="pip install 'mvqkd[torchaudio]' (for torch 2.11), or take the same weights "
            "from Hugging Face: hf:facebook/hubert-xlarge-ls960-ft is HUBERT_ASR_XLARGE",
        ) from None

    return load_torchaudio_teacher(name, layers, **options)


def _hugging_face(name: str, layers: Sequence[int] | None, **options: Any) -> Any:
    from mvqkd.teachers.hugging_face import load_hugging_face_teacher

    return load_hugging_face_teacher(name, layers, **options)


def _own(name: str, layers: Sequence[int] | None, **options: Any) -> Any:
    from mvqkd.teachers.own import load_own_teacher

    return load_own_teacher(name, layers, **options)


def _python(name: str, layers: Sequence[int] | None, **options: Any) -> Any:
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"python:{name} cannot be imported: {error}",
            remedy="python:MODULE:FUNCTION, with the module's folder in PYTHONPATH",
        ) from error
    with blamed_on(f"python:{name}"):
        teacher = function(layers, **options)
    lacking = [attribute for attribute in _NEEDED if not hasattr(teacher, attribute)]
    if lacking or not isinstance(teacher, nn.Module):
        raise UserError(
            f"python:{name} returned {type(teacher).__name__}, which is no nn.Module or lacks "
            f"{', '.join(lacking)}",
            remedy="see mvqkd.teachers.interface.Teacher",
        )
    return CheckedTeacher(teacher, layers, name=f"python:{name}")


_SOURCES: Sources = {
    "torchaudio": (_torchaudio, {"state_dict": str}),
    "hf": (_hugging_face, {"revision": str, "silence": float, "position_directions": int}),
    "mvqkd": (_own, {"epoch": int, "avg": int, "chunk_size": int, "weights": str}),
    "python": (_python, None),
}
