"""The section `export` of an experiment, see `mvqkd.recipe.config.schema`.

Only the standard library is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from mvqkd.recipe.config.ranges import Range


@dataclass
class ExportConfig:
    """ONNX files for sherpa-onnx and a model folder to share, of the weights that section
    `decoding` names."""

    recognizers: list[Literal["offline", "streaming"]] = field(default_factory=list)
    """Recognizers that files are made for; empty: `streaming` of a streaming student, else
    `offline`. Offline, a streaming student has the chunks of its streams."""
    heads: list[Literal["transducer", "ctc"]] = field(default_factory=list)
    """Heads that files are made of; empty: the transducer."""
    precisions: list[Literal["float32", "float16", "int8"]] = field(
        default_factory=lambda: ["float32", "int8"]
    )
    """Precisions of the files; float32 is always there."""
    int8_split: str = ""
    """Split that the errors of int8 files are counted on; empty: the first dev split."""
    int8_more_errors: Annotated[float, Range(0)] = 0.02
    """Share by which an int8 file may have more errors than the float32 file, and one error more.
    One that has more is made again with more of the encoder in float32; if none passes, there is no
    int8 file."""
    int8_exclude: list[str] = field(default_factory=list)
    """Parts of names of the encoder's nodes that stay float32 in int8 files, such as
    `/layers.0/` and `/attention/`."""
    test_wavs: Annotated[int, Range(0, 1000)] = 3
    """Utterances of the first test split that are put beside the files."""
    license: str = ""
    """Licence of the model, for its card, such as apache-2.0; empty: the card says that none is
    given."""
    upload: str = ""
    """`hf:OWNER/NAME`, a repository of the Hugging Face Hub to upload the model folder to; or a
    folder to copy it to; empty: neither. Name one experiment with it."""
