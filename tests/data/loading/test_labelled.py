from __future__ import annotations

import numpy as np
import pytest

from mvqkd.data.loading.labelled import choose_labelled, unlabelled_pool
from mvqkd.errors import UserError


def corpus(num: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Utterances at three speeds, as names and seconds."""
    random = np.random.default_rng(3)
    names: list[bytes] = []
    seconds: list[float] = []
    for i in range(num):
        duration = random.uniform(5, 20)
        for suffix, speed in (("", 1.0), ("_sp0.9", 0.9), ("_sp1.1", 1.1)):
            names.append(f"{i % 7}-{i:04d}{suffix}".encode())
            seconds.append(duration / speed)
    return np.array(names), np.array(seconds)


def originals(names: np.ndarray) -> list[bytes]:
    return [name for name in names.tolist() if b"_sp" not in name]


@pytest.mark.parametrize("hours", [0.001, 0.1, 0.3])
def test_hours_are_reached_by_originals_alone(hours: float) -> None:
    names, seconds = corpus()
    chosen = choose_labelled(names, seconds, hours)
    original = np.array([b"_sp" not in name for name in names.tolist()])
    # The last one taken reaches it: without any one of them there could be less, not 20 s more.
    assert hours * 3600 <= seconds[chosen & original].sum() < hours * 3600 + 20


def test_copies_go_with_their_originals() -> None:
    names, seconds = corpus()
    chosen = set(names[choose_labelled(names, seconds, 0.2)].tolist())
    kept = originals(np.array(sorted(chosen)))
    assert chosen == {name + suffix for name in kept for suffix in (b"", b"_sp0.9", b"_sp1.1")}


def test_choice_does_not_depend_on_order_and_grows() -> None:
    names, seconds = corpus()
    some = set(names[choose_labelled(names, seconds, 0.1)].tolist())
    more = set(names[choose_labelled(names, seconds, 0.2)].tolist())
    assert some < more
    order = np.random.default_rng(0).permutation(len(names))
    shuffled = choose_labelled(names[order], seconds[order], 0.1)
    assert set(names[order][shuffled].tolist()) == some
    # Not the first of the corpus, nor those of a few speakers.
    assert {name[:1] for name in some} == {b"%d" % i for i in range(7)}


def test_all_hours_and_more_than_there_are() -> None:
    names, seconds = corpus()
    original = np.array([b"_sp" not in name for name in names.tolist()])
    available = seconds[original].sum() / 3600
    assert choose_labelled(names, seconds, available).all()
    with pytest.raises(UserError, match=rf"2 labelled hours .* have {available:.6g} .*\n.*hours"):
        choose_labelled(names, seconds, 2.0)


def test_copies_without_their_original_are_not_labelled() -> None:
    names = np.array([b"a_sp0.9", b"b", b"b_sp1.1", b"talk_sp2"])
    seconds = np.array([4000.0, 3600.0, 3300.0, 3600.0])
    assert choose_labelled(names, seconds, 2.0).tolist() == [False, True, True, True]
    with pytest.raises(UserError, match="have 2 "):
        choose_labelled(names, seconds, 2.1)


def test_pool_is_the_rest_each_once(caplog: pytest.LogCaptureFixture) -> None:
    names = np.array([b"a", b"b", b"c", b"d", b"b", b"a", b"e", b"c"])
    frames = np.array([50, 50, 50, 6, 50, 50, 7, 50])
    with caplog.at_level("INFO"):
        pool = unlabelled_pool(names, frames, np.array([0]))
    assert pool.tolist() == [1, 2, 6]
    assert "1 utterances left out, too short" in caplog.text
    assert "3 utterances left out, labelled, or there twice" in caplog.text
    assert unlabelled_pool(names[:2], frames[:2], np.array([0, 1])).tolist() == []
