"""Results are named by their split: those of another data folder's split of the same name are told
from those of the same utterances, decoded again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mvqkd.data.loading.index import transcript
from mvqkd.errors import UserError
from mvqkd.evaluation.result_files import read_recogs
from mvqkd.storage.jsonl import read_items


def check_same_set(
    exp_dir: Path, name: str, cuts: Path, normalize: Callable[[str], str] = str
) -> None:
    """Refuse a set whose results would replace those of other utterances, or stand beside them
    under the same name.

    Utterances that both have by their ids, most of them with the same words, make it the same set:
    data that were made again may have more or fewer.

    Args:
        exp_dir: the experiment.
        name: of the set.
        cuts: its manifest.
        normalize: spells references as the results do.

    Raises:
        UserError: as above, or a file is damaged or missing.
    """
    before = next(iter(sorted(exp_dir.glob(f"*/recogs-{name}-epoch-*.txt"))), None)
    if before is None:
        return
    known = {one.id: one.reference for one in read_recogs(before)}
    if not known:
        return
    texts = {cut["id"]: transcript(cut) for cut in read_items(cuts) if cut["id"] in known}
    equal = sum(normalize(text).split() == known[one] for one, text in texts.items())
    if 2 * equal <= len(texts):
        raise UserError(
            f"{before} is of other utterances than {cuts}: two sets are called {name}",
            remedy="local/decode.py --label LABEL names the results of this one "
            f"LABEL-{name}; --force puts them in place of those that are there",
        )
