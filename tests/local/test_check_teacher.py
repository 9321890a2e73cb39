"""Whether a teacher is used rightly: its own transcripts, and what a probe finds in its layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.errors import UserError
from mvqkd.teachers import load_teacher
from mvqkd.teachers.audio import embed
from mvqkd.teachers.ctc_probe import probe
from tests.local.programs import run
from tests.teachers.corpus import URI, make_corpus


@pytest.fixture
def other_cuts(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "test", [0.8, 0.6], name="test", seed=5)


def test_check_teacher_prints_a_row_for_each_layer(
    tmp_path: Path, cuts: Path, other_cuts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        "check_teacher",
        *("--teacher", URI, "--layers", 1, "--train-cuts", cuts, "--test-cuts", other_cuts),
        *("--steps", 2, "--output", tmp_path / "check.md"),
    )
    table = capsys.readouterr().out
    assert "| layer 1 | 12 | 50 |" in table and "| layer 3 | 12 | 50 |" in table
    assert "| fbank, two frames | 160 | 50 |" in table
    assert (tmp_path / "check.md").read_text() == table

    def observed(manifest: Path) -> list[tuple[torch.Tensor, str]]:
        audio, cpu = AudioCuts([manifest]), torch.device("cpu")
        teacher = load_teacher(URI, [1])
        found = embed(teacher, audio, range(len(audio)), device=cpu, max_duration=100.0)
        return [(layers[1].half(), audio.text(number)) for number, layers in found]

    result = probe(observed(cuts), observed(other_cuts), steps=2)
    assert f"| layer 1 | 12 | 50 | {result.characters.wer:.1f} | {result.loss:.2f} |" in table


def test_check_teacher_scores_what_a_recognizer_makes_of_it(
    cuts: Path, other_cuts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        "check_teacher",
        *("--teacher", "python:tests.teachers.corpus:recognizer", "--layers", 3, "--steps", 1),
        *("--train-cuts", cuts, "--test-cuts", other_cuts),
    )
    # It recognizes "b" of "b a" and of "ab ba".
    assert "[3 / 4, 0 ins, 2 del, 1 sub" in capsys.readouterr().out


def test_check_teacher_names_an_utterance_whose_embeddings_are_not_finite(tmp_path: Path) -> None:
    short = make_corpus(tmp_path / "short", [0.5, 0.7])
    long = make_corpus(tmp_path / "long", [0.8, 1.2], name="test")
    with pytest.raises(UserError, match="utterance t1: the teacher's embeddings have NaN"):
        run(
            "check_teacher",
            *("--teacher", "python:tests.teachers.corpus:faulty", "--layers", 1),
            *("--train-cuts", short, "--test-cuts", long, "--steps", 2),
        )


def test_check_teacher_holds_embeddings_of_any_size(
    tmp_path: Path, cuts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        "check_teacher",
        *("--teacher", "python:tests.teachers.corpus:loud", "--layers", 1),
        *("--train-cuts", cuts, "--test-cuts", cuts, "--steps", 2),
    )
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "| layer 1 |" in line]
    assert "nan" not in row
