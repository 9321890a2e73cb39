"""Many (frames, columns) arrays in one HDF5 file, or in a folder of such files: the container of
embeddings and of codes.

A file holds one dataset of rows `(total_frames, columns)`, `offsets` (utterances+1,) int64, `ids`
(utterances,) UTF-8, and attributes. Rows lie contiguously, so that readers map them into memory:
random access costs no HDF5 call, and worker processes share the pages. A folder of shards
`<name>-00003-of-00012.h5`, of one or several names, reads as one file; nothing is ever merged.

A CRC-32 of each utterance's rows, `crc32` (utterances,), is verified when they are read first, and
a digest of everything else, an attribute, when the file is opened. Earlier versions wrote neither.
"""

from __future__ import annotations

import errno
import re
import resource
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mvqkd.errors import UserError
from mvqkd.storage.hdf5 import BLOCKS, DIGEST, block_checksum, create_hdf5, digest_of

Attribute = str | int | float
# Errors in opening a file that say nothing about what is in it.
_NOT_THE_FILE = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.EIO}
_SHAPE = ("rows_shape", "rows_type")  # among the facts of a file, not among its attributes
_SHARD = re.compile(r"(?P<name>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.h5")


def shard_path(folder: str | Path, name: str, index: int, count: int, ending: str = "h5") -> Path:
    """`<folder>/<name>-00003-of-00012.<ending>`; `index` from 0."""
    return Path(folder) / f"{name}-{index:05d}-of-{count:05d}.{ending}"


