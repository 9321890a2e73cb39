"""Few labelled hours, and batches of audio without transcripts among them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from mvqkd.data.loading.excluded import excluded_path
from mvqkd.errors import UserError
from mvqkd.storage.jsonl import read_items, write_items
from tests.data.loading.loaders import (
    TRAIN,
    contents,
    flat,
    hours_of_originals,
    labelled_ids,
    loader,
    unlabelled_ids,
)


def test_labelled_hours_are_the_same_for_every_seed(prepared: Path) -> None:
    hours = hours_of_originals(prepared) / 2
    durations = {cut["id"]: cut["duration"] for cut in read_items(prepared / TRAIN)}
    batches = flat(loader(prepared, labelled_hours=hours))
    chosen = labelled_ids(batches)
    assert all(batch.labelled for batch in batches)
    originals = [name for name in chosen if "_sp" not in name]
    total = sum(durations[name] for name in originals)
    assert hours * 3600 <= total < hours * 3600 + 2
    assert chosen == sorted(n + suffix for n in originals for suffix in ("", "_sp0.9", "_sp1.1"))
    others = loader(prepared, labelled_hours=hours, seed=99, epoch=2, step_duration=6.0)
    assert labelled_ids(others) == chosen
    with pytest.raises(UserError, match=r"5 labelled hours are asked for"):
        loader(prepared, labelled_hours=5.0)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.5])
def test_every_step_has_unlabelled_batches_too(prepared: Path, ratio: float) -> None:
    dev = prepared / "fbank/tiny_cuts_dev-a.jsonl.gz"
    hours = hours_of_originals(prepared) / 2
    options: dict[str, Any] = dict(labelled_hours=hours, step_duration=4.0)
    alone = loader(prepared, **options)
    mixed = loader(prepared, **options, unlabelled_cuts=[dev], unlabelled_ratio=ratio)
    everything = {item["id"] for path in (prepared / TRAIN, dev) for item in read_items(path)}
    pool = everything - set(labelled_ids(alone))

    drawn: list[str] = []
    for epoch in range(1, 6):
        mixed.set_epoch(epoch)
        alone.set_epoch(epoch)
        steps = list(mixed)
        # Labelled ones are those that there are without.
        assert contents(b for b in flat(steps) if b.labelled) == contents(alone)
        kinds = [[batch.labelled for batch in step] for step in steps]
        assert kinds == [[True, False]] * len(alone)
        assert all(step[1].texts == [""] * len(step[1]) for step in steps)
        drawn += unlabelled_ids(steps)
    # No utterance twice before all others once, over the ends of epochs.
    assert len(drawn) > len(pool)
    for begin in range(0, len(drawn), len(pool)):
        part = drawn[begin : begin + len(pool)]
        assert len(part) == len(set(part))
        assert set(part) == pool or (begin + len(pool) > len(drawn) and set(part) < pool)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resuming_a_mixture_gives_the_rest(prepared: Path, num_workers: int) -> None:
    options: dict[str, Any] = dict(
        labelled_hours=hours_of_originals(prepared) / 2, unlabelled_ratio=1.0, step_duration=4.0
    )
    uninterrupted = loader(prepared, **options)
    for epoch in (1, 2, 3):
        uninterrupted.set_epoch(epoch)
        whole = [contents(step) for step in uninterrupted]
    rest = loader(prepared, epoch=3, first=3, num_workers=num_workers, **options)
    assert [contents(step) for step in rest] == whole[3:]


def test_unlabelled_cuts_need_neither_text_nor_list(prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    dev = data / "fbank/tiny_cuts_dev-a.jsonl.gz"
    cuts = list(read_items(dev))
    short = cuts[0]["features"] | {"num_frames": 6}
    write_items(
        dev,
        [cut | {"supervisions": []} for cut in cuts]
        + [cuts[0] | {"id": "short", "features": short}],
    )
    lang = data / "lang_bpe_30"
    excluded_path(lang, dev).unlink()
    mixed = loader(data, unlabelled_cuts=[dev], unlabelled_ratio=1.0)
    assert labelled_ids(mixed) == sorted(cut["id"] for cut in read_items(data / TRAIN))
    names = {cut["id"] for cut in cuts}
    assert set(unlabelled_ids(mixed)) == names
    # Nor do limits of tokens concern them, and without a ratio they are not even opened.
    everything = data / "fbank/tiny_cuts_other.jsonl.gz"
    spoken = cuts[0]["supervisions"][0] | {"text": "THE CAT SAT " * 400}
    write_items(everything, [cut | {"supervisions": [spoken]} for cut in cuts])
    mixed = loader(data, unlabelled_cuts=[everything], unlabelled_ratio=1.0)
    assert set(unlabelled_ids(mixed)) == names
    with pytest.raises(UserError, match=r"missing"):
        loader(data, unlabelled_cuts=[data / "no.jsonl.gz"], unlabelled_ratio=1.0)
    assert contents(loader(data, unlabelled_cuts=[data / "no.jsonl.gz"])) == contents(loader(data))


def test_excluded_training_cuts_are_unlabelled_audio(prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    hours = hours_of_originals(data) / 2
    before = labelled_ids(loader(data, labelled_hours=hours))
    copy = next(name for name in before if name.endswith("1.1"))
    excluded = excluded_path(data / "lang_bpe_30", data / TRAIN)
    excluded.with_suffix(".report.json").unlink()
    excluded.write_text(f"{copy}\t9 tokens in 3 frames\n")
    mixed = loader(data, labelled_hours=hours, unlabelled_ratio=5.0)
    assert copy not in labelled_ids(mixed)
    assert copy.removesuffix("_sp1.1") in labelled_ids(mixed)
    assert copy in unlabelled_ids(mixed)
    # No other utterance takes its place: tokens are made of the transcripts of the same choice.
    assert labelled_ids(mixed) == [n for n in before if n != copy]
    original = copy.removesuffix("_sp1.1")
    excluded.write_text(f"{original}\t9 tokens in 3\n")
    mixed = loader(data, labelled_hours=hours, unlabelled_ratio=5.0)
    assert labelled_ids(mixed) == [n for n in before if n != original]
    with pytest.raises(UserError, match="there is no unlabelled audio"):
        loader(data, unlabelled_ratio=1.0)


def test_unlabelled_options_that_cannot_be(prepared: Path, tmp_path: Path) -> None:
    everything = hours_of_originals(prepared)
    with pytest.raises(UserError, match=r"there is no unlabelled audio.*\n.*fewer labelled hours"):
        loader(prepared, unlabelled_ratio=1.0, labelled_hours=everything)
    with pytest.raises(UserError, match="there is no unlabelled audio"):
        # The same cuts again.
        loader(prepared, unlabelled_ratio=1.0, unlabelled_cuts=[prepared / TRAIN])
    with pytest.raises(UserError, match="labelled_hours is nan"):
        loader(prepared, labelled_hours=float("nan"))
    other = tmp_path / Path(TRAIN).name
    shutil.copy(prepared / TRAIN, other)
    with pytest.raises(UserError, match="have the same name"):
        loader(prepared, unlabelled_ratio=1.0, unlabelled_cuts=[other])
