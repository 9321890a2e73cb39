"""Old utterances in every step of a training on new ones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mvqkd.data.loading.batch_loader import BatchLoader
from mvqkd.data.loading.epochs import TrainingPlan
from mvqkd.data.loading.excluded import read_excluded
from mvqkd.data.loading.limits import BatchLimits, StepSize, TargetSizes
from mvqkd.data.loading.pool import TrainingPool, open_pool
from mvqkd.data.loading.replay import with_replay
from mvqkd.data.prepare.tokens import check_tokens
from mvqkd.errors import UserError
from mvqkd.storage.jsonl import read_items, write_items
from tests.data.loading.loaders import TRAIN, contents
from tests.data.loading.test_plan import utterances

STEP = StepSize(duration=60.0, tokens=250)
NEW, OLD, SILENT = range(300), range(300, 450), range(450, 600)


@pytest.fixture(scope="module")
def pool() -> TrainingPool:
    seconds, tokens = utterances(600)
    new, old, silent = (np.arange(part.start, part.stop) for part in (NEW, OLD, SILENT))
    targets = TargetSizes(np.ones_like(tokens), tokens)
    return TrainingPool([], seconds, tokens, targets, new, silent, replayed=old)


def plans(pool: TrainingPool, world_size: int = 1, **options) -> list[TrainingPlan]:
    options = {"num_buckets": 4, "seed": 3, "replay_ratio": 1.0, **options}
    ranks = range(world_size)
    return [TrainingPlan(pool, STEP, rank=r, world_size=world_size, **options) for r in ranks]


def steps_of(ranks: list[TrainingPlan], epoch: int, part: range) -> list[list[int]]:
    """The utterances of `part` in each step, whoever reads them."""
    return [
        sorted(
            number
            for share in shares
            for batch in share
            for number in batch.numbers.tolist()
            if number in part
        )
        for shares in zip(*(rank(epoch) for rank in ranks), strict=True)
    ]


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_old_audio_has_its_share_and_is_all_used_before_any_again(
    pool: TrainingPool, ratio: float
) -> None:
    (plan,) = plans(pool, replay_ratio=ratio)
    drawn: list[int] = []
    seconds = {"new": 0.0, "old": 0.0}
    for epoch in range(1, 8):
        for old in steps_of([plan], epoch, OLD):
            assert old
            drawn += old
        seconds["new"] += pool.seconds[list(NEW)].sum()
    seconds["old"] = pool.seconds[drawn].sum()
    assert seconds["old"] / seconds["new"] == pytest.approx(ratio, rel=0.1)
    assert len(drawn) > 2 * len(OLD)
    for begin in range(0, len(drawn) - len(OLD), len(OLD)):
        assert sorted(drawn[begin : begin + len(OLD)]) == list(OLD)


def test_where_steps_end_at_their_tokens_the_share_is_of_the_audio_that_they_have(
    pool: TrainingPool,
) -> None:
    many = replace(pool, num_tokens=pool.num_tokens * 3)
    (plan,) = plans(many)
    assert plan.epoch_steps > 2 * plans(pool)[0].epoch_steps
    drawn = [n for epoch in range(1, 5) for old in steps_of([plan], epoch, OLD) for n in old]
    new = 4 * pool.seconds[list(NEW)].sum()
    assert pool.seconds[drawn].sum() / new == pytest.approx(1.0, rel=0.15)


def test_each_step_has_an_old_utterance_however_small_the_ratio(pool: TrainingPool) -> None:
    (plan,) = plans(pool, replay_ratio=1e-3)
    assert [len(old) for old in steps_of([plan], 1, OLD)] == [1] * plan.epoch_steps


def test_the_rest_of_a_training_is_the_same_with_replay(pool: TrainingPool) -> None:
    without, with_it = (
        plans(pool, replay_ratio=ratio, unlabelled_ratio=0.5)[0] for ratio in (0.0, 2.0)
    )
    for part in (NEW, SILENT):
        assert steps_of([with_it], 2, part) == steps_of([without], 2, part)
    for step in with_it(1):
        for batch in step:
            assert batch.labelled == (batch.numbers[0] not in SILENT)
            assert len({number in OLD for number in batch.numbers.tolist()}) == 1
    # Drawn in an order of its own: not in that of audio without transcripts.
    same = replace(pool, unlabelled=pool.replayed)
    plan = plans(same, unlabelled_ratio=1.0)[0]
    kinds = [
        [
            b.numbers.tolist()
            for step in plan(1)
            for b in step
            if b.labelled is kind and b.numbers[0] in OLD
        ]
        for kind in (True, False)
    ]
    assert kinds[0] != kinds[1]


@pytest.mark.parametrize("num", [5, 300])
def test_steps_do_not_depend_on_processes_and_memory(pool: TrainingPool, num: int) -> None:
    pool = replace(pool, labelled=pool.labelled[:num])
    (alone,) = plans(pool)
    for world_size, limits in (
        (2, None),
        (8, None),
        (1, BatchLimits(20.0)),
        (3, BatchLimits(40.0, 300)),
    ):
        ranks = plans(pool, world_size, limits=limits)
        for epoch in (1, 3):
            for part in (NEW, OLD):
                assert steps_of(ranks, epoch, part) == steps_of([alone], epoch, part)


def test_a_small_step_leaves_no_process_idle(pool: TrainingPool) -> None:
    one = replace(pool, labelled=pool.labelled[:1], replayed=pool.replayed[:1])
    first, second = (rank(1)[0] for rank in plans(one, 2))
    assert [batch.numbers.tolist() for batch in first] == [[NEW[0]]]
    assert [batch.numbers.tolist() for batch in second] == [[OLD[0]]]


def test_going_on_within_an_epoch_gives_its_rest(pool: TrainingPool) -> None:
    (plan,) = plans(pool)
    whole = [[batch.numbers.tolist() for batch in step] for step in plan(3)]
    for first in (0, 1, len(whole) - 1, len(whole)):
        rest = plans(pool)[0](3, first)
        assert [[batch.numbers.tolist() for batch in step] for step in rest] == whole[first:]


# ---- manifests ----------------------------------------------------------------------------------


@pytest.fixture
def old(prepared: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Another data folder's manifest, of the same name and the same ids, one of which has a
    transcript that the tokens of `prepared` cannot spell; and the folder of its lists."""
    cuts, lang = tmp_path / "old" / Path(TRAIN), tmp_path / "lang"
    shutil.copytree((prepared / TRAIN).parent, cuts.parent)
    items = list(read_items(cuts))
    for item in items:
        item["supervisions"][0]["text"] = "A " + item["supervisions"][0]["text"]
    items[2]["supervisions"][0]["text"] = "ŽLUŤ"
    write_items(cuts, items)
    lang.mkdir()
    shutil.copy(prepared / "lang_bpe_30" / "bpe.model", lang)
    check_tokens(cuts, lang, leave_out_unknown=True)
    return cuts, lang


