"""What is stored of a teacher's texts, and how files that are not whole are refused."""

from __future__ import annotations

import gzip
import math
import random
from pathlib import Path

import numpy as np
import pytest

from mvqkd.data.targets.hypothesis_records import (
    StoredHypothesis,
    TextLimits,
    UtteranceHypotheses,
    Written,
    collect,
    compression_ratio,
)
from mvqkd.data.targets.hypothesis_store import (
    ENDING,
    HypothesesInfo,
    HypothesesWriter,
    HypothesisStore,
)
from mvqkd.data.targets.hypothesis_weights import hypothesis_weights
from mvqkd.errors import UserError
from mvqkd.storage.ragged import shard_path

INFO = HypothesesInfo("python:x:y", {"beam_size": 2}, {"case": "upper"}, {}, "0" * 64)


def gather(*written: Written, seconds: float = 10.0, **options) -> UtteranceHypotheses:
    return collect("a", seconds, written, normalize=plain, limits=TextLimits(), **options)


def plain(text: str) -> str:
    return " ".join(text.upper().replace(".", " ").replace(",", " ").split())


def test_texts_that_become_equal_are_merged_and_their_probabilities_added() -> None:
    found = gather(
        Written("Hello.", math.log(0.5), 3),
        Written("hallo", math.log(0.2), 2),
        Written("hello", math.log(0.1), 2),
        Written("Hello", math.log(0.15), 2),
    )
    assert [(h.text, h.rank) for h in found.hypotheses] == [("HELLO", 1), ("HALLO", 2)]
    assert found.hypotheses[0].log_prob == pytest.approx(math.log(0.75))
    assert found.hypotheses[0].written == ["Hello.", "hello", "Hello"]
    assert found.hypotheses[0].length == 3
    assert found.left_out == []


def test_repetitions_and_inventions_are_left_out_and_named() -> None:
    loop = "thank you " * 200
    assert compression_ratio(loop) > 10 > 2.4 > compression_ratio("a text as people speak it")
    found = gather(
        Written(loop, -1.0, 400, finished=False),
        Written("no no no no", -1.0, 4),
        Written("it did not end", -1.0, 4, finished=False),
        Written("...", -0.1, 2),
        Written("what nobody said", -4.1, 4),
        seconds=500.0,
    )
    assert [h.text for h in found.hypotheses] == ["NO NO NO NO"]
    reasons = [item["reason"] for item in found.left_out]
    assert reasons == ["repetition", "unfinished", "empty", "improbable"]
    short = gather(Written("far too many words for a second", -0.1, 8), seconds=1.0)
    assert short.left_out[0]["reason"] == "too many characters"
    silent = gather(Written("Thanks for watching.", -0.1, 5), no_speech=0.9)
    assert silent.hypotheses == [] and silent.left_out[0]["reason"] == "no speech"
    odd = gather(Written("no number", math.nan, 5))
    assert odd.left_out[0]["reason"] == "improbable"


def test_confidence_is_of_a_token() -> None:
    assert StoredHypothesis("A", math.log(0.25), 1, 2, []).confidence == pytest.approx(0.5)
    assert StoredHypothesis("", 0.0, 1, 0, []).confidence == 1.0


@pytest.mark.parametrize("weighting", ["one_best", "equal", "posterior", "wer"])
def test_weights_sum_to_one(weighting: str) -> None:
    log_probs, rates = [-1.0, -2.0, -900.0], [0.5, 0.0, 0.1]
    weights = hypothesis_weights(log_probs, weighting, temperature=0.7, error_rates=rates)  # type: ignore[arg-type]
    assert weights.sum() == pytest.approx(1.0) and (weights >= 0).all()
    scores = {
        "one_best": [1, 0, 0],
        "equal": [1, 1, 1],
        "posterior": np.exp(np.array(log_probs) / 0.7),
        "wer": np.exp(-np.array(rates) / 0.7),
    }[weighting]
    np.testing.assert_allclose(weights, np.array(scores) / np.sum(scores))