class RaggedWriter:
    """Write one file, utterance by utterance; it appears under its name when it is complete.

    A context manager. What was written before an exception or a kill is lost with the temporary
    file: make shards as long as you are ready to lose.

    Args:
        path: the file to write.
        dataset: name of the dataset of rows.
        rows: frames of all utterances together, known beforehand.
        columns: width of a row.
        dtype: of the rows.
        attributes: what readers must know; strings and numbers.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dataset: str,
        rows: int,
        columns: int,
        dtype: Any,
        attributes: dict[str, Attribute],
    ) -> None:
        self.path = Path(path)
        self.ids: list[str] = []
        self.offsets = [0]
        self._checksums: list[int] = []
        self._dataset = dataset
        self._shape = (rows, columns)
        self._dtype = np.dtype(dtype)
        self._attributes = attributes

    def __enter__(self) -> RaggedWriter:
        size = self._shape[0] * self._shape[1] * self._dtype.itemsize
        with ExitStack() as stack:
            self._file = stack.enter_context(create_hdf5(self.path, size))
            stack.push(self._finish)
            self._open_files = stack.pop_all()
        self._file.attrs.update(self._attributes)
        self._rows = self._file.create_dataset(
            self._dataset, shape=self._shape, dtype=self._dtype, fill_time="never"
        )
        return self

    def write(self, utterance: str, array: np.ndarray) -> None:
        """Append the (frames, columns) rows of an utterance.

        Raises:
            ValueError: another shape or dtype than declared, or more rows.
        """
        start, end = self.offsets[-1], self.offsets[-1] + len(array)
        if array.dtype != self._dtype or array.shape[1:] != self._shape[1:]:
            raise ValueError(
                f"{utterance}: {array.dtype} {array.shape}, not {self._dtype} {self._shape}"
            )
        if end > self._shape[0]:
            raise ValueError(f"{utterance}: row {end} of {self._shape[0]} declared")
        self._rows[start:end] = array
        self._checksums.append(block_checksum(array))
        self.ids.append(utterance)
        self.offsets.append(end)

    def __exit__(self, *error: Any) -> None:
        self._open_files.__exit__(*error)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        if self.offsets[-1] != self._shape[0]:
            raise ValueError(f"{self.offsets[-1]} rows written of {self._shape[0]} declared")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("an utterance id was written twice")
        # Fixed-length strings: variable-length ones cost 16 bytes of reference each. Packed, ids
        # and offsets cost a few bytes an utterance, which may have but some hundred bytes of codes.
        encoded = [utterance.encode() for utterance in self.ids]
        length = max(map(len, encoded), default=1)
        small = {
            "ids": np.array(encoded, dtype=f"S{length}"),
            "offsets": np.array(self.offsets, dtype=np.int64),
            BLOCKS: np.array(self._checksums, dtype=np.uint32),
        }
        for name, array in small.items():
            self._pack(name, array)
        facts = _facts(self._file, self._rows.shape, self._rows.dtype)
        self._file.attrs[DIGEST] = digest_of(facts, small)

    def _pack(self, name: str, array: np.ndarray) -> None:
        self._file.create_dataset(
            name,
            data=array,
            chunks=(min(max(len(array), 1), 2**16),),
            maxshape=(None,),
            shuffle=True,
            compression="gzip",
            compression_opts=9,
        )


class RaggedStore:
    """Random access by utterance id to a file, or to a folder of shards, in bounded memory.

    Safe in worker processes, forked or spawned: it is pickled as its path. Arrays that it returns
    are read-only views of the file.

    Attributes:
        path: file or folder.
        attributes: those of the file, the same in every shard.
        columns: width of a row.
        dtype: of the rows.
        num_bytes: of the files, ids and headers included.

    Raises:
        UserError: nothing there, a shard is missing or of another origin, a file is truncated or
            is something else. `step` (of `mvqkd.errors.STEPS`) makes such files.
    """

    def __init__(self, path: str | Path, *, dataset: str, step: str) -> None:
        self.path = Path(path)
        self._dataset = dataset
        self._step = step
        self._rows: list[np.ndarray] = []
        self._files: list[Path] = []
        self._bounds: list[np.ndarray] = []
        self._checksums: list[np.ndarray | None] = []
        self._verified: list[np.ndarray] = []
        self._places: dict[str, tuple[int, int]] = {}
        self.attributes: dict[str, Any] = {}
        files = self._find()
        _allow_open_files(len(files))
        for file in files:
            self._open(file)
        self.num_bytes = sum(file.stat().st_size for file in files)
        self.columns = int(self._rows[0].shape[1])
        self.dtype = self._rows[0].dtype

    def __reduce__(self) -> Any:
        return _reopen, (self.path, self._dataset, self._step)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, utterance: object) -> bool:
        return utterance in self._places

    def __iter__(self) -> Iterator[str]:
        """Utterance ids, in the order of the file."""
        return iter(self._places)

    def __getitem__(self, utterance: str) -> np.ndarray:
        """The (frames, columns) rows of an utterance, verified when they are read first.

        Raises:
            UserError: it is not there, or not what was written.
        """
        shard, index = self._place(utterance)
        self._verify(shard, index, index + 1)
        start, end = self._bounds[shard][index : index + 2]
        return self._rows[shard][start:end]

    def num_frames(self, utterance: str) -> int:
        """Rows of an utterance.

        Raises:
            UserError: it is not there.
        """
        shard, index = self._place(utterance)
        start, end = self._bounds[shard][index : index + 2].tolist()
        return end - start

    @property
    def total_frames(self) -> int:
        """Rows of all utterances together."""
        return sum(len(rows) for rows in self._rows)

    def require(self, wanted: Mapping[str, Attribute | None], ids: Iterable[str]) -> None:
        """Refuse, before training starts, a store that is not that of the configuration.

        Args:
            wanted: attribute -> value; None: any.
            ids: utterances that have to be there.

        Raises:
            UserError: another value, or an utterance is missing.
        """
        for name, value in wanted.items():
            found = self.attributes[name]
            if value is not None and found != value:
                raise UserError(
                    f"{self._dataset} in {self.path} have {name} {found}, not {value}",
                    remedy=f"ask for {found}, or move {self.path} away",
                    step=self._step,
                    parameters=(name,),
                )
        if missing := [utterance for utterance in ids if utterance not in self]:
            raise UserError(
                f"{self.path} lacks {self._dataset} of {len(missing)} utterances, as {missing[0]}",
                remedy="all training cuts are needed, speed-perturbed copies included",
                step=self._step,
            )

    def blocks(self, frames: int = 65536) -> Iterator[np.ndarray]:
        """All rows in the order of the files, at most `frames` at a time."""
        for shard, (rows, bounds) in enumerate(zip(self._rows, self._bounds, strict=True)):
            for start in range(0, len(rows), frames):
                end = min(start + frames, len(rows))
                first = int(np.searchsorted(bounds, start, side="right")) - 1
                self._verify(shard, first, int(np.searchsorted(bounds, end)))
                yield rows[start:end]

    def _place(self, utterance: str) -> tuple[int, int]:
        """Its shard, and its number there."""
        if utterance not in self._places:
            raise UserError(f"{self.path} has nothing for utterance {utterance}", step=self._step)
        return self._places[utterance]

    def _verify(self, shard: int, first: int, last: int) -> None:
        """Compare utterances `first` to `last` - 1 of a shard with their checksums, unless that was
        done before."""
        checksums, verified = self._checksums[shard], self._verified[shard]
        if checksums is None:
            return
        for index in np.flatnonzero(~verified[first:last]) + first:
            start, end = self._bounds[shard][index : index + 2]
            if block_checksum(self._rows[shard][start:end]) != checksums[index]:
                names = (name for name, place in self._places.items() if place == (shard, index))
                raise self._damaged(
                    self._files[shard],
                    f"the {self._dataset} of utterance {next(names)} are not what was written",
                )
            verified[index] = True

    def _damaged(self, path: Path, reason: str) -> UserError:
        return UserError(
            f"{path} is damaged: {reason}",
            remedy="put a copy of it back; or remove it, if it was made here",
            step=self._step,
        )

    def _find(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        if not self.path.is_dir():
            raise UserError(f"{self.path} is missing", step=self._step)
        files = sorted(file for file in self.path.glob("*.h5") if not file.name.startswith("."))
        if not files:
            raise UserError(f"{self.path} has no .h5 file", step=self._step)
        shards = [_SHARD.fullmatch(file.name) for file in files]
        if len(files) == 1 and shards[0] is None:
            return files
        counts: dict[str, int] = {}
        for file, shard in zip(files, shards, strict=True):
            if shard is None:
                raise UserError(
                    f"{self.path} holds several files, and {file.name} is no shard",
                    remedy="give one file, or a folder of shards <name>-00000-of-00002.h5",
                )
            name, count = shard["name"], int(shard["count"])
            if counts.setdefault(name, count) != count:
                raise UserError(
                    f"{self.path} has {file.name} beside the {counts[name]} shards of {name}",
                    remedy="move the files of the other run away",
                )
        wanted = [
            shard_path(self.path, name, index, count)
            for name, count in counts.items()
            for index in range(count)
        ]
        if missing := sorted(set(wanted) - set(files)):
            raise UserError(
                f"{self.path} lacks {len(missing)} of {len(wanted)} shards, as {missing[0].name}",
                step=self._step,
            )
        return wanted

    def _open(self, path: Path) -> None:
        try:
            with h5py.File(path, "r") as file:
                rows = file[self._dataset]
                small = {name: file[name][:] for name in ("ids", "offsets", BLOCKS) if name in file}
                facts = _facts(file, rows.shape, rows.dtype)
                digest = file.attrs.get(DIGEST)
                # Either of the two without the other is damage.
                written = not (digest or BLOCKS in small) or digest == digest_of(facts, small)
                shape, dtype, position = rows.shape, rows.dtype, rows.id.get_offset()
            ids = [raw.decode() for raw in small["ids"]]
            offsets = small["offsets"]
            whole = (
                len(shape) == 2
                and (position is not None or shape[0] == 0)
                and len(offsets) == len(ids) + 1
                and offsets[0] == 0
                and offsets[-1] == shape[0]
                and bool((np.diff(offsets) >= 0).all())
            )
            mapped = np.empty(shape, dtype)
            if whole and shape[0]:
                mapped = np.memmap(path, mode="r", dtype=dtype, shape=shape, offset=position)
        except Exception as error:  # HDF5 raises many kinds on damaged bytes
            if getattr(error, "errno", None) in _NOT_THE_FILE:
                raise UserError(f"{path} cannot be opened: {error}") from error
            raise self._damaged(
                path, f"it is truncated, or is no file of {self._dataset}: {error}"
            ) from error
        if not whole:
            raise self._damaged(path, f"offsets, ids and {self._dataset} do not fit together")
        if not written:
            raise self._damaged(path, "its ids, offsets or attributes are not what was written")
        attributes = {name: value for name, value in facts.items() if name not in _SHAPE}
        if self._rows and attributes != self.attributes:
            differing = sorted(
                key
                for key in attributes.keys() | self.attributes.keys()
                if attributes.get(key) != self.attributes.get(key)
            )
            raise UserError(
                f"{path} is of another run than the shards before it: they differ in "
                f"{', '.join(differing)}",
                remedy="move the shards of the other run away",
            )
        self.attributes = attributes
        shard = len(self._rows)
        self._rows.append(mapped)
        self._files.append(path)
        self._bounds.append(offsets)
        self._checksums.append(small.get(BLOCKS))
        self._verified.append(np.zeros(len(ids), dtype=bool))
        for index, utterance in enumerate(ids):
            if utterance in self._places:
                raise UserError(
                    f"{path} has utterance {utterance}, which another shard has too",
                    remedy="move the shards of the other run away",
                )
            self._places[utterance] = (shard, index)


def _facts(file: h5py.File, shape: tuple[int, ...], dtype: np.dtype) -> dict[str, Any]:
    """Attributes of a file, but the digest, and of its rows."""
    attributes = {key: _plain(value) for key, value in file.attrs.items() if key != DIGEST}
    return {**attributes, **dict(zip(_SHAPE, (list(shape), dtype.str), strict=True))}


def _allow_open_files(count: int) -> None:
    """Every mapped file keeps a descriptor, and a process may open 1024 files unless it asks for
    more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = max(soft, 2 * count + 512)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _reopen(path: Path, dataset: str, step: str) -> RaggedStore:
    return RaggedStore(path, dataset=dataset, step=step)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
