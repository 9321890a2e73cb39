from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet
from lhotse.serialization import deserialize_item

from mvqkd.data.loading.index import CutIndex, open_index
from mvqkd.data.loading.tokenizer import Tokenizer, train_tokenizer
from mvqkd.errors import UserError
from mvqkd.storage.jsonl import read_items, write_items


@pytest.fixture
def manifest(prepared: Path) -> Path:
    return prepared / "fbank/tiny_cuts_train-tiny.jsonl.gz"


@pytest.fixture
def lang(tmp_path: Path) -> Path:
    train_tokenizer(["THE CAT SAT ON A MAT WHILE TWO DOGS RAN"] * 3, 30, tmp_path / "lang")
    return tmp_path / "lang"


def check(index: CutIndex, manifest: Path, tokenizer: Tokenizer | None) -> None:
    cuts = list(CutSet.from_jsonl_lazy(manifest))
    assert [name.decode() for name in index.ids] == [cut.id for cut in cuts]
    for i, cut in enumerate(cuts):
        assert deserialize_item(index.cut(i)) == cut
        assert index.seconds[i] == cut.duration
        assert index.num_frames[i] == cut.num_frames
        expected = tokenizer.encode(cut.supervisions[0].text) if tokenizer else []
        assert index.tokens(i).tolist() == expected
        assert index.num_tokens[i] == len(expected)


def test_holds_the_manifest(manifest: Path, lang: Path) -> None:
    check(open_index(manifest, None), manifest, None)
    check(open_index(manifest, lang), manifest, Tokenizer.load(lang))  # made
    check(open_index(manifest, lang), manifest, Tokenizer.load(lang))  # read


def test_pickles_without_its_contents(manifest: Path, lang: Path) -> None:
    index = open_index(manifest, lang)
    assert len(pickle.dumps(index)) < 1000
    check(pickle.loads(pickle.dumps(index)), manifest, Tokenizer.load(lang))
    check(pickle.loads(pickle.dumps(open_index(manifest, None))), manifest, None)


def test_is_made_once(manifest: Path, lang: Path) -> None:
    open_index(manifest, lang)
    (path,) = lang.glob("*.h5")
    before = path.stat().st_mtime_ns
    os.utime(manifest)
    open_index(manifest, lang)
    assert path.stat().st_mtime_ns == before


def test_follows_the_manifest_and_the_model(manifest: Path, lang: Path, tmp_path: Path) -> None:
    copy = tmp_path / manifest.name
    copy.write_bytes(manifest.read_bytes())
    open_index(copy, lang)
    write_items(copy, list(read_items(manifest))[:7])
    assert len(open_index(copy, lang)) == 7
    train_tokenizer(["ANOTHER TEXT OF LETTERS SHOWN"] * 3, 25, lang)
    check(open_index(copy, lang), copy, Tokenizer.load(lang))


@pytest.mark.parametrize("damage", [b"", b"not HDF5", None])
def test_damaged_index_is_made_again(manifest: Path, lang: Path, damage: bytes | None) -> None:
    open_index(manifest, lang)
    (path,) = lang.glob("*.h5")
    path.write_bytes(path.read_bytes()[:1000] if damage is None else damage)
    check(open_index(manifest, lang), manifest, Tokenizer.load(lang))


def test_cuts_without_features(manifest: Path, tmp_path: Path) -> None:
    items = [{k: v for k, v in item.items() if k != "features"} for item in read_items(manifest)]
    path = tmp_path / "cuts.jsonl.gz"
    write_items(path, items)
    bare = open_index(path, None)
    np.testing.assert_array_equal(bare.num_frames, open_index(manifest, None).num_frames)


def test_without(manifest: Path) -> None:
    index = open_index(manifest, None)
    names = [name.decode() for name in index.ids]
    left = index.without({names[3], names[5], "of another part"})
    assert left.tolist() == [i for i in range(len(names)) if i not in (3, 5)]
    assert index.without(set()).tolist() == list(range(len(names)))


def test_bad_manifests(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        open_index(tmp_path / "none.jsonl.gz", None)
    item = next(read_items(manifest))
    path = tmp_path / "cuts.jsonl.gz"
    write_items(path, [item, item])
    with pytest.raises(UserError, match=f"has the id {item['id']} twice"):
        open_index(path, None)
    write_items(path, [item, {"id": "x"}])
    with pytest.raises(UserError, match="line 2 is not a cut"):
        open_index(path, None)
    with gzip.open(path, "wb") as file:
        file.write(b'{"id": "x", "durat\n')
    with pytest.raises(UserError, match="line 1"):
        open_index(path, None)
    path.write_bytes(manifest.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read"):
        open_index(path, None)
