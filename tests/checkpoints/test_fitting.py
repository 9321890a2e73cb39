"""A student begins with what fits of another one."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from mvqkd.checkpoints.files import load_checkpoint, save_checkpoint
from mvqkd.checkpoints.fitting import VOCABULARY, fit_weights, summary
from mvqkd.checkpoints.pretrained import begin_with
from mvqkd.errors import UserError
from mvqkd.losses import PrunedTransducerLoss
from mvqkd.models import AsrModel
from mvqkd.models.build import build_model

TOKENS = ["<blk>", "<sos/eos>", "<unk>", "▁A", "B", "C"]


def make(
    seed: int,
    *,
    num_layers: int = 2,
    vocab_size: int = 6,
    heads: Any = None,
    input_dim: int = 80,
) -> AsrModel:
    torch.manual_seed(seed)
    sizes = {
        **{"dim": 16, "num_layers": num_layers, "num_heads": 2, "feedforward_dim": 16},
        **{"conv_kernel": 3, "dropout": 0.0, "causal": False, "predictor_dim": 8},
        **{"context_size": 2, "joiner_dim": 8, "input_dim": input_dim},
    }
    heads = heads or ["transducer", "ctc"]
    return build_model({"model": sizes, "vocab_size": vocab_size, "heads": heads})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a training, with its tokens."""
    model = make(1)
    state = {"model": model.state_dict(), "description": model.description}
    save_checkpoint(tmp_path / "pretrained.pt", state)
    lines = (f"{token} {number}\n" for number, token in enumerate(TOKENS))
    (tmp_path / "tokens.txt").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def begun(student: AsrModel, folder: Path, **options: Any) -> tuple[dict, dict, dict]:
    """Weights of the other student, of this one before and after."""
    before = copy.deepcopy(student.state_dict())
    begin_with(student, folder, **options)
    return make(1).state_dict(), before, student.state_dict()


def test_the_same_student(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    given, _, after = begun(make(2), folder, tokens=TOKENS)
    assert all(torch.equal(after[name], given[name]) for name in after)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("num_layers", [1, 3])
def test_another_depth(folder: Path, caplog: pytest.LogCaptureFixture, num_layers: int) -> None:
    given, before, after = begun(make(2, num_layers=num_layers), folder, tokens=TOKENS)
    for name, value in after.items():
        assert torch.equal(value, given[name] if name in given else before[name]), name
    layer, words = ("2", "begin at random") if num_layers == 3 else ("1", "of no use here")
    assert f"encoder.layers.{layer}: " in caplog.text and words in caplog.text


def test_another_vocabulary(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens = ["<blk>", "<sos/eos>", "<unk>", "C", "▁A", "D", "E"]
    given, before, after = begun(make(2, vocab_size=7), folder, tokens=tokens)
    for name, value in after.items():
        if name not in VOCABULARY:
            assert torch.equal(value, given[name]), name
            continue
        for row, token in enumerate(tokens):
            known = token in TOKENS
            want = given[name][TOKENS.index(token)] if known else before[name][row]
            assert torch.equal(value[row], want), (name, token)
    assert "of 7 tokens, 5 are known there" in caplog.text


def test_another_vocabulary_of_the_same_size(folder: Path) -> None:
    """Its weights would fit, but are of other tokens."""
    tokens = [*TOKENS[:3], "C", "B", "▁A"]
    given, _, after = begun(make(2), folder, tokens=tokens)
    name = "ctc.output.weight"
    assert torch.equal(after[name], given[name][[0, 1, 2, 5, 4, 3]])


def test_tokens_that_are_not_known(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "tokens.txt").unlink()
    _, before, after = begun(make(2, vocab_size=7), folder, tokens=[*TOKENS, "D"])
    assert all(torch.equal(after[name], before[name]) for name in VOCABULARY if name in after)
    assert "ctc.output.weight: [6, 16] in the file, [7, 16] here" in caplog.text


def test_other_heads(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    given, _, after = begun(make(2, heads=["ctc"]), folder, tokens=TOKENS)
    assert all(torch.equal(after[name], given[name]) for name in after)
    assert "transducer.predictor, transducer.joiner: in the file, but of no use" in caplog.text


def test_head_losses_of_another_vocabulary(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The simple joiner has rows of tokens as the joiner has."""

    def losses(vocab_size: int) -> torch.nn.ModuleDict:
        pruned = PrunedTransducerLoss(encoder_dim=16, predictor_dim=8, vocab_size=vocab_size)
        return torch.nn.ModuleDict({"transducer": torch.nn.ModuleDict({"pruned": pruned})})

    given, own = losses(6), losses(7)
    state = {**load_checkpoint(folder / "pretrained.pt"), "head_losses": given.state_dict()}
    save_checkpoint(folder / "pretrained.pt", state)
    before = copy.deepcopy(own.state_dict())
    tokens = ["<blk>", "<sos/eos>", "<unk>", "C", "▁A", "D", "E"]
    begin_with(make(2, vocab_size=7), folder, tokens=tokens, head_losses=own)
    assert own.state_dict().keys() <= set(VOCABULARY)
    for name, value in own.state_dict().items():
        for row, token in enumerate(tokens):
            known = token in TOKENS
            want = given.state_dict()[name][TOKENS.index(token)] if known else before[name][row]
            assert torch.equal(value[row], want), (name, token)
    assert "training loss" not in caplog.text


def test_other_features(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Refused, unless the student shall learn to receive them."""
    student = make(2, input_dim=161)
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(UserError, match="features of 80 bins, the student of 161") as error:
        begin_with(student, folder, tokens=TOKENS)
    assert str(folder / "pretrained.pt") in error.value.problem
    assert "init_other_features" in error.value.parameters
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())

    given, before, after = begun(student, folder, tokens=TOKENS, other_features=True)
    different = [name for name in after if after[name].shape != given[name].shape]
    assert different and all(name.startswith("encoder.subsampling.") for name in different)
    for name, value in after.items():
        assert torch.equal(value, (before if name in different else given)[name]), name
        assert (name in different) == (f"begins at random: {name}: " in caplog.text)


def test_a_model_folder(folder: Path) -> None:
    """As it is exported: weights and tokens lie apart."""
    model = folder / "model"
    (model / "exp").mkdir(parents=True)
    (model / "data" / "lang_bpe_6").mkdir(parents=True)
    (folder / "pretrained.pt").rename(model / "exp" / "pretrained.pt")
    (folder / "tokens.txt").rename(model / "data" / "lang_bpe_6" / "tokens.txt")
    (model / "data" / "lang_bpe_6" / "bpe.model").write_bytes(b"x")
    tokens = [*TOKENS[:3], "C", "B", "▁A"]
    for path in (model, model / "exp" / "pretrained.pt"):
        given, _, after = begun(make(2), path, tokens=tokens)
        assert torch.equal(after["ctc.output.bias"], given["ctc.output.bias"][[0, 1, 2, 5, 4, 3]])


def test_nothing_is_changed_in_place() -> None:
    own, given = make(1).state_dict(), make(2).state_dict()
    before = copy.deepcopy(own)
    fit_weights(own, given, tokens=["<blk>", "B"], given_tokens=TOKENS)
    assert all(torch.equal(own[name], before[name]) for name in own)


def test_summary() -> None:
    names = ["encoder.layers.3.norm.weight", "encoder.layers.3.norm.bias", "ctc.output.weight"]
    assert summary([*names, "half"]) == "encoder.layers.3, ctc.output, half"
