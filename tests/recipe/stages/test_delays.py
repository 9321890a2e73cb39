"""Delays of experiments against the alignments of a reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mvqkd.checkpoints.files import save_checkpoint
from mvqkd.data.loading.batch import Batch, collate
from mvqkd.data.loading.tokenizer import Tokenizer, train_tokenizer
from mvqkd.errors import UserError
from mvqkd.evaluation.token_times import TimedTokens, read_times, write_times
from mvqkd.recipe.build import build_student, describe_model
from mvqkd.recipe.config.schema import DecodingConfig, ExperimentConfig, LossConfig, ModelConfig
from mvqkd.recipe.stages import delays
from mvqkd.recipe.stages.delays import KINDS, align_sets, measure_delays

TEXTS = {"a-1": "THE CAT SAT ON THE MAT", "b-1": "A DOG RAN", "c-1": "THE DOG RAN ON"}
SIZES: dict[str, Any] = {"feedforward_dim": 16, "predictor_dim": 16, "joiner_dim": 16}
LOSS = LossConfig(ctc_scale=0.1)
MODEL = ModelConfig(dim=16, num_layers=1, num_heads=2, conv_kernel=3, **SIZES)


def batches(lang: Path) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(n, 80, generator=generator).numpy() * 4 - 8 for n in (150, 90, 20)]
    tokenizer = Tokenizer.load(lang)
    tokens = [torch.tensor(tokenizer.encode(text)).numpy() for text in TEXTS.values()]
    return [collate(list(TEXTS), features, list(TEXTS.values()), tokens)]


@pytest.fixture
def reference(tmp_path: Path, monkeypatch) -> Path:
    """An experiment with random weights, full context and a CTC head."""
    lang = tmp_path / "lang"
    size = train_tokenizer(TEXTS.values(), 24, lang).vocab_size
    save(tmp_path / "big", MODEL, size)
    (tmp_path / "cuts").write_bytes(b"")
    monkeypatch.setattr(delays, "eval_loader", lambda *_, **__: batches(lang))
    inputs = (DecodingConfig(), {"dev": tmp_path / "cuts"}, lang)
    monkeypatch.setattr(delays, "decoding_inputs", lambda *_, **__: inputs)
    return tmp_path / "big"


def save(folder: Path, model: ModelConfig, size: int, loss: LossConfig = LOSS) -> None:
    folder.mkdir()
    experiment = ExperimentConfig(model=model, loss=loss)
    torch.manual_seed(1)
    state = build_student(experiment, size).state_dict()
    weights = {
        "model": state,
        "average": {name: value.double() for name, value in state.items()},
        "average_count": 1,
        "description": describe_model(experiment, size),
    }
    for epoch in (1, 2):  # the average is a difference of two
        save_checkpoint(folder / f"epoch-{epoch}.pt", {**weights, "average_count": epoch})


def decoded(folder: Path, times: dict[str, TimedTokens]) -> Path:
    """An experiment with one result."""
    (folder / "greedy_search").mkdir(parents=True)
    (folder / "config.yaml").write_text("{}\n")
    (folder / "environment.json").write_text("[]")
    result = {"set": "dev", "method": "greedy_search", "suffix": "x", "time": "", "wer": 12.5}
    result |= {"settings": {"chunk_size": 4}}
    (folder / "greedy_search" / "result-dev-x.json").write_text(json.dumps(result))
    write_times(folder / "greedy_search" / "times-dev-x.jsonl", times)
    return folder


def test_alignments_are_of_all_tokens_in_order(reference: Path, tmp_path: Path) -> None:
    found = align_sets(reference, tmp_path, ["dev"], device="cpu")
    assert set(found) == set(KINDS)
    tokenizer = Tokenizer.load(tmp_path / "lang")
    for by_set in found.values():
        for name, timed in by_set["dev"].items():
            ids = tokenizer.encode(TEXTS[name])
            assert timed.units == [tokenizer.tokens[token] for token in ids]
            assert timed.frames == sorted(timed.frames) and timed.frames[-1] < 40
    # The last utterance has too few frames for CTC.
    assert set(found["ctc"]["dev"]) == {"a-1", "b-1"} and "c-1" in found["transducer"]["dev"]


def test_delays_are_against_the_reference(reference: Path, tmp_path: Path) -> None:
    alignment = align_sets(reference, tmp_path, ["dev"], device="cpu")["transducer"]["dev"]
    late = {name: TimedTokens(x.units, [t + 2 for t in x.frames]) for name, x in alignment.items()}
    folder = decoded(tmp_path / "late", late)
    page = measure_delays([folder], reference, tmp_path, output=tmp_path / "page.md", device="cpu")
    row = "| late | dev | greedy_search, 160 ms | 12.50 |" + " 80 |" * 9
    assert row in page and "CTC forced alignment of `big`" in page
    assert (tmp_path / "page.md").read_text() == page
    saved = json.loads((folder / "greedy_search" / "delays-dev-x.json").read_text())
    assert saved["delays"]["transducer"]["end"]["count"] == 3


def test_alignments_are_kept_until_the_weights_change(reference, tmp_path, monkeypatch) -> None:
    first = align_sets(reference, tmp_path, ["dev"], device="cpu")
    monkeypatch.setattr(delays, "eval_loader", None)
    assert align_sets(reference, tmp_path, ["dev"], device="cpu") == first
    for path in (reference / "alignments").glob("*.jsonl"):
        assert read_times(path)
    (tmp_path / "cuts").write_bytes(b'{"id": "other"}\n')
    with pytest.raises(TypeError):
        align_sets(reference, tmp_path, ["dev"], device="cpu")


def test_what_cannot_be_measured_is_refused(reference: Path, tmp_path: Path) -> None:
    folder = decoded(tmp_path / "late", {})
    with pytest.raises(UserError, match="no results of test") as error:
        measure_delays([folder], reference, tmp_path, sets=["test"], device="cpu")
    assert error.value.step == "decoding"
    (folder / "greedy_search" / "times-dev-x.jsonl").unlink()
    with pytest.raises(UserError, match=r"times-dev-x.* is missing"):
        measure_delays([folder], reference, tmp_path, device="cpu")
    streaming = ModelConfig(
        dim=16, num_layers=1, num_heads=2, conv_kernel=3, causal=True, chunk_size=[4], **SIZES
    )
    save(tmp_path / "small", streaming, 24)
    with pytest.raises(UserError, match=r"attends to chunks of \[4\] frames"):
        align_sets(tmp_path / "small", tmp_path, ["dev"], device="cpu")
    attention = LossConfig(transducer_scale=0, ctc_scale=0, attention_scale=1)
    save(tmp_path / "decoder", MODEL, 24, attention)
    with pytest.raises(UserError, match="no head that aligns transcripts, but attention"):
        align_sets(tmp_path / "decoder", tmp_path, ["dev"], device="cpu")


def test_a_reference_without_a_transducer_aligns_with_its_ctc_head(
    reference: Path, tmp_path: Path
) -> None:
    save(tmp_path / "ctc", MODEL, 24, LossConfig(transducer_scale=0, ctc_scale=1))
    found = align_sets(tmp_path / "ctc", tmp_path, ["dev"], device="cpu")
    assert set(found) == {"ctc"} and set(found["ctc"]["dev"]) == {"a-1", "b-1"}
