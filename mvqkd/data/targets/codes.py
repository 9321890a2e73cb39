"""The store of codebook indexes: a few bytes for every teacher frame of every training utterance.

A file, or a folder of shards, of `codes` (total_frames, Q) uint8 keyed by our own utterance ids,
speed-perturbed copies (`<id>_sp0.9`) included; see `mvqkd.storage.ragged` for the container.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mvqkd.data.targets.store import TeacherFrameStore, stated
from mvqkd.errors import UserError
from mvqkd.storage.ragged import RaggedWriter

_DATASET = "codes"


@dataclass(frozen=True)
class CodesInfo:
    """Where codes come from: the attributes of a code file."""

    teacher: str
    """URI of the teacher."""
    layer: int
    """Layer of the teacher, 1-based."""
    frame_rate: float
    """Teacher frames per second, Hz."""
    quantizer_id: str
    """`Quantizer.id` of the quantizer that encoded them."""
    num_codebooks: int
    """Q: indexes, and bytes, of a frame."""
    codebook_size: int = 256
    """K: every index is below it."""
    rate_weight: float = 0.0
    """With which they were chosen, see `mvqkd.quantization.predictability.rate_distortion`; 0: the
    nearest codes."""
    encoder: str = "mvqkd"
    """Whose search chose them, see `Quantizer.encoder`: another one finds other codes."""
    first_frame: float | None = None
    """Seconds to the centre of the teacher's first frame; None: not known, as of codes that icefall
    has published."""


@contextmanager
def write_codes(path: str | Path, *, info: CodesInfo, total_frames: int) -> Iterator[RaggedWriter]:
    """Write one code file: `with write_codes(...) as writer: writer.write(id, codes)`.

    `codes` are (frames, Q) uint8; `total_frames` those of all utterances together. The file appears
    when it is complete.
    """
    with RaggedWriter(
        path,
        dataset=_DATASET,
        rows=total_frames,
        columns=info.num_codebooks,
        dtype=np.uint8,
        attributes=stated(asdict(info)),
    ) as writer:
        yield writer


class CodeStore(TeacherFrameStore):
    """Codes (frames, Q) uint8 by utterance id.

    Attributes:
        info: where the codes come from.

    Raises:
        UserError: missing, incomplete or truncated file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, _DATASET)
        fields = self._store.attributes
        try:
            known = CodesInfo.__annotations__.keys() & fields.keys()
            self.info = CodesInfo(**{name: fields[name] for name in known})
            fields.update(asdict(self.info))  # defaults of what older files do not record
        except TypeError as error:
            raise UserError(f"{path} lacks attributes: {error}", step=_DATASET) from error
        self.frame_rate, self.first_frame = self.info.frame_rate, self.info.first_frame
        if self._store.dtype != np.uint8 or self._store.columns != self.info.num_codebooks:
            raise UserError(
                f"{path}: codes are {self._store.dtype} of {self._store.columns} columns, not "
                f"uint8 of {self.info.num_codebooks}",
                step=_DATASET,
            )

    def require(
        self,
        *,
        ids: Iterable[str] = (),
        quantizer_id: str | None = None,
        frame_rate: float | None = None,
        num_codebooks: int | None = None,
        teacher: str | None = None,
        layer: int | None = None,
        rate_weight: float | None = None,
    ) -> None:
        """Refuse, before training starts, codes that are not those of the configuration.

        Raises:
            UserError: another teacher, layer, quantizer, frame rate (Hz), number of codebooks or
                rate weight, or any of `ids` is missing.
        """
        wanted: dict[str, str | int | float | None] = {
            "teacher": teacher,
            "layer": layer,
            "quantizer_id": quantizer_id,
            "frame_rate": frame_rate,
            "num_codebooks": num_codebooks,
            "rate_weight": rate_weight,
        }
        self._store.require(wanted, ids)

    def verify(self, expected_frames: Mapping[str, int], *, quantizer_id: str) -> None:
        """Check everything against the cuts that the codes were dumped from.

        Args:
            expected_frames: utterance id -> teacher frames of its audio; others may be there.
            quantizer_id: of the quantizer that encoded.

        Raises:
            UserError: names the first utterance or value that is wrong.
        """
        remedy = f"move {self.path} away"
        self.require(quantizer_id=quantizer_id)
        if missing := [utterance for utterance in expected_frames if utterance not in self]:
            raise UserError(
                f"{self.path} lacks codes of {len(missing)} utterances, such as {missing[0]}",
                remedy=remedy,
                step=_DATASET,
            )
        for utterance, wanted in expected_frames.items():
            if (frames := self.num_frames(utterance)) != wanted:
                raise UserError(
                    f"{self.path}: utterance {utterance}: {frames} frames of codes, not {wanted}",
                    remedy=remedy,
                    step=_DATASET,
                )
        for block in self._store.blocks():
            if block.size and int(block.max()) >= self.info.codebook_size:
                raise UserError(
                    f"{self.path}: index {int(block.max())} in codebooks of "
                    f"{self.info.codebook_size}",
                    remedy=remedy,
                    step=_DATASET,
                )
