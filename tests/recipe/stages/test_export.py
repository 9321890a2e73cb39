"""Exporting an experiment's folder: files, what is kept, what is refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvqkd import Recognizer, load_model
from mvqkd.checkpoints.files import save_checkpoint
from mvqkd.data.loading.batch import Batch, collate
from mvqkd.data.loading.tokenizer import train_tokenizer
from mvqkd.errors import UserError
from mvqkd.export import measuring
from mvqkd.recipe.build import build_student, describe_model
from mvqkd.recipe.config.load import save_config
from mvqkd.recipe.config.schema import DecodingConfig, ExperimentConfig, ExportConfig, ModelConfig
from mvqkd.recipe.stages.export import choose_targets, export_experiment
from mvqkd.recipe.stages.export_options import ExportInputs, complete_names
from mvqkd.storage.files import read_json
from tests.teachers.corpus import make_corpus

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("safetensors")
TEXTS = ["THE CAT SAT ON THE MAT", "A DOG RAN", "THE DOG AND THE CAT RAN ON"]


def random_batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(n, 80, generator=generator).numpy() * 4 - 8 for n in (150, 90)]
    return [collate(["a", "b"], features, TEXTS[:2], [torch.zeros(1).numpy()] * 2)]


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, ExportInputs]:
    """A random streaming student, and what it is exported with."""
    lang = tmp_path / "lang_bpe_24"
    tokenizer = train_tokenizer(TEXTS, 24, lang)
    sizes = {"dim": 16, "num_layers": 1, "num_heads": 2, "feedforward_dim": 16, "conv_kernel": 3}
    model = ModelConfig(
        **sizes, causal=True, chunk_size=[4], left_context=8, predictor_dim=16, joiner_dim=16
    )
    config = ExperimentConfig(model=model, description="a random student")
    exp_dir = tmp_path / "exp"
    exp_dir.mkdir()
    save_config(config, exp_dir / "config.yaml")
    torch.manual_seed(0)
    weights = build_student(config, tokenizer.vocab_size).state_dict()
    checkpoint = {
        "model": weights,
        "average": {name: value.double() for name, value in weights.items()},
        "average_count": 1,
        "description": describe_model(config, tokenizer.vocab_size),
    }
    save_checkpoint(exp_dir / "epoch-1.pt", checkpoint)
    cuts = make_corpus(tmp_path / "corpus", [0.5, 1.3, 0.9])
    monkeypatch.setattr(measuring, "eval_loader", lambda *_, **__: random_batches())
    return exp_dir, ExportInputs(ExportConfig(), DecodingConfig(), lang, "dev", cuts, cuts)


def test_a_model_folder(
    experiment: tuple[Path, ExportInputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    exp_dir, inputs = experiment
    folder = export_experiment(exp_dir, inputs)
    parts = [f"{part}-epoch-1-avg-1-chunk-4-left-8" for part in ("encoder", "decoder", "joiner")]
    wanted = {f"exp/{part}{kind}.onnx" for part in parts for kind in ("", ".int8")}
    wanted |= {f"exp/{name}" for name in ("pretrained.pt", "model.safetensors", "config.yaml")}
    wanted |= {f"data/lang_bpe_24/{name}" for name in ("bpe.model", "tokens.txt", "bpe.vocab")}
    wanted |= {f"test_wavs/{name}" for name in ("0.wav", "1.wav", "2.wav", "trans.txt")}
    wanted |= {"README.md", "export.json"}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == wanted
    saved = read_json(folder / "export.json")["files"]
    assert [item["precision"] for item in saved] == ["float32", "int8"]
    assert all(item["counts"]["words"] == 9 for item in saved)
    card = (folder / "README.md").read_text()
    for words in (
        "a random student",
        "OnlineRecognizer.from_transducer",
        "has not named a licence",
    ):
        assert words in card

    weights = load_model(exp_dir, 1).state_dict()
    loaded = Recognizer.load(folder)
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, weights[name])
    assert isinstance(loaded.transcribe([folder / "test_wavs" / "1.wav"])[0], str)

    # Again, it costs nothing; only the card and where it goes may change.
    monkeypatch.setattr(measuring, "eval_loader", None)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("exp/*")}
    copy = exp_dir.parent / "copy"
    other = replace(inputs.export, license="cc-by-4.0", upload=str(copy))
    export_experiment(exp_dir, replace(inputs, export=other))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("exp/*")} == before
    assert "license: cc-by-4.0" in (copy / "README.md").read_text()
    assert {str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file()} == wanted


def test_a_lost_file_is_made_again(experiment: tuple[Path, ExportInputs]) -> None:
    exp_dir, inputs = experiment
    inputs = replace(inputs, export=ExportConfig(precisions=["float32"]))
    folder = export_experiment(exp_dir, inputs)
    lost = folder / "exp" / "joiner-epoch-1-avg-1-chunk-4-left-8.onnx"
    content = lost.read_bytes()
    lost.unlink()
    export_experiment(exp_dir, inputs)
    assert lost.read_bytes() == content


def test_what_the_student_does_not_allow(experiment: tuple[Path, ExportInputs]) -> None:
    exp_dir, inputs = experiment
    del exp_dir
    streaming = {"model": {"causal": True, "chunk_size": [4], "left_context": 8}}
    streaming["heads"] = ["transducer"]  # type: ignore[assignment]
    both = ExportConfig(recognizers=["offline", "streaming"])
    targets = choose_targets(replace(inputs, export=both), streaming, 3, 1)
    assert [target.name for target in targets] == ["offline transducer", "streaming transducer"]
    whole = {"model": {"causal": False, "chunk_size": [], "left_context": -1}, "heads": ["ctc"]}
    assert choose_targets(inputs, whole, 3, 1)[0].name == "offline ctc"
    with pytest.raises(UserError, match="full context: a streaming recognizer cannot use it"):
        choose_targets(replace(inputs, export=both), whole, 3, 1)
    with pytest.raises(UserError, match="names transducer, of which this student gives no"):
        choose_targets(replace(inputs, export=ExportConfig(heads=["transducer"])), whole, 3, 1)
    for other in ({"heads": ["attention"]}, {"model": whole["model"] | {"encoder": "gru"}}):
        assert choose_targets(inputs, whole | other, 3, 1) == []
        with pytest.raises(UserError, match="names ctc, of which this student gives no"):
            choose_targets(replace(inputs, export=ExportConfig(heads=["ctc"])), whole | other, 3, 1)
    unlimited = replace(inputs, decoding=DecodingConfig(left_context=-1))
    with pytest.raises(UserError, match="unlimited left context"):
        choose_targets(unlimited, streaming, 3, 1)


def test_without_onnx(
    experiment: tuple[Path, ExportInputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    exp_dir, inputs = experiment
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"remedy: .*pip install \"mvqkd\[onnx\]\""):
        export_experiment(exp_dir, inputs)
    assert not (exp_dir / "export").exists()


def test_names_of_options() -> None:
    given = ["--exp-dir", "x", "--precisions", "int8", "--epoch=3", "--export.test_wavs", "0"]
    assert complete_names(given) == [
        *("--exp-dir", "x", "--export.precisions", "int8", "--decoding.epoch=3"),
        *("--export.test_wavs", "0"),
    ]
