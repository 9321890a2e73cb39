"""One normalization of transcripts, the same for training and for references."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mvqkd.data.prepare.normalization import normalize
from mvqkd.storage.jsonl import read_items
from tests.data.prepare.manifests import report, run

TEXTS = {
    "plain": "A CAT",
    "half": "½ … ﬁne",
    "joiner": "می‌خواهم",
    "accent": "cafe\u0301",
    "unk": "A <unk> CAT",
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for split in ("train", "dev"):
        folder = tmp_path / "corpus" / split / "s/c"
        folder.mkdir(parents=True)
        lines = [f"{split}-{name} {text}\n" for name, text in TEXTS.items()]
        for name in TEXTS:
            soundfile.write(folder / f"{split}-{name}.wav", np.zeros(16000), 16000)
        (folder / "s-c.trans.txt").write_text("".join(lines), encoding="utf-8")
    return tmp_path / "corpus"


def prepared(data: Path, split: str) -> dict[str, str]:
    items = read_items(data / f"manifests/x_supervisions_{split}.jsonl.gz")
    return {item["id"].removeprefix(f"{split}-"): item["text"] for item in items}


def test_identity_unless_asked(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(corpus, tmp_path, ["train"], dev=["dev"])
    for split in ("train", "dev"):
        assert prepared(tmp_path, split) == TEXTS
        assert report(tmp_path, split)["changed"] == {}
    of_train, of_dev = [line for line in caplog.messages if "NFC" in line]
    words = "1 of 5 transcripts are not in Unicode's form NFC, that of {}-accent"
    assert words.format("train") in of_train and words.format("dev") in of_dev
    caplog.clear()
    run(corpus, tmp_path, ["train"], dev=["dev"], text_normalization="nfc")
    assert not [line for line in caplog.messages if "NFC" in line]


@pytest.mark.parametrize(
    ("name", "half", "accent"), [("nfc", "½ … ﬁne", "caf\u00e9"), ("nfkc", "1⁄2 ... fine", "café")]
)
def test_what_is_asked_for_is_done_in_every_split(
    corpus: Path, tmp_path: Path, name: str, half: str, accent: str
) -> None:
    run(corpus, tmp_path, ["train"], dev=["dev"])
    run(corpus, tmp_path, ["train"], dev=["dev"], text_normalization=name)  # made again
    for split in ("train", "dev"):
        assert prepared(tmp_path, split) == TEXTS | {"half": half, "accent": accent}
        changed = report(tmp_path, split)["changed"][f"transcript normalized, {name}"]
        assert f"{split}-accent" in changed and f"{split}-plain" not in changed
        path = tmp_path / f"manifests/x_{split}.report.json"
        assert json.loads(path.read_text())["text_normalization"] == name


def test_tokens_that_are_no_text_are_left_out(corpus: Path, tmp_path: Path) -> None:
    wrong = {"half": "A <blk>", "joiner": "A <sos/eos> B", "accent": "A▁B", "unk": "A\0B"}
    lines = [f"train-{name} {text}\n" for name, text in (TEXTS | wrong).items()]
    (corpus / "train/s/c/s-c.trans.txt").write_text("".join(lines), encoding="utf-8")
    run(corpus, tmp_path, ["train"])
    assert prepared(tmp_path, "train") == {"plain": "A CAT"}
    assert report(tmp_path, "train")["left_out"] == {
        "reserved characters in the transcript": [f"train-{name}" for name in sorted(wrong)]
    }


def test_normalizations_are_unicodes() -> None:
    assert normalize(" ｶﾞ \u3000 ①\u00a0", "nfkc") == "ガ 1"
    assert normalize("\u212b", "nfc") == "\u00c5"
    assert normalize("\u212b\u2028x", "identity") == "\u212b x"
