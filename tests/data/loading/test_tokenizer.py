from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from mvqkd.data.loading.tokenizer import Tokenizer, train_tokenizer
from mvqkd.data.prepare.tokens import prepare_tokenizer
from mvqkd.errors import UserError

TEXTS = ["THE CAT SAT ON THE MAT", "A DOG'S LIFE", "THE DOG RAN", "CATS AND DOGS"] * 5


def test_special_tokens_come_first_and_text_survives(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 40, tmp_path)
    assert tokenizer.vocab_size == 40 == len(tokenizer.tokens)
    assert tokenizer.tokens[:3] == ["<blk>", "<sos/eos>", "<unk>"]
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert min(ids) > 2
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([0, *ids, 1]) == text
    assert 2 in tokenizer.encode("THE Ж")


def test_tokens_txt_is_icefalls(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 40, tmp_path)
    lines = (tmp_path / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["<blk> 0", "<sos/eos> 1", "<unk> 2"]
    assert [line.rsplit(" ", 1) for line in lines] == [
        [token, str(i)] for i, token in enumerate(tokenizer.tokens)
    ]


def test_is_deterministic_and_reloads(tmp_path: Path) -> None:
    train_tokenizer(TEXTS, 40, tmp_path / "a")
    train_tokenizer(iter(TEXTS), 40, tmp_path / "b")
    assert (tmp_path / "a/bpe.model").read_bytes() == (tmp_path / "b/bpe.model").read_bytes()
    loaded = Tokenizer.load(tmp_path / "a")
    assert pickle.loads(pickle.dumps(loaded)).encode(TEXTS[0]) == loaded.encode(TEXTS[0])


@pytest.mark.parametrize("size", [5, 5000])
def test_impossible_size_names_a_possible_one(tmp_path: Path, size: int) -> None:
    with pytest.raises(UserError, match="tokens or") as caught:
        train_tokenizer(TEXTS, size, tmp_path)
    assert not list(tmp_path.iterdir())
    possible = int(re.findall(r"(\d+) tokens or", str(caught.value))[0])
    assert train_tokenizer(TEXTS, possible, tmp_path).vocab_size == possible


def test_very_long_transcripts_count(tmp_path: Path) -> None:
    # sentencepiece leaves out long lines silently by default.
    tokenizer = train_tokenizer([*TEXTS, "ZEBRA " * 1000], 40, tmp_path)
    assert 2 not in tokenizer.encode("ZEBRA")


def test_load_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing.*\n.*prepare the tokens"):
        Tokenizer.load(tmp_path)
    (tmp_path / "bpe.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="not a sentencepiece model"):
        Tokenizer.load(tmp_path)


def test_another_model_than_the_reported_one_is_refused(tmp_path: Path) -> None:
    texts = ["THE CAT SAT", "A DOG RAN"] * 3
    prepare_tokenizer(texts, 20, tmp_path)
    path, report = tmp_path / "bpe.model", tmp_path / "bpe.report.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    with pytest.raises(UserError, match=r"bpe\.model is damaged, or is another") as caught:
        Tokenizer.load(tmp_path)
    assert str(caught.value.advice).startswith("delete it;")
    path.unlink()
    prepare_tokenizer(texts, 20, tmp_path)  # as the remedy says
    assert path.read_bytes() == whole
    report.unlink()
    prepare_tokenizer(texts, 20, tmp_path)  # taken for one that was brought
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError) as caught:
        Tokenizer.load(tmp_path)
    assert str(caught.value.advice).startswith("put a copy of that one back;")
    report.write_text("{")
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"bpe\.report\.json is damaged"):
        prepare_tokenizer(texts, 20, tmp_path)
    assert path.read_bytes() == whole  # not trained over
