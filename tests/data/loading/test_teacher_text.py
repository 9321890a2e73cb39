"""From stored texts of a teacher to the hypotheses of batches."""

from __future__ import annotations

import io
import itertools
import logging
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch

from mvqkd.data.loading.batch_loader import BatchLoader
from mvqkd.data.loading.epochs import TrainingPlan
from mvqkd.data.loading.limits import BatchLimits, StepSize
from mvqkd.data.loading.pool import TrainingPool, open_pool
from mvqkd.data.loading.teacher_text import TeacherText, TextChoice
from mvqkd.data.loading.text_pool import with_teacher_text
from mvqkd.data.loading.tokenizer import Tokenizer, train_tokenizer
from mvqkd.data.targets.hypothesis_records import StoredHypothesis, UtteranceHypotheses
from mvqkd.data.targets.hypothesis_weights import hypothesis_weights
from mvqkd.errors import UserError
from tests.data.loading.loaders import TRAIN

TEXTS = ["ABBA CAB", "A CAB", "ABBA", "BACK", "CAB BACK"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(TEXTS * 5, 9, tmp_path_factory.mktemp("lang"))


def utterance(
    *texts: str, name: str = "a", errors: Sequence[int] | None = None, words: int | None = None
) -> UtteranceHypotheses:
    hypotheses = [
        StoredHypothesis(text, -1.0 - rank, rank + 1, 4, [text], [7, 7], None)
        for rank, text in enumerate(texts)
    ]
    for hypothesis, count in zip(hypotheses, errors or [], strict=False):
        hypothesis.errors = count
    return UtteranceHypotheses(name, 1.0, hypotheses, [], None, words)


def text_of(tokenizer: Tokenizer, *utterances: UtteranceHypotheses, **choice) -> TeacherText:
    return TeacherText(utterances, tokenizer, TextChoice(**choice), stored_tokens=False)


def found(text: TeacherText, *arguments) -> dict[tuple[int, ...], float]:
    return {tuple(item.tokens.tolist()): item.weight for item in text(*arguments)}


def encoded(tokenizer: Tokenizer, *texts: str) -> list[tuple[int, ...]]:
    return [tuple(tokenizer.encode(text)) for text in texts]


@pytest.mark.parametrize("weighting", ["one_best", "equal", "posterior", "wer"])
def test_weights_are_those_of_the_k_best_and_sum_to_one(
    tokenizer: Tokenizer, weighting: str
) -> None:
    stored = utterance(*TEXTS[:4], errors=[1, 0, 2, 0], words=2)
    text = text_of(tokenizer, stored, num_hypotheses=3, weighting=weighting, temperature=0.8)
    weights = hypothesis_weights(
        [-1.0, -2.0, -3.0],
        weighting,  # type: ignore[arg-type]
        temperature=0.8,
        error_rates=[0.5, 0.0, 1.0],
    )
    rows = found(text, "a", np.array([5], np.int32), 100)
    expected = dict(zip(encoded(tokenizer, *TEXTS[:3]), weights.tolist(), strict=True))
    assert rows == pytest.approx({key: value for key, value in expected.items() if value})
    assert sum(rows.values()) == pytest.approx(1.0)


def test_transcripts_and_hypotheses_are_mixed_in_the_share_that_is_wanted(
    tokenizer: Tokenizer,
) -> None:
    stored = utterance("ABBA", "A CAB")
    abba, a_cab, back = encoded(tokenizer, "ABBA", "A CAB", "BACK")
    text = text_of(tokenizer, stored, truth_share=0.4)
    rows = found(text, "a", np.array(back, np.int64), 100)
    assert rows == pytest.approx({back: 0.4, abba: 0.3, a_cab: 0.3})
    assert found(text, "a", np.array(abba, np.int32), 100) == pytest.approx({abba: 0.7, a_cab: 0.3})
    assert found(text, "a", None, 100) == pytest.approx({abba: 0.5, a_cab: 0.5})
    weighted = text_of(tokenizer, stored, truth_share=0.4, weight=0.5)
    rows = found(weighted, "a", np.array(back, np.int32), 100)
    assert rows == pytest.approx({back: 0.4, abba: 0.15, a_cab: 0.15})
    only = text_of(tokenizer, stored, truth_share=1.0)
    assert found(only, "unknown", np.array(back, np.int32), 100) == {back: 1.0}


def test_hypotheses_that_no_loss_can_use_are_left_out(tokenizer: Tokenizer) -> None:
    stored = utterance("", "ABBÉ", "ABBA CAB BACK ABBA CAB BACK", "ABBA", "BACK")
    text = text_of(tokenizer, stored, num_hypotheses=1)
    (abba,) = encoded(tokenizer, "ABBA")
    assert found(text, "a", None, 12) == {abba: 1.0}
    sizes, counts = text.survey(["a"], [12], None)
    assert (sizes.counts.tolist(), sizes.longest.tolist()) == ([1], [len(abba)])
    assert counts == {"empty": 1, "unknown characters": 1, "more tokens than frames": 1}
    repeated = utterance("BB")
    tokens = tokenizer.encode("BB")
    frames = len(tokens)
    with_ctc = text_of(tokenizer, repeated, ctc=True)
    needed = frames + sum(a == b for a, b in itertools.pairwise(tokens))
    assert needed > frames
    assert found(text_of(tokenizer, repeated), "a", None, frames)
    assert not found(with_ctc, "a", None, needed - 1) and found(with_ctc, "a", None, needed)
    nothing = text_of(tokenizer, utterance(), truth_share=0.5)
    assert found(nothing, "a", None, 9) == {}
    assert found(nothing, "a", np.array([4], np.int32), 9) == {(4,): 1.0}
    assert found(text_of(tokenizer, utterance()), "a", np.array([4], np.int32), 9) == {}


def test_filters_know_transcripts_of_labelled_audio_alone(tokenizer: Tokenizer) -> None:
    stored = utterance("ABBA", "BACK", errors=[1, 0], words=5)
    truth = np.array([3], np.int32)
    assert found(text_of(tokenizer, stored, max_wer=19.0), "a", truth, 99) == {}
    assert len(found(text_of(tokenizer, stored, max_wer=20.0), "a", truth, 99)) == 2
    # The transcript of audio that counts as unlabelled is not known: neither for the filter...
    assert len(found(text_of(tokenizer, stored, max_wer=1.0), "a", None, 99)) == 2
    confidence = np.exp(-1.0 / 4)
    assert found(text_of(tokenizer, stored, min_confidence=confidence + 0.01), "a", None, 99) == {}
    assert found(text_of(tokenizer, stored, min_confidence=confidence - 0.01), "a", None, 99)
    assert found(text_of(tokenizer, stored, min_confidence=0.99), "a", truth, 99)
    # ... nor for the weights.
    weights = found(text_of(tokenizer, stored, weighting="wer", temperature=0.1), "a", None, 99)
    assert list(weights.values()) == pytest.approx([0.5, 0.5])


def test_another_tokenizer_encodes_the_texts_anew(tokenizer: Tokenizer) -> None:
    stored = utterance("ABBA")
    kept = TeacherText([stored], tokenizer, TextChoice(), stored_tokens=True)
    assert found(kept, "a", None, 9) == {(7, 7): 1.0}
    assert found(text_of(tokenizer, stored), "a", None, 9) == {encoded(tokenizer, "ABBA")[0]: 1.0}
    with io.BytesIO() as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["ABBA"] * 9),
            model_writer=model,
            vocab_size=7,
            model_type="char",
            user_defined_symbols=["<blk>", "<sos/eos>"],
            unk_piece="<unk>",
            unk_id=2,
            bos_id=-1,
            eos_id=-1,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        other = Tokenizer(model.getvalue())
    assert found(text_of(other, stored), "a", None, 9) == {tuple(other.encode("ABBA")): 1.0}
    assert found(text_of(other, utterance("CAB")), "a", None, 9) == {}