def replaying(data: Path, old: tuple[Path, Path], step: StepSize, **options) -> TrainingPool:
    pool = open_pool([data / TRAIN], data / "lang_bpe_30", step)
    return with_replay(pool, [old], step, BatchLimits(**options))


def test_replayed_batches_have_the_old_texts(prepared: Path, old: tuple[Path, Path]) -> None:
    step = StepSize(8.0, 1000)
    pool = replaying(prepared, old, step)
    ids = [item["id"] for item in read_items(old[0])]
    excluded = read_excluded(old[1], old[0])
    assert ids[2] in excluded and len(excluded) < 5
    wanted = [len(ids) + i for i, name in enumerate(ids) if name not in excluded]
    assert pool.replayed.tolist() == wanted
    plan = TrainingPlan(pool, step, num_buckets=2, seed=5, replay_ratio=1.0)
    loader = BatchLoader(pool.indexes, plan)
    loader.set_epoch(1)
    steps = list(loader)
    assert all(batch.labelled for step in steps for batch in step)
    texts = {
        name: text
        for step in steps
        for b in step[1:]
        for name, text in zip(b.ids, b.texts, strict=True)
    }
    assert texts and all(text.startswith("A ") for text in texts.values())
    alone = open_pool([prepared / TRAIN], prepared / "lang_bpe_30", step)
    without = BatchLoader(alone.indexes, TrainingPlan(alone, step, num_buckets=2, seed=5))
    without.set_epoch(1)
    assert contents(step[0] for step in steps) == contents(without)


def test_manifests_that_cannot_be_replayed(prepared: Path, old: tuple[Path, Path]) -> None:
    cuts, lang = old
    with pytest.raises(UserError, match=r"step_tokens?|exceed the step_duration") as error:
        with_replay(
            open_pool([prepared / TRAIN], prepared / "lang_bpe_30", StepSize(8.0, 1000)),
            [old],
            StepSize(0.7, 1000),
            BatchLimits(),
        )
    assert "step_duration" in error.value.parameters
    with pytest.raises(UserError, match="exceed the batch_tokens, 3"):
        replaying(prepared, old, StepSize(8.0, 1000), tokens=3)
    items = list(read_items(cuts))
    for item in items:
        item["supervisions"][0]["text"] = "ŽLUŤ"
    write_items(cuts, items)
    check_tokens(cuts, lang, leave_out_unknown=True)
    with pytest.raises(UserError, match=f"no utterance of {cuts} is left to replay"):
        replaying(prepared, old, StepSize(8.0, 1000))
    (lang / "excluded_train-tiny.txt").unlink()
    with pytest.raises(UserError, match=f"{cuts} were not checked"):
        replaying(prepared, old, StepSize(8.0, 1000))
