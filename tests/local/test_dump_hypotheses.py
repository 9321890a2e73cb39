"""`local/dump_hypotheses.py`, on a few utterances of noise."""

from __future__ import annotations

import logging
from pathlib import Path

import lhotse
import pytest

from mvqkd.data.loading.tokenizer import Tokenizer, train_tokenizer
from mvqkd.data.targets.hypothesis_store import HypothesisStore
from mvqkd.errors import UserError
from mvqkd.recipe.stages import hypotheses as stage
from mvqkd.storage.files import file_digest
from tests.local.programs import run
from tests.teachers import corpus
from tests.teachers.corpus import make_corpus

URI = "python:tests.teachers.corpus:writer"


@pytest.fixture
def lang(tmp_path: Path) -> Path:
    train_tokenizer(["AB BA", "THANK YOU"] * 9, 14, tmp_path / "lang")
    return tmp_path / "lang"


def dump(cuts: Path, lang: Path, output: Path, *options: object, teacher: str = URI) -> None:
    run(
        "dump_hypotheses",
        *("--cuts", cuts, "--teacher", teacher, "--lang-dir", lang, "--output", output),
        *("--num-workers", 0, "--shard-hours", 0.0005, *options),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.gz"))}


def test_texts_of_every_original_are_normalized_merged_and_measured(
    tmp_path: Path, cuts: Path, lang: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        dump(cuts, lang, tmp_path / "texts")
    store = HypothesisStore(tmp_path / "texts")
    found = {utterance.id: utterance for utterance in store}
    assert sorted(found) == [f"c{n}" for n in range(6)]  # no copies at other speeds
    assert store.info.teacher == URI and store.info.search["beam_size"] == 5
    assert store.info.tokenizer == file_digest(lang / "bpe.model")
    tokenizer = Tokenizer.load(lang)
    one = found["c1"]  # 1.3 s: 20800 samples, four words
    assert [h.text for h in one.hypotheses] == ["AB AB AB AB", "BA AB", "É"]
    assert [h.rank for h in one.hypotheses] == [1, 2, 3]
    assert one.hypotheses[0].written == ["ab ab ab ab .", "AB AB AB AB "]
    assert one.hypotheses[0].tokens == tokenizer.encode("AB AB AB AB")
    assert [item["reason"] for item in one.left_out] == ["repetition"]
    assert one.words == 2  # "ab ba"
    assert [h.errors for h in one.hypotheses] == [3, 2, 2]
    log = caplog.text
    assert "6 utterances, 0.00 h, to be transcribed by" in log
    assert "hours in 1 processes" in log
    assert "6 of 6 utterances have hypotheses, 3.00 each" in log
    assert "left out: repetition 6" in log
    assert "does not know, in so many hypotheses: 'É' 6" in log
    assert "word error rate of the first" in log


def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    tmp_path: Path, cuts: Path, lang: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump(cuts, lang, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    assert len(expected) > 2
    calls = []

    def failing(self: corpus.Writer, waveforms, lens):
        calls.append(len(lens))
        if len(calls) > 3:  # two of the estimate, one shard
            raise KeyboardInterrupt
        return [self._write(length) for length in lens.tolist()]

    with monkeypatch.context() as patch:
        patch.setattr(corpus.Writer, "__call__", failing)
        with pytest.raises(KeyboardInterrupt):
            dump(cuts, lang, tmp_path / "stopped")
    kept = contents(tmp_path / "stopped")
    assert 0 < len(kept) < len(expected)
    with pytest.raises(UserError, match="lacks"):
        HypothesisStore(tmp_path / "stopped")
    dump(cuts, lang, tmp_path / "stopped")
    assert contents(tmp_path / "stopped") == expected
    # Again, at no cost.
    monkeypatch.setattr(corpus.Writer, "__call__", failing)
    dump(cuts, lang, tmp_path / "stopped")


def test_a_damaged_shard_is_named_and_other_runs_are_refused(
    tmp_path: Path, cuts: Path, lang: Path
) -> None:
    output = tmp_path / "texts"
    dump(cuts, lang, output)
    shard = min(output.glob("*.gz"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{shard.name} is damaged") as error:
        dump(cuts, lang, output)
    assert error.value.step == "hypotheses"
    shard.unlink()
    dump(cuts, lang, output)
    assert shard.read_bytes() == whole
    for options in (
        ["--distillation.hypotheses.normalization.case", "lower"],
        ["--distillation.hypotheses.beam_size", 3],
        ["--distillation.hypotheses.limits.max_no_speech", 0.5],
    ):
        with pytest.raises(UserError, match="is of another run"):
            dump(cuts, lang, output, *options)
    # Tokens follow from texts: another tokenizer is no other run.
    train_tokenizer(["AB BA", "THANK YOU"] * 9, 15, tmp_path / "other")
    dump(cuts, tmp_path / "other", output)


def test_audio_that_is_too_long_for_the_teacher_is_counted(
    tmp_path: Path, lang: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cuts = make_corpus(tmp_path / "corpus", [0.5, 2.5])
    with caplog.at_level(logging.INFO):
        dump(cuts, lang, tmp_path / "texts")
    found = {utterance.id: utterance for utterance in HypothesisStore(tmp_path / "texts")}
    assert found["c1"].hypotheses == []
    assert found["c1"].left_out == [{"text": "", "reason": "too long for the teacher"}]
    assert "1 of 2 utterances have hypotheses" in caplog.text


def test_nothing_is_dumped_for_experiments_that_do_not_ask_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Inputs:
        from mvqkd.recipe.config.schema import ExperimentConfig

        config = ExperimentConfig()

    with caplog.at_level(logging.INFO):
        stage.dump_for_experiment(Inputs(), None)  # type: ignore[arg-type]
    assert "no hypotheses are dumped" in caplog.text


def test_hypotheses_become_a_lhotse_manifest_of_alternatives(
    tmp_path: Path, cuts: Path, lang: Path
) -> None:
    dump(cuts, lang, tmp_path / "texts")
    output = tmp_path / "alternatives.jsonl.gz"
    options = ("--cuts", cuts, "--hypotheses", tmp_path / "texts", "--output", output)
    run("export_hypotheses", *options)
    found = lhotse.CutSet.from_file(output)
    stored = {utterance.id: utterance for utterance in HypothesisStore(tmp_path / "texts")}
    original = lhotse.CutSet.from_file(cuts)
    assert [cut.id for cut in found] == [cut.id for cut in original]  # copies too
    for cut in found:
        expected = stored[cut.id.removesuffix("_sp0.9")].hypotheses
        assert [s.text for s in cut.supervisions] == [h.text for h in expected]
        assert [s.custom["log_prob"] for s in cut.supervisions] == [h.log_prob for h in expected]
        assert [s.id for s in cut.supervisions] == [f"{cut.id}-{h.rank}" for h in expected]
        assert all(s.custom["errors"] >= 0 for s in cut.supervisions)
        assert all(s.duration == cut.duration for s in cut.supervisions)
        assert cut.load_audio().shape[1] == cut.num_samples
