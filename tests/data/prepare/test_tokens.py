from __future__ import annotations

import io
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece

from mvqkd.data.loading.excluded import read_excluded
from mvqkd.data.loading.index import open_index
from mvqkd.data.loading.tokenizer import Tokenizer, train_tokenizer
from mvqkd.data.prepare.tokens import (
    all_transcripts,
    check_tokens,
    prepare_tokenizer,
)
from mvqkd.errors import UserError
from mvqkd.storage.jsonl import read_items, write_items


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "data")
    return tmp_path / "data"


def set_text(path: Path, number: int, text: str) -> str:
    items = list(read_items(path))
    items[number]["supervisions"][0]["text"] = text
    write_items(path, items)
    return items[number]["id"]


def test_cuts_with_more_tokens_than_frames_are_excluded(data: Path) -> None:
    path, lang = data / "fbank/tiny_cuts_train-tiny.jsonl.gz", data / "lang_bpe_30"
    assert read_excluded(lang, path) == set()
    # In the order of the manifest: an utterance, its copies at speeds 0.9 and 1.1.
    name = next(read_items(path))["id"]
    index = open_index(path, lang)
    frames = ((index.num_frames[:3] - 3) // 4).tolist()
    assert frames[1] > frames[0] > frames[2]
    # As many tokens as the utterance has encoder frames: its fast copy has too few.
    encode = Tokenizer.load(lang).encode
    text = next(
        t for n in range(500) for t in ("A " * n, "B" + "A " * n) if len(encode(t)) == frames[0]
    )
    for number in range(3):
        set_text(path, number, text)
    check_tokens(path, lang)
    assert read_excluded(lang, path) == {f"{name}_sp1.1"}
    report = json.loads((lang / "excluded_train-tiny.report.json").read_text())
    entry = report["left_out"]["more tokens than encoder frames"]
    assert entry["count"] == 1
    assert entry["utterances"] == {
        f"{name}_sp1.1": f"{frames[0]} tokens in {frames[2]} encoder frames"
    }
    with pytest.raises(UserError, match=f"more tokens than encoder frames.*{name}"):
        check_tokens(path, lang, strict=True)


def test_cuts_without_room_for_blanks_between_equal_tokens_are_excluded_from_ctc(
    data: Path,
) -> None:
    path, lang = data / "fbank/tiny_cuts_dev-a.jsonl.gz", data / "lang_bpe_30"
    frames = ((open_index(path, lang).num_frames - 3) // 4).tolist()
    encode = Tokenizer.load(lang).encode
    texts = ["A " * n + "HHH" + tail for n in range(60) for tail in ("", " CAT")]

    def repeats(text: str) -> int:
        tokens = encode(text)
        return sum(x == y for x, y in pairwise(tokens))

    def needed(text: str) -> int:
        return len(encode(text)) + repeats(text)

    repeating = [text for text in texts if repeats(text) > 1]
    exact = next(text for text in repeating if needed(text) == frames[0])
    short = next(text for text in repeating if needed(text) == frames[1] + 1)
    long = next(text for text in texts if len(encode(text)) == frames[2] + 1)
    for number, text in enumerate((exact, short, long)):
        set_text(path, number, text)
    check_tokens(path, lang)
    names = [cut["id"] for cut in read_items(path)]
    assert read_excluded(lang, path) == {names[2]}
    assert read_excluded(lang, path, ctc=True) == {names[1], names[2]}
    report = json.loads((lang / "excluded_dev-a.report.json").read_text())
    (kind,) = (kind for kind in report["changed"] if "CTC" in kind)
    assert report["changed"][kind]["utterances"] == {
        names[1]: f"{len(encode(short))} tokens with {repeats(short)} repetitions in "
        f"{frames[1]} frames"
    }


def test_unknown_characters_are_counted(data: Path) -> None:
    path, lang = data / "fbank/tiny_cuts_dev-a.jsonl.gz", data / "lang_bpe_30"
    name = set_text(path, 0, "A ŽLUŤ CAT")
    check_tokens(path, lang)
    changed = json.loads((lang / "excluded_dev-a.report.json").read_text())["changed"]
    (kind,) = changed
    assert "characters" in kind
    unknown = changed[kind]["utterances"][name].split()
    assert {"Ž", "Ť"} <= set(unknown) and "A" not in unknown


def test_unk_in_a_transcript_is_no_unknown_character(data: Path) -> None:
    path, lang = data / "fbank/tiny_cuts_dev-a.jsonl.gz", data / "lang_bpe_30"
    set_text(path, 0, "A <unk> CAT")
    check_tokens(path, lang)
    assert not json.loads((lang / "excluded_dev-a.report.json").read_text())["changed"]


def test_tokenizer_is_trained_once(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    supervisions = data / "manifests/tiny_supervisions_train-tiny.jsonl.gz"
    lang = data / "lang_bpe_30"
    before = (lang / "bpe.model").stat().st_mtime_ns
    prepare_tokenizer(all_transcripts([supervisions]), 30, lang)
    assert (lang / "bpe.model").stat().st_mtime_ns == before
    write_items(supervisions, list(read_items(supervisions))[:8])
    prepare_tokenizer(all_transcripts([supervisions]), 25, lang)
    assert "trained again" in caplog.text
    with pytest.raises(UserError, match=r"missing\n.*prepare the manifests"):
        all_transcripts([data / "none.jsonl.gz"])


def test_a_model_that_was_brought_is_kept(data: Path) -> None:
    lang = data / "lang_bpe_30"
    texts = all_transcripts(sorted((data / "manifests").glob("tiny_superv*train*")))
    own = train_tokenizer(["THE QUICK BROWN FOX JUMPS OVER A LAZY DOG"], 30, data / "elsewhere")
    model = (data / "elsewhere" / "bpe.model").read_bytes()
    shutil.rmtree(lang)
    lang.mkdir()
    (lang / "bpe.model").write_bytes(model)
    for _ in range(2):
        assert prepare_tokenizer(texts, 30, lang).tokens == own.tokens
    # With other transcripts, too.
    prepare_tokenizer(texts * 2, 30, lang)
    assert (lang / "bpe.model").read_bytes() == model
    assert (lang / "tokens.txt").read_text().startswith("<blk> 0\n<sos/eos> 1\n<unk> 2\n")
    with pytest.raises(UserError, match="has 30 tokens, not 31"):
        prepare_tokenizer(texts, 31, lang)
    with pytest.raises(UserError, match=r"cannot spell 2 of .* does not have Ü é\n.*bring"):
        prepare_tokenizer([*texts, "CAFé", "ÜBER é"], 30, lang)


def test_a_model_that_was_brought_and_normalizes_says_so(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lang = data / "brought"
    lang.mkdir()
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["FINE 1⁄2 A CAT"] * 9),
        model_writer=model,
        vocab_size=20,
        model_type="bpe",
        user_defined_symbols=["<blk>", "<sos/eos>"],
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    (lang / "bpe.model").write_bytes(model.getvalue())
    prepare_tokenizer(["FINE", "½ CAT"], 20, lang)
    assert "changes 1 of 2 training transcripts: '½ CAT' to '1⁄2 CAT'" in caplog.text


def test_a_training_of_tokens_that_was_killed_is_no_model_that_was_brought(data: Path) -> None:
    lang = data / "lang_bpe_30"
    texts = all_transcripts(sorted((data / "manifests").glob("tiny_superv*train*")))
    model = (lang / "bpe.model").read_bytes()
    (lang / "bpe.report.json").write_text('{"vocab_size": 30}')
    train_tokenizer(["THE QUICK BROWN FOX JUMPS OVER A LAZY DOG"], 30, lang)
    prepare_tokenizer(texts, 30, lang)
    assert (lang / "bpe.model").read_bytes() == model
