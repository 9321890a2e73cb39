"""Signs of trouble: reported when there is one, silent otherwise."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
import torch

from mvqkd.runtime.interruption import Interruption
from mvqkd.training.diagnostics import (
    TranscribedSample,
    loss_trouble,
    save_batch,
    transcript_trouble,
)
from mvqkd.training.metrics import read_metrics
from tests.training.helpers import make_batch, make_trainer


@pytest.mark.parametrize(
    ("losses", "word"),
    [
        ([2.0, 1.5, 1.2, 1.0, 9.0], "explodes"),
        ([2.0] * 20, "does not fall"),
        ([2.0, 1.9, 1.5] + [1.6] * 17, "does not fall"),
    ],
)
def test_trouble_is_reported(losses, word):
    assert any(word in text for text in loss_trouble(losses))


@pytest.mark.parametrize(
    "losses",
    [
        [],
        [5.0],
        [2.0, 1.8, 2.1, 1.7],
        [2.0 * 0.97**i for i in range(20)],
        [2.0] + [0.05 + 0.001 * (i % 3) for i in range(39)],  # converged
        [2.0] * 19,  # too early to tell
    ],
)
def test_no_trouble(losses):
    assert loss_trouble(losses) == []


def _transcripts(*hypotheses):
    return [TranscribedSample(f"u{i}", f"REF {i}", text) for i, text in enumerate(hypotheses)]


@pytest.mark.parametrize(
    ("hypotheses", "word"),
    [
        (["", "", ""], "empty"),
        (["THE", "THE", "THE"], "the same"),
        (["", "", "A"], "2 of 3"),
        (["A", "B", ""], None),
        (["A"], None),
        ([], None),
    ],
)
def test_constant_output_is_reported(hypotheses, word):
    found = transcript_trouble(_transcripts(*hypotheses))
    assert (word is None) == (found == [])
    assert word is None or word in found[0]


def test_silence_may_have_empty_output():
    assert (
        transcript_trouble([TranscribedSample("a", "", ""), TranscribedSample("b", "", "")]) == []
    )


def test_saved_batch_reads_back(tmp_path):
    batch = make_batch("a", "b")
    save_batch(tmp_path / "batch.pt", batch, step=3)
    state = torch.load(tmp_path / "batch.pt", weights_only=True)
    assert state["ids"] == batch.ids
    assert state["step"] == 3
    assert torch.equal(state["tokens"], batch.hypotheses.tokens)


def test_training_tells_what_validation_found(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        make_trainer(
            tmp_path, num_epochs=1, transcribe=lambda objective, batch: [""] * len(batch)
        ).run(Interruption())
    assert "the output of all 2 utterances looked at is empty" in caplog.text
    assert "hyp:" in caplog.text
    (valid,) = [
        line for line in read_metrics(tmp_path / "log" / "metrics.jsonl") if line["kind"] == "valid"
    ]
    assert valid.keys() >= {"step", "epoch", "loss", "simple", "pruned", "ctc", "audio_hours"}


def test_training_lines_have_what_curves_need(tmp_path):
    make_trainer(tmp_path, log_interval=1).run(Interruption())
    lines = [x for x in read_metrics(tmp_path / "log" / "metrics.jsonl") if x["kind"] == "train"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in lines] == [1, 1, 1, 2, 2, 2]
    wanted = "loss simple pruned ctc learning_rate grad_norm audio_hours x_real_time elapsed"
    assert all(line.keys() >= set(wanted.split()) for line in lines)
    seconds = sum(batch.seconds for batch in [make_batch("u0a", "u0b", frames=30)])
    assert 0 < lines[0]["audio_hours"] * 3600 < 2 * seconds
    assert all(a["elapsed"] < b["elapsed"] for a, b in pairwise(lines))
