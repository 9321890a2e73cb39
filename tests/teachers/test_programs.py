"""Error messages of the programs about unusable teachers, before hours of work."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from mvqkd.errors import UserError
from tests.teachers.corpus import make_corpus

LOCAL = Path(__file__).parents[2] / "local"
OWN = "python:tests.teachers.corpus"


@pytest.fixture
def cuts(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus", [0.5, 1.3, 0.9])


def run(monkeypatch: pytest.MonkeyPatch, program: str, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", [program, *map(str, options)])
    runpy.run_path(str(LOCAL / f"{program}.py"))["main"]()


def test_a_frame_rate_that_no_student_can_follow_is_refused(
    tmp_path: Path, cuts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hz in ("12.5", "40"):
        teacher = ("--teacher", f"{OWN}:at_rate?hz={hz}", "--layers", 1)
        with pytest.raises(UserError, match=f"the teacher has {hz} frames a second"):
            run(monkeypatch, "check_teacher", *teacher, "--train-cuts", cuts, "--test-cuts", cuts)
        output = tmp_path / "out"
        with pytest.raises(UserError, match=f"the teacher has {hz} frames a second"):
            run(monkeypatch, "extract_embeddings", *teacher, "--cuts", cuts, "--output", output)
        assert not output.exists()


def test_a_teacher_that_breaks_its_promises_is_named_at_its_first_batch(
    tmp_path: Path, cuts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extract(fault: str) -> None:
        options = ("--layers", 1, 2, "--num-workers", 0, "--output", tmp_path / fault)
        uri = f"{OWN}:flawed?fault={fault}"
        run(monkeypatch, "extract_embeddings", "--teacher", uri, "--cuts", cuts, *options)

    for fault, message in (("lens", "its output_lens says"), ("dim", "but its lens and dim say")):
        with pytest.raises(UserError, match=message):
            extract(fault)
        assert not list((tmp_path / fault / "layer-1").glob("*embeddings*"))
    extract("more")
    assert sorted(folder.name for folder in (tmp_path / "more").iterdir()) == ["layer-1", "layer-2"]
