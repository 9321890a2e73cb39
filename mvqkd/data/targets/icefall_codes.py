"""Exchange codes with icefall: its manifests `vq_fbank_layer36_cb8/librispeech_cuts_*.jsonl.gz`.

There, codes are a lhotse TemporalArray `codebook_indexes` (T, Q) of each cut, one frame every
0.02 s, stored in HDF5. Its cuts are matched by the utterance, not by the cut's own id, which
differs between versions of lhotse.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import NumpyHdf5Writer
from lhotse.array import TemporalArray
from lhotse.serialization import deserialize_item

from mvqkd.data.targets.codes import CodesInfo, CodeStore, write_codes
from mvqkd.errors import UserError
from mvqkd.storage.files import atomic_path
from mvqkd.storage.jsonl import read_items, write_items

_FIELD = "codebook_indexes"
# lhotse appends the number of the supervision to a cut's id: 103-1240-0000-0, and _sp0.9 to that.
_CUT_ID = re.compile(r"(?P<utterance>.+)-\d+(?P<speed>_sp[0-9.]+)?")


def read_icefall_codes(
    manifests: Sequence[str | Path],
    output: str | Path,
    *,
    info: CodesInfo,
    utterances: Collection[str],
) -> int:
    """Write the codes of icefall's manifests as a code file of our own.

    Args:
        manifests: cuts with `codebook_indexes`.
        output: the code file, .h5.
        info: where the codes come from, which icefall's files do not say; `frame_rate` and
            `num_codebooks` are checked.
        utterances: ids of the training cuts. All of them must be found; others are skipped.

    Returns:
        Number of cuts that were skipped.

    Raises:
        UserError: no such manifest or file, an utterance is missing or there twice, or codes of
            another frame rate, number of codebooks or range.
    """
    found: dict[str, tuple[TemporalArray, Path]] = {}
    others = 0
    for manifest in map(Path, manifests):
        for item in read_items(manifest):
            array = (item.get("custom") or {}).get(_FIELD)
            if array is None:
                raise UserError(
                    f"{manifest}: cut {item['id']} has no {_FIELD}",
                    remedy="give icefall's manifests with codes",
                )
            utterance = _utterance(item, utterances)
            if utterance is None:
                others += 1
            elif utterance in found:
                raise UserError(
                    f"{manifest}: utterance {utterance} is there twice",
                    remedy="give each manifest once",
                )
            else:
                found[utterance] = (TemporalArray.from_dict(array), manifest)
    if missing := [utterance for utterance in utterances if utterance not in found]:
        raise UserError(
            f"{manifests[0]}: no codes of {len(missing)} utterances, as {missing[0]}",
            remedy="give all of icefall's manifests of these splits, speed copies included",
        )
    total = 0
    for utterance, (array, manifest) in found.items():
        rate, codebooks = 1 / array.frame_shift, array.shape[1]
        if abs(rate - info.frame_rate) > 1e-3 or codebooks != info.num_codebooks:
            raise UserError(
                f"{manifest}: codes of {utterance} have {codebooks} codebooks at {rate:g} Hz, not "
                f"{info.num_codebooks} at {info.frame_rate:g} Hz"
            )
        total += array.shape[0]
    with write_codes(output, info=info, total_frames=total) as writer:
        for utterance, (array, manifest) in found.items():
            codes = _load(array, manifest, utterance)
            if codes.min(initial=0) < 0 or codes.max(initial=0) >= info.codebook_size:
                raise UserError(
                    f"{manifest}: codes of {utterance} are not 0 to {info.codebook_size - 1}"
                )
            writer.write(utterance, codes.astype(np.uint8))
    return others


def write_icefall_codes(
    store: CodeStore, cuts: str | Path, output: str | Path, *, storage: str | Path | None = None
) -> None:
    """Write codes as icefall's recipes read them.

    Args:
        store: codes.
        cuts: manifest of the cuts; `codebook_indexes` is added to each.
        output: manifest to write, `<folder>/librispeech_cuts_train-clean-100.jsonl.gz`.
        storage: HDF5 file of the codes; default: beside the manifest.

    Raises:
        UserError: an utterance has no codes.
    """
    output = Path(output)
    storage = Path(storage or output.with_name(output.name.split(".jsonl")[0] + ".h5"))
    items = []
    with atomic_path(storage) as partial, NumpyHdf5Writer(partial) as writer:
        for item in read_items(cuts):
            cut = deserialize_item(item)
            array = writer.store_array(
                key=cut.id,
                value=np.array(store[cut.id]),
                frame_shift=1 / store.info.frame_rate,
                temporal_dim=0,
                start=cut.start,  # lhotse reads from the cut's start, counted from here
            )
            array.array.storage_path = str(storage)
            setattr(cut, _FIELD, array)
            items.append(cut.to_dict())
    write_items(output, items)


def _utterance(item: dict[str, Any], known: Collection[str]) -> str | None:
    """The id, among those known, of the utterance that a cut holds."""
    candidates, speed = [item["id"]], ""
    if match := _CUT_ID.fullmatch(item["id"]):
        speed = match["speed"] or ""
        candidates.append(match["utterance"] + speed)
    # The supervision of a copy at another speed may be named as the original's.
    segments = (segment["id"] for segment in item.get("supervisions") or [])
    candidates += [segment for segment in segments if segment.endswith(speed)]
    return next((candidate for candidate in candidates if candidate in known), None)


def _load(array: TemporalArray, manifest: Path, utterance: str) -> np.ndarray:
    path = Path(array.array.storage_path)
    if not path.is_file():  # the manifest's paths hold in the folder that icefall ran in
        beside = manifest.with_name(path.name)
        if not beside.is_file():
            raise UserError(
                f"{manifest}: neither {path}, the codes of {utterance}, nor {beside} is there",
                remedy="put icefall's .h5 files beside the manifest",
            )
        array.array.storage_path = str(beside)
    return array.load()
