"""Speech recognition with the ONNX files of a model folder, in onnxruntime on a CPU.

>>> from mvqkd.onnx_recognizer import OnnxRecognizer  # doctest: +SKIP
>>> recognizer = OnnxRecognizer.load("exp/mini/streaming_mvq/export")  # doctest: +SKIP
>>> stream = recognizer.stream()  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from mvqkd.checkpoints.model_folder import lang_folder
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.decoding import (
    CTCGreedySearch,
    Hypothesis,
    ModifiedBeamSearch,
    Search,
    StreamingRecognizer,
)
from mvqkd.decoding.methods import head_of
from mvqkd.errors import UserError
from mvqkd.export.greedy import OnnxGreedySearch
from mvqkd.export.interface import EXPORT
from mvqkd.export.sessions import OnnxCTC, OnnxHead, OnnxTransducer, decode_onnx
from mvqkd.features.fbank import extract
from mvqkd.geometry import encoder_frames, num_features
from mvqkd.recognizer import Stream
from mvqkd.storage.files import read_json

METHODS = ("greedy_search", "modified_beam_search", "ctc_greedy_search")


class OnnxRecognizer:
    """A model in onnxruntime with its tokens and a search; with the interface of
    `mvqkd.transcription.interface.FileRecognizer`.

    Args:
        model: opened files.
        tokenizer: of its tokens.
        method: one of `METHODS`, of the files' head.
        beam_size: hypotheses kept by beam search.

    Raises:
        ValueError: another method.
    """

    def __init__(
        self,
        model: OnnxTransducer | OnnxCTC,
        tokenizer: Tokenizer,
        *,
        method: str = "greedy_search",
        beam_size: int = 4,
    ) -> None:
        if method not in METHODS or (head_of(method) == "ctc") != isinstance(model, OnnxCTC):
            raise ValueError(f"{method} is no search over these files")
        self.tokenizer = tokenizer
        self._model = model
        self._search: Search[Any]
        if isinstance(model, OnnxCTC):
            self._search = CTCGreedySearch(model.head)
        elif method == "greedy_search":
            self._search = OnnxGreedySearch(cast(OnnxHead, model.head))
        else:
            self._search = ModifiedBeamSearch(model.head, beam_size=beam_size)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        method: str = "greedy_search",
        precision: str = "float32",
        streaming: bool | None = None,
        beam_size: int = 4,
        tokens: str | Path | None = None,
        num_threads: int = 1,
    ) -> OnnxRecognizer:
        """The recognizer of a model folder.

        Args:
            folder: `<experiment>/export`, or a copy of it.
            method, beam_size: see `OnnxRecognizer`.
            precision: `float32`, `float16` or `int8`.
            streaming: whether the files are for streams; None: if the folder has such.
            tokens: folder of `bpe.model`; None: that of the model folder.
            num_threads: of each file.

        Raises:
            UserError: the folder has no such files, or they are damaged.
        """
        folder = Path(folder)
        files = find_files(folder, method=method, precision=precision, streaming=streaming)
        opened = OnnxCTC if "ctc" in files else OnnxTransducer
        tokenizer = Tokenizer.load(lang_folder(folder) if tokens is None else tokens)
        model = opened(files, num_threads=num_threads)
        return cls(model, tokenizer, method=method, beam_size=beam_size)

    @property
    def tokens(self) -> list[str]:
        """Token of each id."""
        return self.tokenizer.tokens

    @property
    def streams(self) -> bool:
        """Whether the files are for streams."""
        return self._model.encode.stream is not None

    def sessions(self) -> StreamingRecognizer[Any]:
        """What decodes many streams together.

        Raises:
            ValueError: the files are for whole utterances.
        """
        encoder = self._model.encode.stream
        if encoder is None:
            raise ValueError("streams need files of a streaming model")
        return StreamingRecognizer(
            encoder,
            self._search,
            chunk_size=encoder.chunk_size,
            left_context=encoder.left_context,
        )

    def stream(self) -> Stream:
        """A stream that is recognized while it arrives.

        Raises:
            ValueError: the files are for whole utterances.
        """
        return Stream(self.sessions(), self.tokenizer)

    def recognize(self, waves: Sequence[NDArray[np.float32]]) -> list[Hypothesis]:
        """The best hypothesis of each of several signals (S,) in [-1, 1] at 16 kHz, decoded in one
        batch; an empty one where there is not enough for a frame of the encoder."""
        found = [Hypothesis([], [], 0.0) for _ in waves]
        rows = [row for row, wave in enumerate(waves) if encoder_frames(num_features(len(wave)))]
        if rows:
            features = [torch.from_numpy(extract(waves[row])) for row in rows]
            decoded = decode_onnx(
                self._model,
                self._search,
                torch.nn.utils.rnn.pad_sequence(features, batch_first=True),
                torch.tensor([len(each) for each in features]),
            )
            for row, hypotheses in zip(rows, decoded, strict=True):
                found[row] = hypotheses[0]
        return found


def has_files(folder: Path, method: str) -> bool:
    """Whether a model folder has float32 files for a search, and onnxruntime is installed.

    Raises:
        UserError: what tells of them is damaged.
    """
    if not (folder / EXPORT).is_file() or find_spec("onnxruntime") is None:
        return False
    items = read_json(folder / EXPORT, needs=["files"])["files"]
    return any(
        all((folder / file).is_file() for file in item["files"].values())
        for item in _fitting(items, method, "float32", None)
    )


def find_files(
    folder: Path, *, method: str, precision: str, streaming: bool | None = None
) -> dict[str, Path]:
    """The files of a model folder for a search, by the names of their graphs; arguments as those of
    `OnnxRecognizer.load`.

    Raises:
        UserError: there are none.
    """
    path = folder / EXPORT
    if not path.is_file():
        raise UserError(
            f"{folder} has no {EXPORT}, which tells what ONNX files are of",
            remedy="name a model folder that this package exported",
        )
    items: list[Mapping[str, Any]] = read_json(path, needs=["files"])["files"]
    fitting = _fitting(items, method, precision, streaming)
    if not fitting:
        known = sorted(
            f"{'streaming' if item['streaming'] else 'offline'} {item['head']} {item['precision']}"
            for item in items
        )
        raise UserError(
            f"{folder} has no {precision} ONNX files for {method}",
            remedy=f"choose among what it has: {', '.join(known) or 'none'}",
        )
    chosen = max(fitting, key=lambda item: bool(item["streaming"]))
    return {name: folder / file for name, file in chosen["files"].items()}


def _fitting(
    items: Sequence[Mapping[str, Any]], method: str, precision: str, streaming: bool | None
) -> list[Mapping[str, Any]]:
    return [
        item
        for item in items
        if method in METHODS
        and item["precision"] == precision
        and item["head"] == head_of(method)
        and streaming in (None, item["streaming"])
    ]
