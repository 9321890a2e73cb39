from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch

from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.batch_loader import eval_loader
from mvqkd.data.loading.excluded import excluded_path
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.data.prepare.fbank import manifest_cuts, store_cuts
from mvqkd.distillation import LossContext
from mvqkd.errors import UserError
from mvqkd.models import FULL_CONTEXT
from mvqkd.storage.jsonl import read_items, write_items
from tests.data.loading.loaders import (
    TRAIN,
    contents,
    flat,
    labelled_ids,
    loader,
    unlabelled_ids,
)


def test_batches_hold_the_utterances(prepared: Path) -> None:
    manifest = prepared / "fbank/tiny_cuts_train-tiny.jsonl.gz"
    cuts = {item["id"]: item for item in read_items(manifest)}
    tokenizer = Tokenizer.load(prepared / "lang_bpe_30")
    batches = flat(loader(prepared))
    assert len(batches) > 3
    assert sorted(name for batch in flat(batches) for name in batch.ids) == sorted(cuts)
    for batch in batches:
        assert batch.features.dtype == torch.float32
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
        for one, other in zip(flat(plain), flat(padded), strict=True):
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
    rest = loader(prepared, epoch=2, first=3, num_workers=num_workers)
    assert len(rest) == len(whole) - 3
    assert contents(rest) == whole[3:]
    # An iteration that was given up half way leaves nothing behind.
    rest.set_epoch(2)
    next(iter(rest))
    rest.set_epoch(2, first=1)
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
        batches.set_epoch(1, first=len(batches))
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
    assert len({len(steps) for steps in ranks}) == 1
    names = [name for steps in ranks for batch in flat(steps) for name in batch.ids]
    assert len(names) == len(set(names)) == 30


def test_several_manifests(prepared: Path) -> None:
    paths = [prepared / f"fbank/tiny_cuts_{part}.jsonl.gz" for part in ("train-tiny", "dev-a")]
    batches = loader(prepared, cuts=paths)
    names = sorted(name for batch in flat(batches) for name in batch.ids)
    assert names == sorted(item["id"] for path in paths for item in read_items(path))


def test_noise_is_only_on_some(prepared: Path) -> None:
    noises = prepared / "fbank/tiny_cuts_dev-a.jsonl.gz"
    clean = {n: f for b in flat(loader(prepared)) for n, f in zip(b.ids, b.features, strict=True)}
    noisy = {
        n: f
        for b in flat(loader(prepared, musan_path=noises, musan_probability=0.5))
        for n, f in zip(b.ids, b.features, strict=True)
    }
    same = sum(torch.equal(clean[name], noisy[name]) for name in clean)
    assert 5 < same < 25


def test_features_on_the_fly(prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared / "manifests", data / "manifests")
    shutil.copytree(prepared / "lang_bpe_30", data / "lang_bpe_30")
    shutil.copy(prepared / "data.json", data)
    store_cuts(
        manifest_cuts(DataFolder(data), "train-tiny"),
        data / "fbank/tiny_cuts_train-tiny.jsonl.gz",
        speeds=(1.0, 0.9, 1.1),
    )
    for stored, computed in zip(flat(loader(prepared)), flat(loader(data)), strict=True):
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
    with pytest.raises(
        UserError, match=r"feats/x.lca, the features .*missing\n.*compute the features"
    ):
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
        excluded_path(lang, path).with_suffix(".report.json").unlink()
    assert sum(map(len, flat(loader(data)))) == 29
    dev = data / "fbank/tiny_cuts_dev-a.jsonl.gz"
    assert sum(map(len, eval_loader(dev, lang, max_duration=10))) == 3
    assert sum(map(len, eval_loader(dev, max_duration=10))) == 4
    excluded_path(lang, dev).unlink()
    with pytest.raises(UserError, match=r"excluded_dev-a.txt is missing.*\n.*prepare the tokens"):
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


def test_too_long_for_a_step(prepared: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"exceed the step_duration, 1:"):
        loader(prepared, step_duration=1.0)
    cuts = sorted(read_items(prepared / TRAIN), key=lambda cut: cut["duration"])
    limit = cuts[-2]["duration"] + 1e-3
    assert labelled_ids(loader(prepared, step_duration=limit)) == sorted(c["id"] for c in cuts[:-1])
    assert f"{cuts[-1]['id']} has" in caplog.text
    # As without transcripts; nor is it chosen as one of few labelled ones.
    mixed = loader(prepared, step_duration=limit, labelled_hours=0.002, unlabelled_ratio=9.0)
    names = set(labelled_ids(mixed)) | set(unlabelled_ids(mixed))
    assert names == {cut["id"] for cut in cuts[:-1]}


def test_workers_are_sent_paths_not_contents(prepared: Path) -> None:
    assert len(pickle.dumps(loader(prepared)._loader.dataset)) < 2000


@pytest.mark.parametrize("kept", [False, True])
def test_features_without_noise_are_kept_or_refused(prepared: Path, kept: bool) -> None:
    noises = prepared / "fbank/tiny_cuts_dev-a.jsonl.gz"
    options = dict(musan_path=noises, musan_probability=1.0, keep_clean=kept)
    plain = flat(loader(prepared))
    for batch, without in zip(flat(loader(prepared, **options)), plain, strict=True):
        assert batch.ids == without.ids and not torch.equal(batch.features, without.features)
        context = LossContext(lambda *_: None, batch, batch.features, FULL_CONTEXT)  # type: ignore
        if kept:
            assert torch.equal(context.clean_features, without.features)
        else:
            with pytest.raises(ValueError, match="keep_clean"):
                _ = context.clean_features
