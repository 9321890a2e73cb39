from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from mvqkd.data import Batch, BatchLoader, Tokenizer, eval_loader, train_loader
from mvqkd.data.extraction import manifest_cuts, store_cuts
from mvqkd.data.jsonl import read_items, write_items
from mvqkd.data.loader import excluded_path
from mvqkd.errors import UserError


def loader(data: Path, **options: Any) -> BatchLoader:
    defaults: dict[str, Any] = dict(
        max_duration=8.0, max_tokens=1000, num_buckets=2, seed=5, epoch=1
    )
    path = data / "fbank/tiny_cuts_train-tiny.jsonl.gz"
    return train_loader(path, data / "lang_bpe_30", **(defaults | options))


def contents(batches: Iterable[Batch]) -> list[tuple[Any, ...]]:
    return [
        (
            batch.ids,
            batch.texts,
            batch.hypotheses and batch.hypotheses.tokens.tolist(),
            batch.feature_lens.tolist(),
            batch.features.double().sum().item(),
        )
        for batch in batches
    ]


def test_batches_hold_the_utterances(prepared: Path) -> None:
    manifest = prepared / "fbank/tiny_cuts_train-tiny.jsonl.gz"
    cuts = {item["id"]: item for item in read_items(manifest)}
    tokenizer = Tokenizer.load(prepared / "lang_bpe_30")
    batches = list(loader(prepared))
    assert len(batches) > 3
    assert sorted(name for batch in batches for name in batch.ids) == sorted(cuts)
    for batch in batches:
        assert batch.features.dtype == torch.float32
        assert len(batch) * batch.features.shape[1] <= 801
        for n, name in enumerate(batch.ids):
            cut = cuts[name]
            assert batch.texts[n] == cut["supervisions"][0]["text"]
            tokens = batch.hypotheses.tokens[n, : batch.hypotheses.lens[n]]
            assert tokens.tolist() == tokenizer.encode(batch.texts[n])
            assert batch.feature_lens[n] == cut["features"]["num_frames"]
        assert batch.seconds == pytest.approx(sum(cuts[n]["duration"] for n in batch.ids), abs=0.1)


def test_batches_are_padded_to_a_multiple(prepared: Path) -> None:
    dev, lang = prepared / "fbank/tiny_cuts_dev-a.jsonl.gz", prepared / "lang_bpe_30"
    for plain, padded in (
        (loader(prepared), loader(prepared, pad_multiple=32)),
        (
            eval_loader(dev, lang, max_duration=3),
            eval_loader(dev, lang, max_duration=3, pad_multiple=32),
        ),
    ):
        for one, other in zip(plain, padded, strict=True):
            assert one.ids == other.ids
            assert 0 <= other.features.shape[1] - one.features.shape[1] < 32
            assert other.features.shape[1] % 32 == 3


@pytest.mark.parametrize(
    ("num_workers", "start_method"),
    [(2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)],
)
def test_workers_change_nothing(prepared: Path, num_workers: int, start_method: str | None) -> None:
    alone = loader(
        prepared, musan_path=prepared / "fbank/tiny_cuts_dev-a.jsonl.gz", musan_probability=0.5
    )
    others = loader(
        prepared,
        musan_path=prepared / "fbank/tiny_cuts_dev-a.jsonl.gz",
        musan_probability=0.5,
        num_workers=num_workers,
        start_method=start_method,
    )
    for epoch in (1, 2):
        alone.set_epoch(epoch)
        others.set_epoch(epoch)
        assert contents(others) == contents(alone)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resuming_gives_the_rest(prepared: Path, num_workers: int) -> None:
    whole = contents(loader(prepared, epoch=2))
    rest = loader(prepared, epoch=2, skip_batches=3, num_workers=num_workers)
    assert len(rest) == len(whole) - 3
    assert contents(rest) == whole[3:]
    # An iteration that was given up half way leaves nothing behind.
    rest.set_epoch(2)
    next(iter(rest))
    rest.set_epoch(2, skip_batches=1)
    assert contents(rest) == whole[1:]


