from __future__ import annotations

import io
import pickle
import re
from pathlib import Path

import pytest
import sentencepiece

from mvqkd.data.loading.tokenizer import Tokenizer, train_tokenizer
from mvqkd.data.prepare.tokens import character_vocabulary, prepare_tokenizer
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


def rich(tmp_path: Path, rule: str) -> Tokenizer:
    """A model that normalizes as the rule says, as it may be brought."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(RICH),
        model_writer=model,
        vocab_size=70,
        model_type="bpe",
        character_coverage=1.0,
        normalization_rule_name=rule,
        user_defined_symbols=["<blk>", "<sos/eos>"],
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return Tokenizer(model.getvalue())


RICH = ["½ … ﬁne ＡＢ Ⅷ", "می‌خواهم کتاب", "น้ำ ทำ", "cafe\u0301 caf\u00e9", "x\u00a0y z\u200bw"] * 3
"""English, Persian with a joiner, Thai, both compositions of an accent, odd spaces."""


def test_text_survives_in_any_script(tmp_path: Path) -> None:
    """A perfect recognizer has no errors: identity, unless a model normalizes, on both sides."""
    ours = train_tokenizer(RICH, 70, tmp_path)
    for text in RICH:
        assert ours.decode(ours.encode(text)) == ours.normalize(text) == text
    brought = rich(tmp_path, "nmt_nfkc")
    for text in RICH:
        spelled = brought.normalize(text)
        assert brought.decode(brought.encode(text)) == spelled
    assert brought.normalize("½ …") == "1⁄2 ..."  # on the side of the references, too
    assert brought.normalize("می‌خواهم") != "می‌خواهم"


def test_unk_in_transcripts_is_one_token(tmp_path: Path) -> None:
    tokenizer = train_tokenizer([*TEXTS, "THE <unk> SAT"], 40, tmp_path)
    assert not {"<", ">", "u", "k"} & set("".join(tokenizer.tokens[3:]))
    the, sat = tokenizer.encode("THE"), tokenizer.encode("SAT")
    for text in ("THE <unk> SAT", "THE<unk>SAT"):
        assert tokenizer.encode(text) == [*the, 2, *sat]
        assert tokenizer.decode(tokenizer.encode(text)) == tokenizer.normalize(text)
        assert tokenizer.normalize(text) == "THE <unk> SAT"
        assert tokenizer.unknown(text) == set()
    assert tokenizer.encode("<unk>") == [2]
    assert tokenizer.decode([2, 2, *the]) == "<unk> <unk> THE"


@pytest.mark.parametrize("token", ["<blk>", "<sos/eos>"])
def test_tokens_that_are_no_text_are_refused(tmp_path: Path, token: str) -> None:
    tokenizer = train_tokenizer(TEXTS, 40, tmp_path)
    with pytest.raises(UserError, match=f"A {token} DOG.*has {token}"):
        tokenizer.encode(f"A {token} DOG")


def test_unknown_characters_are_named(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 40, tmp_path)
    assert tokenizer.unknown("THE CAT") == set()
    assert tokenizer.unknown("the ŽLUŤ CAT") == {"t", "h", "e", "Ž", "Ť"} | (
        set("LU") - set("".join(TEXTS))
    )


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


def test_a_vocabulary_of_characters_has_nothing_but_characters(tmp_path):
    texts = ["IT'S A FINE DAY", "IN THE <unk> INN", "A FINE INN IN A FINE DAY"] * 5
    size = character_vocabulary(texts)
    tokenizer = prepare_tokenizer(texts, size, tmp_path)
    characters = {"▁", *"ADEFHINSTY'"}
    assert set(tokenizer.tokens[3:]) == characters and tokenizer.vocab_size == size
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("A FINE DAY")) == len("_A_FINE_DAY")
