"""Random access to a manifest of cuts, shared by all processes.

A `*.jsonl.gz` can only be read from its beginning, and a million cuts as Python objects take
gigabytes in every worker. The index holds the cuts' JSON lines, durations and tokens as plain
arrays that are memory-mapped: opening it takes some tenths of a second for a million cuts, and the
operating system keeps one copy for all workers and ranks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.errors import UserError
from mvqkd.geometry import SAMPLE_RATE, num_features
from mvqkd.storage.hdf5 import (
    BLOCKS,
    DIGEST,
    block_checksum,
    block_checksums,
    create_hdf5,
    digest_of,
)
from mvqkd.storage.jsonl import fingerprint, read_lines, stem

_SMALL = ("ids", "line_offsets", "seconds", "num_frames", "tokens", "token_offsets", BLOCKS)
_ARRAYS = ("lines", *_SMALL)
_VERSION = 2


class CutIndex:
    """The cuts of one manifest, with the tokens of their transcripts.

    `open_index` makes one. Pickling an index that lies in a file sends its path alone.

    Attributes:
        source: the manifest.
        ids: (N,) bytes, UTF-8.
        seconds: (N,) float64 durations.
        num_frames: (N,) int64 frames of features, 100 a second.
        num_tokens: (N,) int64; zeros when the index was made without a tokenizer.
    """

    def __init__(
        self, source: Path, arrays: dict[str, NDArray[Any]] | None, path: Path | None = None
    ) -> None:
        """Args:
        source: the manifest.
        arrays: of an index in memory; None maps those in the file `path`.
        path: HDF5 file of the index.
        """
        self.source = source
        self._path = path
        if arrays is None:
            assert path is not None
            arrays = _map_arrays(path)
        self._arrays = arrays
        self.ids: NDArray[np.bytes_] = arrays["ids"]
        self.seconds: NDArray[np.float64] = arrays["seconds"]
        self.num_frames: NDArray[np.int64] = arrays["num_frames"]
        self.num_tokens: NDArray[np.int64] = np.diff(arrays["token_offsets"])

    def __reduce__(self) -> tuple[Any, ...]:
        return CutIndex, (self.source, None if self._path else self._arrays, self._path)

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, i: int) -> dict[str, Any]:
        """Cut `i` as a dictionary (`lhotse.serialization.deserialize_item` makes it a Cut).

        Raises:
            UserError: the file of the index is damaged there.
        """
        begin, end = self._arrays["line_offsets"][i : i + 2]
        line = self._arrays["lines"][begin:end]
        if self._path is not None and block_checksum(line) != self._arrays[BLOCKS][i]:
            raise UserError(
                f"{self._path} is damaged: its cut {i} is not that of {self.source}",
                remedy="delete it; the same command makes it again",
            )
        return json.loads(line.tobytes())

    def tokens(self, i: int) -> NDArray[np.int32]:
        """Token ids of the transcript of cut `i`."""
        begin, end = self._arrays["token_offsets"][i : i + 2]
        return self._arrays["tokens"][begin:end]

    def fingerprint(self) -> str:
        """Of all that batches are composed by: ids, durations, frames, tokens; wherever it lies."""
        digest = hashlib.sha256()
        for name in ("ids", "seconds", "num_frames", "tokens", "token_offsets"):
            array = self._arrays[name]
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def without(self, ids: set[str]) -> NDArray[np.int64]:
        """Numbers of the cuts whose ids are not in `ids`."""
        if not ids:
            return np.arange(len(self))
        return np.flatnonzero(~np.isin(self.ids, np.array([i.encode() for i in ids])))


def open_index(cuts_path: str | Path, lang_dir: str | Path | None) -> CutIndex:
    """Index a manifest of cuts.

    With `lang_dir` the index is kept there as `<name of the manifest>.index.h5` and made again when
    the contents of the manifest or of `bpe.model` are no longer those it was made from. Without, it
    is made in memory.

    Args:
        cuts_path: `*_cuts_*.jsonl.gz` (or `.jsonl`).
        lang_dir: folder of `bpe.model`.

    Raises:
        UserError: a file is missing or damaged, or an id is there twice.
    """
    source = Path(cuts_path)
    if not source.is_file():
        raise UserError(f"{source} is missing", step="features")
    if lang_dir is None:
        return CutIndex(source, _read(source, None))
    tokenizer = Tokenizer.load(lang_dir)
    stamp = fingerprint(_VERSION, source, Path(lang_dir) / "bpe.model")
    path = Path(lang_dir) / f"{stem(source)}.index.h5"
    if not _is_current(path, stamp):
        begin = time.monotonic()
        arrays = _read(source, tokenizer)
        _write(path, arrays, stamp)
        logging.info(
            "indexed %d cuts of %s in %.1f s", len(arrays["ids"]), source, time.monotonic() - begin
        )
    return CutIndex(source, None, path)


def _is_current(path: Path, stamp: str) -> bool:
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("stamp") != stamp:
                return False
            digest = file.attrs.get(DIGEST)
        arrays = _map_arrays(path)
        return digest == digest_of({"stamp": stamp}, {name: arrays[name] for name in _SMALL})
    except Exception:  # missing or damaged; HDF5 raises many kinds
        return False


def _read(source: Path, tokenizer: Tokenizer | None) -> dict[str, NDArray[Any]]:
    ids: list[bytes] = []
    lines = bytearray()
    line_lens: list[int] = []
    seconds: list[float] = []
    num_frames: list[int] = []
    tokens: list[list[int]] = []
    for line in read_lines(source):
        try:
            cut = json.loads(line)
            ids.append(cut["id"].encode())
            seconds.append(cut["duration"])
            num_frames.append(_frames(cut))
            text = transcript(cut)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{source}, line {len(line_lens) + 1} is not a cut with a duration: {error!r}",
                remedy="it must be a lhotse manifest of MonoCuts",
                step="features",
            ) from None
        tokens.append(tokenizer.encode(text) if tokenizer is not None else [])
        lines += line
        line_lens.append(len(line))
    if len(set(ids)) < len(ids):
        (twice, _), *_ = Counter(ids).most_common(1)
        raise UserError(
            f"{source} has the id {twice.decode()} twice",
            remedy="give each utterance an id of its own",
            step="manifests",
        )
    return {
        "ids": np.array(ids, dtype=np.bytes_) if ids else np.zeros(0, "S1"),
        "lines": np.frombuffer(lines, dtype=np.uint8),
        "line_offsets": _offsets(line_lens),
        "seconds": np.array(seconds, dtype=np.float64),
        "num_frames": np.array(num_frames, dtype=np.int64),
        "tokens": np.concatenate([np.zeros(0, np.int32), *(np.array(t, np.int32) for t in tokens)]),
        "token_offsets": _offsets([len(t) for t in tokens]),
    }


def transcript(cut: dict[str, Any]) -> str:
    """The text of a cut's supervision; empty when it has none."""
    supervisions = cut.get("supervisions") or [{}]
    return supervisions[0].get("text") or ""