def test_skipping_reads_nothing_and_is_logged(
    prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    batches = loader(data, num_workers=0)
    for archive in prepared.glob("fbank/feats_*/*.lca"):
        (data / archive.relative_to(prepared)).unlink()
    with caplog.at_level("INFO"):
        batches.set_epoch(1, skip_batches=len(batches))
    assert list(batches) == []
    assert "skipped" in caplog.text


def test_global_random_state_is_left_alone(prepared: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    list(loader(prepared))
    assert torch.equal(torch.rand(1), expected)


def test_ranks_share_the_utterances(prepared: Path) -> None:
    ranks = [loader(prepared, rank=rank, world_size=3) for rank in range(3)]
    assert len({len(batches) for batches in ranks}) == 1
    names = [name for batches in ranks for batch in batches for name in batch.ids]
    assert len(names) == len(set(names)) == 30


def test_several_manifests(prepared: Path) -> None:
    paths = [prepared / f"fbank/tiny_cuts_{part}.jsonl.gz" for part in ("train-tiny", "dev-a")]
    batches = train_loader(
        paths,
        prepared / "lang_bpe_30",
        max_duration=8,
        max_tokens=1000,
        num_buckets=2,
        seed=5,
        epoch=1,
    )
    names = sorted(name for batch in batches for name in batch.ids)
    assert names == sorted(item["id"] for path in paths for item in read_items(path))


def test_noise_is_only_on_some(prepared: Path) -> None:
    noises = prepared / "fbank/tiny_cuts_dev-a.jsonl.gz"
    clean = {n: f for b in loader(prepared) for n, f in zip(b.ids, b.features, strict=True)}
    noisy = {
        n: f
        for b in loader(prepared, musan_path=noises, musan_probability=0.5)
        for n, f in zip(b.ids, b.features, strict=True)
    }
    same = sum(torch.equal(clean[name], noisy[name]) for name in clean)
    assert 5 < same < 25
    for missing in (None, prepared / "fbank/musan_cuts.jsonl.gz"):
        with pytest.raises(UserError, match=r"no MUSAN features .*\n.*--musan yes --stop-stage 2"):
            loader(prepared, musan_path=missing, musan_probability=0.5)


def test_features_on_the_fly(prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared / "manifests", data / "manifests")
    shutil.copytree(prepared / "lang_bpe_30", data / "lang_bpe_30")
    store_cuts(
        manifest_cuts(data / "manifests", "tiny", "train-tiny"),
        data / "fbank/tiny_cuts_train-tiny.jsonl.gz",
        speeds=(1.0, 0.9, 1.1),
    )
    for stored, computed in zip(loader(prepared), loader(data), strict=True):
        assert stored.ids == computed.ids
        torch.testing.assert_close(stored.features, computed.features, atol=0.02, rtol=0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_missing_features_name_utterance_and_stage(
    prepared: Path, tmp_path: Path, num_workers: int
) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    path = data / "fbank/tiny_cuts_train-tiny.jsonl.gz"
    items = [
        item | {"features": item["features"] | {"storage_path": "feats/x.lca"}}
        for item in read_items(path)
    ]
    write_items(path, items)
    with pytest.raises(UserError, match=r"feats/x.lca, the features of .*missing\n.*stage 2"):
        list(loader(data, num_workers=num_workers))


def test_moved_folder(prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "moved"
    shutil.copytree(prepared, tmp_path / "first")
    (tmp_path / "first").rename(data)
    path = data / "fbank/tiny_cuts_train-tiny.jsonl.gz"
    # As if it had been prepared in `first`.
    write_items(
        path,
        [
            item
            | {
                "features": item["features"]
                | {
                    "storage_path": item["features"]["storage_path"].replace(
                        str(prepared), str(tmp_path / "first")
                    )
                }
            }
            for item in read_items(path)
        ],
    )
    assert contents(loader(data)) == contents(loader(prepared))


def test_excluded_cuts_are_left_out_of_losses_only(prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    lang = data / "lang_bpe_30"
    for part in ("train-tiny", "dev-a"):
        path = data / f"fbank/tiny_cuts_{part}.jsonl.gz"
        name = next(read_items(path))["id"]
        excluded_path(lang, path).write_text(f"{name}\t9 tokens in 3 encoder frames\n")
    assert sum(map(len, loader(data))) == 29
    dev = data / "fbank/tiny_cuts_dev-a.jsonl.gz"
    assert sum(map(len, eval_loader(dev, lang, max_duration=10))) == 3
    assert sum(map(len, eval_loader(dev, max_duration=10))) == 4
    excluded_path(lang, dev).unlink()
    with pytest.raises(UserError, match=r"excluded_dev-a.txt is missing.*\n.*stage 3"):
        eval_loader(dev, lang, max_duration=10)


def test_evaluation(prepared: Path) -> None:
    dev = prepared / "fbank/tiny_cuts_dev-a.jsonl.gz"
    batches = eval_loader(dev, max_duration=3.0)
    first = contents(batches)
    assert contents(batches) == first
    assert contents(eval_loader(dev, max_duration=3.0, num_workers=2)) == first
    frames = [n for entry in first for n in entry[3]]
    assert frames == sorted(frames, reverse=True)
    assert all(entry[2] is None and all(entry[1]) for entry in first)  # texts, but no tokens
    parts = [eval_loader(dev, max_duration=3.0, rank=r, world_size=2) for r in range(2)]
    names = sorted(name for part in parts for entry in contents(part) for name in entry[0])
    assert names == sorted(name for entry in first for name in entry[0])


def test_too_long_for_a_batch(prepared: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"exceed data.max_duration of a batch, 1:"):
        loader(prepared, max_duration=1.0)
    cuts = sorted(read_items(prepared / TRAIN), key=lambda cut: cut["duration"])
    limit = cuts[-2]["duration"] + 1e-3
    assert labelled_ids(loader(prepared, max_duration=limit)) == sorted(c["id"] for c in cuts[:-1])
    assert f"{cuts[-1]['id']} has" in caplog.text
    # As without transcripts; nor is it chosen as one of few labelled ones.
    mixed = loader(prepared, max_duration=limit, labelled_hours=0.002, unlabelled_ratio=9.0)
    names = set(labelled_ids(mixed)) | set(unlabelled_ids(mixed))
    assert names == {cut["id"] for cut in cuts[:-1]}


def test_workers_are_sent_paths_not_contents(prepared: Path) -> None:
    assert len(pickle.dumps(loader(prepared)._loader.dataset)) < 2000


TRAIN = "fbank/tiny_cuts_train-tiny.jsonl.gz"


def hours_of_originals(data: Path) -> float:
    return sum(c["duration"] for c in read_items(data / TRAIN) if "_sp" not in c["id"]) / 3600


def labelled_ids(batches: Iterable[Batch]) -> list[str]:
    return sorted(name for batch in batches if batch.labelled for name in batch.ids)


def unlabelled_ids(batches: Iterable[Batch]) -> list[str]:
    return [name for batch in batches if not batch.labelled for name in batch.ids]


def test_labelled_hours_are_the_same_for_every_seed(prepared: Path) -> None:
    hours = hours_of_originals(prepared) / 2
    durations = {cut["id"]: cut["duration"] for cut in read_items(prepared / TRAIN)}
    batches = list(loader(prepared, labelled_hours=hours))
    chosen = labelled_ids(batches)
    assert all(batch.labelled for batch in batches)
    originals = [name for name in chosen if "_sp" not in name]
    total = sum(durations[name] for name in originals)
    assert hours * 3600 <= total < hours * 3600 + 2
    assert chosen == sorted(n + suffix for n in originals for suffix in ("", "_sp0.9", "_sp1.1"))
    others = loader(prepared, labelled_hours=hours, seed=99, epoch=2, max_duration=6.0)
    assert labelled_ids(others) == chosen
    with pytest.raises(UserError, match=r"5 labelled hours are asked for"):
        loader(prepared, labelled_hours=5.0)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.5])
def test_unlabelled_batches_among_labelled_ones(prepared: Path, ratio: float) -> None:
    dev = prepared / "fbank/tiny_cuts_dev-a.jsonl.gz"
    hours = hours_of_originals(prepared) / 2
    options: dict[str, Any] = dict(labelled_hours=hours, max_duration=4.0)
    alone = loader(prepared, **options)
    mixed = loader(prepared, **options, unlabelled_cuts=[dev], unlabelled_ratio=ratio)
    num_labelled = len(alone)
    num_unlabelled = round(ratio * num_labelled)
    assert num_unlabelled > 1
    everything = {item["id"] for path in (prepared / TRAIN, dev) for item in read_items(path)}
    pool = everything - set(labelled_ids(alone))

    drawn: list[str] = []
    for epoch in range(1, 6):
        mixed.set_epoch(epoch)
        alone.set_epoch(epoch)
        batches = list(mixed)
        # Labelled ones are those that there are without.
        assert contents(batch for batch in batches if batch.labelled) == contents(alone)
        unlabelled = [batch for batch in batches if not batch.labelled]
        assert len(unlabelled) == num_unlabelled
        for batch in unlabelled:
            assert batch.texts == [""] * len(batch)
            assert len(batch) * batch.features.shape[1] <= 401
        drawn += unlabelled_ids(batches)
    # No utterance twice before all others once, over the ends of epochs.
    assert len(drawn) > len(pool)
    for begin in range(0, len(drawn), len(pool)):
        part = drawn[begin : begin + len(pool)]
        assert len(part) == len(set(part))
        assert set(part) == pool or (begin + len(pool) > len(drawn) and set(part) < pool)


def test_all_ranks_have_the_same_kind_of_batch_at_a_step(prepared: Path) -> None:
    options: dict[str, Any] = dict(
        labelled_hours=hours_of_originals(prepared) / 2,
        unlabelled_ratio=1.5,
        world_size=3,
        max_duration=3.0,
    )
    ranks = [loader(prepared, rank=rank, **options) for rank in range(3)]
    for epoch in (1, 2, 3):
        for batches in ranks:
            batches.set_epoch(epoch)
        kinds = [[batch.labelled for batch in batches] for batches in ranks]
        assert kinds[0] == kinds[1] == kinds[2]
        assert {True, False} == set(kinds[0])
    ids = [name for batches in ranks for name in labelled_ids(batches)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resuming_a_mixture_gives_the_rest(prepared: Path, num_workers: int) -> None:
    options: dict[str, Any] = dict(
        labelled_hours=hours_of_originals(prepared) / 2, unlabelled_ratio=1.0, max_duration=4.0
    )
    uninterrupted = loader(prepared, **options)
    for epoch in (1, 2, 3):
        uninterrupted.set_epoch(epoch)
        whole = contents(uninterrupted)
    rest = loader(prepared, epoch=3, skip_batches=3, num_workers=num_workers, **options)
    assert contents(rest) == whole[3:]
    kinds = [batch.labelled for batch in loader(prepared, epoch=3, **options)][3:]
    assert [batch.labelled for batch in rest] == kinds


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
    copy = next(n for n in labelled_ids(loader(data, labelled_hours=hours)) if n.endswith("1.1"))
    excluded_path(data / "lang_bpe_30", data / TRAIN).write_text(f"{copy}\t9 tokens in 3 frames\n")
    mixed = loader(data, labelled_hours=hours, unlabelled_ratio=5.0)
    assert copy not in labelled_ids(mixed)
    assert copy.removesuffix("_sp1.1") in labelled_ids(mixed)
    assert copy in unlabelled_ids(mixed)
    with pytest.raises(UserError, match="there is no unlabelled audio"):
        loader(data, unlabelled_ratio=1.0)


def test_unlabelled_options_that_cannot_be(prepared: Path, tmp_path: Path) -> None:
    everything = hours_of_originals(prepared)
    with pytest.raises(UserError, match=r"there is no unlabelled audio.*\n.*labelled_hours"):
        loader(prepared, unlabelled_ratio=1.0, labelled_hours=everything)
    with pytest.raises(UserError, match="there is no unlabelled audio"):
        # The same cuts again.
        loader(prepared, unlabelled_ratio=1.0, unlabelled_cuts=[prepared / TRAIN])
    with pytest.raises(UserError, match="unlabelled_ratio is -1"):
        loader(prepared, unlabelled_ratio=-1.0)
    with pytest.raises(UserError, match="labelled_hours is nan"):
        loader(prepared, labelled_hours=float("nan"))
    other = tmp_path / Path(TRAIN).name
    shutil.copy(prepared / TRAIN, other)
    with pytest.raises(UserError, match="have the same name"):
        loader(prepared, unlabelled_ratio=1.0, unlabelled_cuts=[other])
