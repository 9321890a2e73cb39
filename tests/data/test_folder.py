"""What a folder of prepared data knows of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvqkd.data.folder import DataFolder
from mvqkd.errors import UserError

SPLITS = {"train": ["train-a"], "dev": ["dev_b"], "test": [], "unlabelled": []}


def test_what_stages_note_stands_together(tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data")
    with pytest.raises(UserError, match=r"data\.json.* is missing\n.*prepare the manifests"):
        data.lang()
    data.record_splits(tmp_path / "corpus", "x", SPLITS)
    with pytest.raises(UserError, match=r"no tokens yet\n.*prepare the tokens"):
        data.lang()
    assert data.lang(500) == data.root / "lang_bpe_500"
    assert data.lang(500, labelled_hours=10.0) == data.root / "lang_bpe_500_10h"
    assert data.lang(500, labelled_hours=0.004) == data.root / "lang_bpe_500_0.004h"
    data.record_vocab_size(40)
    data.record_vocab_size(30)
    assert data.lang() == data.root / "lang_bpe_30"
    data.record_splits(tmp_path / "corpus", "y", SPLITS | {"unlabelled": ["c"]})
    again = DataFolder(data.root)
    assert (again.prefix, again.vocab_size) == ("y", 30)
    assert again.splits() == SPLITS | {"unlabelled": ["c"]}
    assert again.cuts("dev_b") == data.root / "fbank/y_cuts_dev_b.jsonl.gz"
    assert again.manifest("recordings", "c") == data.root / "manifests/y_recordings_c.jsonl.gz"


def test_what_is_noted_again_is_not_written_again(tmp_path: Path) -> None:
    data = DataFolder(tmp_path)
    data.record_splits(tmp_path / "corpus", "x", SPLITS)
    before = (tmp_path / "data.json").stat().st_mtime_ns
    data.record_splits(tmp_path / "corpus", "x", SPLITS)
    assert (tmp_path / "data.json").stat().st_mtime_ns == before


@pytest.fixture
def old(tmp_path: Path) -> DataFolder:
    """As version 0.1.0 left it."""
    manifests = tmp_path / "data/manifests"
    manifests.mkdir(parents=True)
    (manifests / "parts.json").write_text(json.dumps({"corpus": "/corpus", **SPLITS}))
    for split in ("train-a", "dev_b"):
        for kind in ("recordings", "supervisions"):
            (manifests / f"my_speech_{kind}_{split}.jsonl.gz").touch()
    (manifests / "musan_recordings_noise.jsonl.gz").touch()
    (tmp_path / "data/lang_bpe_30").mkdir()
    return DataFolder(tmp_path / "data")


def test_a_folder_of_version_0_1_0_is_read(old: DataFolder) -> None:
    assert old.splits() == SPLITS
    assert (old.prefix, old.vocab_size) == ("my_speech", 30)
    with pytest.raises(UserError, match="another corpus, /corpus"):
        old.check_corpus(Path("/other"))
    old.check_corpus(Path("/corpus"))
    old.record_vocab_size(40)
    assert (old.root / "data.json").is_file()
    assert (old.splits(), old.prefix, old.vocab_size) == (SPLITS, "my_speech", 40)


def test_what_an_old_folder_does_not_tell_is_not_guessed(old: DataFolder) -> None:
    (old.root / "lang_bpe_40").mkdir()
    assert old.lang(30).name == "lang_bpe_30"
    with pytest.raises(UserError, match=r"no tokens yet\n.*prepare the tokens"):
        old.lang()
    (old.manifests / "other_recordings_dev_b.jsonl.gz").touch()
    with pytest.raises(UserError, match=r"the prefix of file names\n.*prepare the manifests"):
        old.cuts("dev_b")
