"""The programs of stages 4 to 7 with the configuration of an experiment, and what its students
learn from."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mvqkd.data.folder import DataFolder
from mvqkd.data.targets.codes import CodeStore
from mvqkd.data.targets.embeddings import EmbeddingStore
from mvqkd.errors import UserError
from mvqkd.quantization import Quantizer
from mvqkd.recipe.stages.quantizer import QuantizerTraining
from mvqkd.storage.jsonl import read_items
from tests.data.conftest import prepare, write_part
from tests.local.programs import LOCAL, run
from tests.teachers.corpus import URI

STUDENT = """
model: {dim: 16, num_layers: 1, num_heads: 2, feedforward_dim: 16, conv_kernel: 3,
        predictor_dim: 16, joiner_dim: 16}
data: {step_duration: 6, num_buckets: 2, num_workers: 0}
training: {num_epochs: 2}
"""
LEARNER = f"""
base: student.yaml
distillation:
  codes:
    weight: 1
    teacher: {URI}
    teacher_layer: 2
    layer: 1
    quantizer: {{num_codebooks: 2, num_steps: 2, sample_utterances: 8}}
  embeddings: {{weight: 1, teacher: "{URI}", teacher_layer: 3, layer: 1}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `conf`, and `data` after stage 3."""
    root = tmp_path_factory.mktemp("recipe")
    write_part(root / "corpus", "train-tiny")
    write_part(root / "corpus", "dev-a", utterances=2)
    prepare(root / "corpus", root / "data", speeds=(1.0,))
    (root / "conf").mkdir()
    (root / "conf/student.yaml").write_text(STUDENT)
    (root / "conf/learner.yaml").write_text(LEARNER)
    return root


@pytest.fixture(scope="module")
def prepared(root: Path) -> Path:
    """After stage 7."""
    with pytest.MonkeyPatch.context() as patch:
        small = QuantizerTraining(codebook_size=16, predictor_steps=2)
        patch.setattr(
            "mvqkd.recipe.stages.quantizer.QuantizerTraining",
            lambda **options: replace(small, **options),
        )
        for _ in range(2):  # the second time everything is there
            run("prepare_teacher", *of_learner(root))
            run("extract_embeddings", *of_learner(root), "--num-workers", 0)
            run("train_quantizer", *of_learner(root))
            run("dump_codes", *of_learner(root), "--num-workers", 0)
    return root


def of_learner(root: Path) -> tuple[object, ...]:
    options = ("--config", root / "conf/learner.yaml", "--exp-root", root / "exp")
    return (*options, "--data-dir", root / "data")


def ids(root: Path, *splits: str) -> set[str]:
    data = DataFolder(root / "data")
    return {item["id"] for split in splits for item in read_items(data.cuts(split))}


def test_each_loss_has_what_it_learns_from(prepared: Path) -> None:
    folder = prepared / "data/teachers/tests.teachers.corpus-spectra"
    for layer in (2, 3):
        assert f"| layer {layer} | 12 | 50 |" in (folder / f"check-layer-{layer}.md").read_text()
    sample = EmbeddingStore(folder / "sample/layer-2")
    assert len(sample) == 8 and set(sample) < ids(prepared, "train-tiny")
    everything = ids(prepared, "train-tiny", "dev-a")
    store = EmbeddingStore(folder / "embeddings/layer-3")
    assert (set(store), store.info.layer) == (everything, 3)
    quantizer = Quantizer.load(folder / "quantizer-layer-2-cb2.pt")
    codes = CodeStore(folder / "codes-layer-2-cb2")
    assert set(codes) == everything
    assert codes.info.quantizer_id == quantizer.id and codes.info.num_codebooks == 2
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        *("sample", "embeddings", "codes-layer-2-cb2")
    }


def test_students_of_a_benchmark_take_steps(
    prepared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    conf, off = prepared / "conf", "--distillation.embeddings.weight 0"
    options = [conf / "student.yaml", conf / "learner.yaml", f"{conf}/learner.yaml {off}"]
    options += ["--data-dir", prepared / "data", "--batches", 2, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["students.py", *map(str, options)])
    runpy.run_path(str(LOCAL.parent / "benchmarks/students.py"))["main"]()
    rows = [line.split("|")[1:] for line in capsys.readouterr().out.splitlines() if "|" in line]
    table = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[2:]}
    assert list(table) == ["`student`", "`learner`", f"`learner {off}`"]
    stored = [float(row[1]) for row in table.values()]
    assert stored[0] == 0 and stored[1] > stored[2] > 0
    assert table["`student`"][3] == "1.00"


def test_experiments_with_teachers_are_listed(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = LEARNER.replace(URI, "mvqkd:student?epoch=2", 1)
    (tmp_path / "own.yaml").write_text(own.replace("student.yaml", f"{root}/conf/student.yaml"))
    files = [root / "conf/student.yaml", root / "conf/learner.yaml", tmp_path / "own.yaml"]
    run("list_teachers", "--config", *files)
    assert capsys.readouterr().out.splitlines() == [
        *("learner -", "learner -", "own student", "own -")
    ]
    off = ("--distillation.codes.weight", 0, "--distillation.embeddings.weight", 0)
    run("list_teachers", "--config", *files, *off)
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="the student has 1 layers"):
        run("list_teachers", "--config", *files, "--distillation.codes.layer", 2)


@pytest.mark.parametrize("program", ["extract_embeddings", "train_quantizer", "dump_codes"])
def test_options_of_either_use_are_asked_for(
    root: Path, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="--exp-root is missing"):
        run(program, "--config", root / "conf/learner.yaml", "--data-dir", root / "data")
    with pytest.raises(SystemExit):
        run(program, "--data-dir", root / "data")
    assert "without --config, --" in capsys.readouterr().err