def test_temperatures_lead_from_the_best_to_equal_weights() -> None:
    sharp = hypothesis_weights([-1.0, -2.0], "posterior", temperature=0.01)
    flat = hypothesis_weights([-1.0, -2.0], "posterior", temperature=1e6)
    np.testing.assert_allclose(sharp, [1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(flat, [0.5, 0.5], atol=1e-6)
    unknown = hypothesis_weights([-1.0, -2.0], "wer", temperature=0.1)
    np.testing.assert_allclose(unknown, [0.5, 0.5])
    assert len(hypothesis_weights([], "equal")) == 0


def utterances(count: int, first: int = 0) -> list[UtteranceHypotheses]:
    made = []
    for number in range(first, first + count):
        hypotheses = [StoredHypothesis(f"ÄB {number}", -1.5, 1, 4, ["Äb"], [3, 4], 1)]
        left_out = [{"text": "x", "reason": "empty"}]
        made.append(UtteranceHypotheses(f"u{number}", 1.5, hypotheses, left_out, 0.25, 2))
    return made


def write(path: Path, items: list[UtteranceHypotheses], info: HypothesesInfo = INFO) -> None:
    with HypothesesWriter(path, info) as writer:
        for item in items:
            writer.write(item)


def test_a_store_gives_back_what_was_written(tmp_path: Path) -> None:
    for index in range(2):
        path = shard_path(tmp_path, "hypotheses-train", index, 2, ENDING)
        write(path, utterances(3, 3 * index))
    store = HypothesisStore(tmp_path)
    assert list(store) == utterances(6)
    assert store.info == INFO and store.num_bytes > 0
    assert store.verify(f"u{n}" for n in range(6)) == utterances(6)
    with pytest.raises(UserError, match="1 are in one of them alone, as u6"):
        store.verify(f"u{n}" for n in range(7))
    again = tmp_path / "again" / f"one.{ENDING}"
    write(again, utterances(3))
    assert again.read_bytes() == shard_path(tmp_path, "hypotheses-train", 0, 2, ENDING).read_bytes()


def test_files_of_other_runs_are_refused(tmp_path: Path) -> None:
    write(shard_path(tmp_path, "h", 0, 2, ENDING), utterances(2))
    with pytest.raises(UserError, match=r"lacks 1 of 2 shards, as h-00001-of-00002\.jsonl\.gz"):
        HypothesisStore(tmp_path)
    other = HypothesesInfo("hf:other", {}, {}, {})
    write(shard_path(tmp_path, "h", 1, 2, ENDING), utterances(2, 2), other)
    with pytest.raises(UserError, match="is of another run"):
        HypothesisStore(tmp_path)
    write(shard_path(tmp_path, "h", 1, 2, ENDING), utterances(2, 1))
    with pytest.raises(UserError, match="u1 twice"):
        list(HypothesisStore(tmp_path))
    write(tmp_path / f"stray.{ENDING}", utterances(1))
    with pytest.raises(UserError, match=r"stray\.jsonl\.gz, which is no shard"):
        HypothesisStore(tmp_path)
    with pytest.raises(UserError, match="is missing"):
        HypothesisStore(tmp_path / "nowhere")
    assert INFO.same_texts(HypothesesInfo(**{**vars(INFO), "tokenizer": None}))
    assert not INFO.same_texts(other)


def test_a_store_that_was_cut_off_or_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"one.{ENDING}"
    write(path, utterances(20))
    whole = path.read_bytes()
    generator = random.Random(0)
    for _ in range(30):
        place = generator.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.randrange(8)
        path.write_bytes(bytes(damaged))
        try:
            found = list(HypothesisStore(path))
        except UserError as error:
            assert str(path) in str(error)
        else:  # of gzip's header, which says nothing of the contents
            assert found == utterances(20) and place < 10
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="is damaged"):
            list(HypothesisStore(path))
    lines = gzip.decompress(whole).splitlines(keepends=True)
    for text in (lines[:-1], lines[:-3] + lines[-1:], [*lines, b"{}\n"], [b"{}\n", *lines]):
        path.write_bytes(gzip.compress(b"".join(text)))
        with pytest.raises(UserError, match="is damaged"):
            list(HypothesisStore(path))


def test_a_writer_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / f"one.{ENDING}"
    with pytest.raises(RuntimeError), HypothesesWriter(path, INFO) as writer:
        writer.write(utterances(1)[0])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