def test_copies_at_other_speeds_have_the_texts_of_their_originals(tokenizer: Tokenizer) -> None:
    text = pickle.loads(pickle.dumps(text_of(tokenizer, utterance("ABBA"))))
    assert "a" in text and "a_sp0.9" in text and "b" not in text
    assert found(text, "a_sp1.1", None, 9) == found(text, "a", None, 9)
    with pytest.raises(UserError, match=r"no hypotheses of the utterance b_sp0\.9"):
        text("b_sp0.9", None, 9)


@pytest.fixture
def pool(prepared: Path) -> TrainingPool:
    step = StepSize(8.0, 1000)
    index = open_pool([prepared / TRAIN], prepared / "lang_bpe_30", step)
    hours = index.seconds[: len(index.seconds) // 3].sum() / 3600 / 2
    return open_pool(
        [prepared / TRAIN], prepared / "lang_bpe_30", step, labelled_hours=hours, unlabelled=True
    )


def stored_of(pool: TrainingPool, *texts: str) -> list[UtteranceHypotheses]:
    (index,) = pool.indexes
    names = [raw.decode() for raw in index.ids.tolist()]
    return [utterance(*texts, name=name) for name in names if "_sp" not in name]


def test_batches_have_the_texts_of_labelled_and_unlabelled_audio(
    prepared: Path, pool: TrainingPool
) -> None:
    tokenizer = Tokenizer.load(prepared / "lang_bpe_30")
    stored = stored_of(pool, "THE CAT", "A DOG")
    lost = stored[0] = replace(stored[0], hypotheses=[])
    text = TeacherText(
        stored, tokenizer, TextChoice(truth_share=0.5, weighting="equal"), stored_tokens=False
    )
    every = with_teacher_text(pool, text, keep_all=True)
    assert (every.labelled == pool.labelled).all() and len(every.unlabelled) == len(pool.unlabelled)
    chosen = with_teacher_text(pool, text, keep_all=False)
    names = [raw.decode() for raw in pool.indexes[0].ids.tolist()]
    gone = {names[n] for n in set(pool.unlabelled) - set(chosen.unlabelled)}
    assert all(name.startswith(lost.id) for name in gone)
    longest = max(len(tokenizer.encode(x)) for x in ("THE CAT", "A DOG"))
    assert set(chosen.targets.longest[chosen.unlabelled]) == {longest}
    assert set(chosen.targets.counts[chosen.unlabelled]) == {2}
    assert set(every.targets.counts[every.labelled]) <= {1, 3}  # with the transcript
    plan = TrainingPlan(every, StepSize(8.0, 1000), num_buckets=2, seed=0, unlabelled_ratio=1.0)
    steps = BatchLoader(pool.indexes, plan, teacher_text=text)
    steps.set_epoch(1)
    kinds = set()
    for batch in (batch for step in steps for batch in step):
        kinds.add(bool(batch.texts[0]))
        assert batch.hypotheses is not None
        sums = torch.zeros(len(batch)).index_add_(
            0, batch.hypotheses.owners, batch.hypotheses.weights
        )
        has = batch.hypotheses.owned(len(batch))
        expected = [
            1.0 if batch.texts[n] or not name.startswith(lost.id) else 0.0
            for n, name in enumerate(batch.ids)
        ]
        torch.testing.assert_close(sums, torch.tensor(expected))
        assert has.tolist() == [value > 0 for value in expected]
        frames = torch.arange(1, len(batch) + 1)
        assert int(batch.labelled_frames(frames)) == int((frames * has).sum())
    assert kinds == {True, False}


def test_forward_passes_hold_no_more_tokens_than_the_limit_of_all_hypotheses(
    prepared: Path, pool: TrainingPool
) -> None:
    tokenizer = Tokenizer.load(prepared / "lang_bpe_30")
    stored = stored_of(pool, "THE CAT", "A DOG", "THE DOG", "A CAT")
    text = TeacherText(stored, tokenizer, TextChoice(truth_share=0.5), stored_tokens=False)
    step = StepSize(8.0, 1000)

    def batches(used: TrainingPool, limits: BatchLimits) -> list[list[tuple[list[str], int, int]]]:
        plan = TrainingPlan(used, step, limits=limits, num_buckets=2, seed=0, unlabelled_ratio=1.0)
        loader = BatchLoader(pool.indexes, plan, teacher_text=text)
        loader.set_epoch(1)
        return [
            [(b.ids, b.hypotheses.tokens.numel(), len(b.hypotheses)) for b in step]
            for step in loader
        ]

    several = with_teacher_text(pool, text, keep_all=True)
    alone = int((several.targets.counts * several.targets.longest).max())
    limit = 2 * alone
    found = batches(several, BatchLimits(tokens=limit))
    # Batches of several utterances are those that the limit is about.
    assert any(len(ids) > 1 for step in found for ids, _, _ in step)
    assert all(tokens <= limit for step in found for _, tokens, _ in step)
    assert max(rows for step in found for _, _, rows in step) > 2
    whole = batches(several, BatchLimits())
    assert max(tokens for step in whole for _, tokens, _ in step) > limit
    same = [sorted(name for ids, _, _ in step for name in ids) for step in found]
    assert same == [sorted(name for ids, _, _ in step for name in ids) for step in whole]
    with pytest.raises(UserError, match=f"exceed the batch_tokens, {alone - 1}") as error:
        with_teacher_text(pool, text, BatchLimits(tokens=alone - 1), keep_all=True)
    assert "batch_tokens" in error.value.parameters


def test_audio_that_the_teacher_was_not_asked_about_is_named(
    prepared: Path, pool: TrainingPool, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = Tokenizer.load(prepared / "lang_bpe_30")
    stored = stored_of(pool, "THE CAT")
    text = TeacherText(stored[1:], tokenizer, TextChoice(), stored_tokens=False)
    with pytest.raises(UserError, match=f"no hypotheses of 3 of .*{stored[0].id}") as error:
        with_teacher_text(pool, text, keep_all=True)
    assert error.value.step == "hypotheses"
    empty = TeacherText(stored_of(pool), tokenizer, TextChoice(), stored_tokens=False)
    with pytest.raises(UserError, match="no utterance is left that has hypotheses"):
        with_teacher_text(pool, empty, keep_all=False)
    filtered = TeacherText(stored, tokenizer, TextChoice(min_confidence=0.9), stored_tokens=False)
    with caplog.at_level(logging.INFO), pytest.raises(UserError, match="no utterance is left"):
        with_teacher_text(pool, filtered, keep_all=False)
    assert "left out, confidence" in caplog.text
