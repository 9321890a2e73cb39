"""Files of teacher embeddings: for training a quantizer, and for distilling embeddings themselves.

A file, or a folder of shards, of `embeddings` (total_frames, D) float16 or float32; see
`mvqkd.storage.ragged` for the container.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mvqkd.data.targets.store import TeacherFrameStore, stated
from mvqkd.errors import UserError
from mvqkd.storage.ragged import RaggedWriter

_DATASET = "embeddings"


@dataclass(frozen=True)
class EmbeddingsInfo:
    """Where embeddings come from: the attributes of an embedding file."""

    teacher: str
    """URI of the teacher."""
    layer: int
    """Layer of the teacher, 1-based; 0 is the input of the first."""
    frame_rate: float
    """Frames per second, Hz."""
    dim: int
    """D."""
    first_frame: float | None = None
    """Seconds to the centre of the first frame; None: not known."""


class EmbeddingWriter:
    """Append embeddings of utterances to an open file; made by `write_embeddings`."""

    def __init__(self, rows: RaggedWriter, dtype: np.dtype) -> None:
        self._rows = rows
        self._dtype = dtype

    def write(self, utterance: str, embeddings: np.ndarray) -> None:
        """Append (frames, D) float embeddings.

        Raises:
            UserError: a value is not finite, or leaves the range of the file's type.
        """
        with np.errstate(over="ignore"):
            stored = embeddings.astype(self._dtype)
        if not np.isfinite(stored).all():
            if np.isfinite(embeddings).all():
                raise UserError(
                    f"utterance {utterance}: embeddings up to {np.abs(embeddings).max():.3g} do "
                    f"not fit into {self._dtype}",
                    remedy="store them as float32",
                    parameters=("dtype",),
                )
            raise UserError(
                f"utterance {utterance}: the teacher's embeddings have NaN or infinity",
                remedy="check its audio; if the teacher runs in float16, take bfloat16 or float32",
            )
        self._rows.write(utterance, stored)


@contextmanager
def write_embeddings(
    path: str | Path, *, info: EmbeddingsInfo, total_frames: int, dtype: str = "float16"
) -> Iterator[EmbeddingWriter]:
    """Write one embedding file: `with write_embeddings(...) as writer: writer.write(id, array)`.

    The file appears under its name when `total_frames` frames were written.
    """
    with RaggedWriter(
        path,
        dataset=_DATASET,
        rows=total_frames,
        columns=info.dim,
        dtype=dtype,
        attributes=stated(asdict(info)),
    ) as rows:
        yield EmbeddingWriter(rows, np.dtype(dtype))


class EmbeddingStore(TeacherFrameStore):
    """Read embeddings by utterance id, or from the first frame to the last in bounded memory.

    Attributes:
        info: where they come from.

    Raises:
        UserError: missing, incomplete or truncated file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, _DATASET)
        self.dtype = self._store.dtype
        fields = self._store.attributes
        try:
            known = EmbeddingsInfo.__annotations__.keys() & fields.keys()
            self.info = EmbeddingsInfo(**{name: fields[name] for name in known})
        except TypeError as error:
            raise UserError(f"{path} lacks attributes: {error}", step=_DATASET) from error
        self.frame_rate, self.first_frame = self.info.frame_rate, self.info.first_frame

    def require(
        self,
        *,
        ids: Iterable[str] = (),
        teacher: str | None = None,
        layer: int | None = None,
    ) -> None:
        """Refuse, before training starts, embeddings that are not those of the configuration.

        Raises:
            UserError: another teacher or layer, or any of `ids` is missing.
        """
        self._store.require({"teacher": teacher, "layer": layer}, ids)

    def finite(self, utterance: str) -> np.ndarray:
        """(frames, D) of an utterance, a read-only view, checked.

        Raises:
            UserError: it is not there, or has NaN or infinity, which `write_embeddings` refuses:
                the file is damaged.
        """
        embeddings = self[utterance]
        if not np.isfinite(embeddings).all():
            raise UserError(
                f"{self.path}: the embeddings of utterance {utterance} have NaN or infinity",
                remedy=f"put a copy of {self.path} back, or move it away",
                step=_DATASET,
            )
        return embeddings

    def require_finite(self) -> None:
        """Read everything in search of NaN and infinity.

        Raises:
            UserError: names the first utterance that has one.
        """
        for utterance in self:
            self.finite(utterance)

    def blocks(self, frames: int = 65536) -> Iterator[np.ndarray]:
        """All embeddings, (at most `frames`, D) at a time, in the order of the file."""
        return self._store.blocks(frames)


class EmbeddingFrames:
    """The frames of some utterances of a store, one after the other: `Frames` for
    `mvqkd.quantization`.

    Args:
        store: where they are.
        ids: the utterances.

    Attributes:
        num_frames: of all of them.
        dim: D.

    Raises:
        UserError: an utterance is not there.
    """

    def __init__(self, store: EmbeddingStore, ids: Sequence[str]) -> None:
        self._store = store
        self._ids = list(ids)
        lengths = [store.num_frames(utterance) for utterance in self._ids]
        self._bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.num_frames = int(self._bounds[-1])
        self.dim = store.info.dim

    def read(self, begin: int, end: int) -> Tensor:
        """Frames begin..end-1, (end - begin, D), in the type of the file."""
        pieces = []
        while begin < end:
            index, first = self._locate(begin)
            piece = self._store[self._ids[index]][first : first + end - begin]
            pieces.append(torch.from_numpy(np.array(piece)))
            begin += len(piece)
        return torch.cat(pieces) if pieces else torch.empty(0, self.dim)

    def describe(self, row: int) -> str:
        """Where a frame is from, for messages."""
        index, first = self._locate(row)
        return f"{self._store.path}: frame {first} of utterance {self._ids[index]}"

    def _locate(self, row: int) -> tuple[int, int]:
        index = int(np.searchsorted(self._bounds, row, side="right")) - 1
        return index, row - int(self._bounds[index])