def _frames(cut: dict[str, Any]) -> int:
    """Frames of features of a cut: those stored, or those that `extract` would give."""
    if "features" in cut:
        return int(cut["features"]["num_frames"])
    return num_features(round(cut["duration"] * SAMPLE_RATE))


def _offsets(lens: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lens, dtype=np.int64)]).astype(np.int64)


def _write(path: Path, arrays: dict[str, NDArray[Any]], stamp: str) -> None:
    checksums = block_checksums(arrays["lines"], arrays["line_offsets"])
    arrays = {**arrays, BLOCKS: checksums}
    with create_hdf5(path, sum(array.nbytes for array in arrays.values())) as file:
        file.attrs["stamp"] = stamp
        file.attrs[DIGEST] = digest_of({"stamp": stamp}, {name: arrays[name] for name in _SMALL})
        for name, array in arrays.items():
            file.create_dataset(name, data=array)


def _map_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Map the datasets, which HDF5 stores contiguously, without HDF5's locks and handles."""
    with h5py.File(path, "r") as file:
        layout = {
            name: (file[name].id.get_offset(), file[name].dtype, file[name].shape)
            for name in _ARRAYS
        }
    return {
        name: np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
        if offset is not None
        else np.zeros(shape, dtype)
        for name, (offset, dtype, shape) in layout.items()
    }
