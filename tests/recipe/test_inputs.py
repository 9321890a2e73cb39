"""What the stages of an experiment work on: its tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.data.folder import DataFolder
from mvqkd.errors import UserError
from mvqkd.recipe.config.load import load_config
from mvqkd.recipe.inputs import ExperimentInputs, labelled_hours
from mvqkd.storage.files import write_json

TEACHER = "{weight: 1, teacher: 'mvqkd:teacher?epoch=3', teacher_layer: 1, layer: 1}"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Experiments of a recipe: a teacher, and students of few labelled hours."""
    for name, text in {
        "teacher": "data: {labelled_hours: 5}",
        "few": "data: {labelled_hours: 0.17}",
        "distilled": f"base: few.yaml\ndistillation: {{codes: {TEACHER}}}",
        "off": f"distillation: {{codes: {TEACHER}, embeddings: {{weight: 0}}}}",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text + "\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "overrides", "hours"),
    [
        (["few"], [], [0.17]),
        (["few", "teacher"], [], [0.17, 5.0]),
        (["distilled"], [], [0.17, 5.0]),
        # The command line is not meant for teachers.
        (["distilled"], [("data.labelled_hours", "0.3")], [0.3, 5.0]),
        (["distilled"], [("distillation.codes.weight", "0")], [0.17]),
        (["distilled"], [("distillation.codes.teacher", "mvqkd:/other/teacher")], [0.17]),
        (["off"], [], [0.0, 5.0]),
    ],
)
def test_tokens_are_needed_for_experiments_and_their_teachers(
    conf: Path, names: list[str], overrides: list[tuple[str, str]], hours: list[float]
) -> None:
    assert labelled_hours([conf / f"{name}.yaml" for name in names], overrides) == hours


def test_the_tokens_are_those_of_the_transcripts_that_are_known(conf: Path) -> None:
    data = DataFolder(conf / "data")
    data.record_splits(conf / "corpus", "x", {"train": ["train-a", "train-b"], "dev": ["dev"]})
    data.record_vocab_size(40)

    def lang(name: str, **options: object) -> Path:
        loaded = load_config(conf / f"{name}.yaml")
        inputs = ExperimentInputs(loaded, data, conf / "exp", {"train": ["train-a"]})
        return inputs.lang(**options)

    assert lang("few") == data.root / "lang_bpe_40_0.17h"
    assert lang("teacher", vocab_size=30) == data.root / "lang_bpe_30_5h"
    assert lang("off") == data.root / "lang_bpe_40"
    # The labelled utterances of two splits are not those of one.
    for name in ("lang_bpe_40_0.17h", "lang_bpe_40"):
        write_json(data.root / name / "bpe.report.json", {"splits": ["train-a", "train-b"]})
    with pytest.raises(UserError, match=r"0\.17 labelled hours of train-a, train-b, the training"):
        lang("few")
    assert lang("off") == data.root / "lang_bpe_40"
