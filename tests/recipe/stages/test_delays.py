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
from mvqkd.evaluation.gather import read_experiment
from mvqkd.evaluation.token_times import TimedTokens, read_times, write_times
from mvqkd.recipe.build import build_student, describe_model
from mvqkd.recipe.config.schema import DecodingConfig, ExperimentConfig, LossConfig, ModelConfig
from mvqkd.recipe.stages import delays
from mvqkd.recipe.stages.delays import Alignment, add_delays, align_sets, measure_delays
from mvqkd.recipe.stages.results import write_results

TEXTS = {"a-1": "THE CAT SAT ON THE MAT", "b-1": "A DOG RAN", "c-1": "THE DOG RAN ON"}
SIZES: dict[str, Any] = {"feedforward_dim": 16, "predictor_dim": 16, "joiner_dim": 16}
MODEL = ModelConfig(dim=16, num_layers=1, num_heads=2, conv_kernel=3, **SIZES)


FRAMES = [150, 90, 20]


def batches(lang: Path) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(n, 80, generator=generator).numpy() * 4 - 8 for n in FRAMES]
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


def save(folder: Path, model: ModelConfig, size: int, **loss: float) -> None:
    folder.mkdir()
    experiment = ExperimentConfig(model=model, loss=LossConfig(**({"ctc_scale": 0.1} | loss)))
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


def decoded(folder: Path, times: dict[str, TimedTokens], **more: Any) -> Path:
    """An experiment with one result, of chunks of 4 frames."""
    (folder / "greedy_search").mkdir(parents=True)
    (folder / "config.yaml").write_text("{}\n")
    (folder / "environment.json").write_text("[]")
    result = {"set": "dev", "method": "greedy_search", "suffix": "x", "time": "", "wer": 12.5}
    result |= {"settings": {"chunk_size": 4}, "interval": [10.0, 15.0], "cer": 5.0, "rtf": 0.01}
    result |= {"interval_by_speaker": None, "parameters": 1, "command": "", "utterances": 3}
    result |= {"device": "cpu", "threads": 1, **more}
    (folder / "greedy_search" / "result-dev-x.json").write_text(json.dumps(result))
    write_times(folder / "greedy_search" / "times-dev-x.jsonl", times)
    return folder


def of_set(reference: Path, data_dir: Path) -> Alignment:
    return align_sets(reference, data_dir, ["dev"], device="cpu")["dev"]


def shifted(alignment: dict[str, TimedTokens], frames: int) -> dict[str, TimedTokens]:
    return {n: TimedTokens(x.units, [t + frames for t in x.frames]) for n, x in alignment.items()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder whose dev split is there."""
    roles = {"train": ["train"], "dev": ["dev"], "test": [], "unlabelled": []}
    (tmp_path / "data.json").write_text(json.dumps({"splits": roles}))
    return tmp_path


def test_alignments_are_of_all_tokens_in_order(reference: Path, tmp_path: Path) -> None:
    found = of_set(reference, tmp_path).utterances
    assert set(found) == {"transducer", "ctc"}
    tokenizer = Tokenizer.load(tmp_path / "lang")
    for utterances in found.values():
        for name, timed in utterances.items():
            ids = tokenizer.encode(TEXTS[name])
            assert timed.units == [tokenizer.tokens[token] for token in ids]
            assert timed.frames == sorted(timed.frames)
            assert timed.num_frames == (FRAMES[list(TEXTS).index(name)] - 3) // 4
            assert timed.frames[-1] < timed.num_frames
    # The last utterance has too few frames for CTC.
    assert set(found["ctc"]) == {"a-1", "b-1"} and "c-1" in found["transducer"]


def test_a_reference_without_a_transducer_aligns_with_ctc(reference: Path, tmp_path: Path) -> None:
    size = Tokenizer.load(tmp_path / "lang").vocab_size
    save(tmp_path / "ctc", MODEL, size, transducer_scale=0.0)
    assert set(of_set(tmp_path / "ctc", tmp_path).utterances) == {"ctc"}
    save(tmp_path / "none", MODEL, size, transducer_scale=0.0, ctc_scale=0.0, attention_scale=1.0)
    with pytest.raises(UserError, match="neither a transducer nor a CTC head"):
        of_set(tmp_path / "none", tmp_path)


def test_delays_are_against_the_reference(reference: Path, tmp_path: Path) -> None:
    alignment = of_set(reference, tmp_path).utterances["transducer"]
    folder = decoded(tmp_path / "late", shifted(alignment, 2))
    page = measure_delays([folder], reference, tmp_path, output=tmp_path / "page.md", device="cpu")
    row = "| late | dev | greedy_search, 160 ms | 12.50 |" + " 80 |" * 9
    assert row in page and "CTC forced alignment of `big`" in page
    assert (tmp_path / "page.md").read_text() == page
    saved = json.loads((folder / "greedy_search" / "delays-dev-x.json").read_text())
    assert saved["delays"]["transducer"]["end"]["count"] == 3


def test_alignments_are_kept_until_the_weights_change(reference, tmp_path, monkeypatch) -> None:
    first = of_set(reference, tmp_path)
    monkeypatch.setattr(delays, "eval_loader", None)
    assert of_set(reference, tmp_path) == first
    for path in (reference / "alignments").glob("*.jsonl"):
        assert read_times(path)
    (tmp_path / "cuts").write_bytes(b'{"id": "other"}\n')
    with pytest.raises(TypeError):
        of_set(reference, tmp_path)


def test_damaged_alignments_are_made_again(reference: Path, tmp_path: Path) -> None:
    first = of_set(reference, tmp_path)
    for path in (reference / "alignments").glob("*.jsonl"):
        before = path.read_bytes()
        path.write_bytes(before.replace(b"[", b"[1, ", 1))
        assert of_set(reference, tmp_path) == first and path.read_bytes() == before


def test_delays_are_kept_until_times_or_alignment_change(
    reference: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alignment = of_set(reference, data).utterances["ctc"]
    folder = decoded(data / "late", shifted(alignment, 2))

    def measured() -> Any:
        experiment = read_experiment(folder)
        assert add_delays([experiment], reference, data, device="cpu") == "ctc"
        return experiment.results[0]["delays"]

    first = measured()
    assert first["words"]["mean"] == 80.0
    with monkeypatch.context() as patch:
        patch.setattr(delays, "emission_delays", None)
        assert measured() == first
        write_times(folder / "greedy_search" / "times-dev-x.jsonl", shifted(alignment, 3))
        with pytest.raises(TypeError):
            measured()
    assert measured()["words"]["mean"] == 120.0
    path = folder / "greedy_search" / "delays-dev-x.json"
    path.write_text(path.read_text().replace("120.0", "20.0"))
    with pytest.raises(UserError, match=r"delays-dev-x.json is damaged"):
        measured()


def test_only_streaming_on_test_sets_is_measured(
    reference: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = of_set(reference, data).utterances["ctc"]
    folders = [
        decoded(data / "whole", times, settings={"chunk_size": None}),
        decoded(data / "early", times, **{"set": "train"}),
        decoded(data / "old", times),
        decoded(data / "good", times),
    ]
    (data / "old" / "greedy_search" / "times-dev-x.jsonl").unlink()
    experiments = [read_experiment(folder) for folder in folders]
    assert add_delays(experiments, reference, data, device="cpu") == "ctc"
    assert [bool(e.results[0].get("delays")) for e in experiments] == [False, False, False, True]
    assert "1 results have no delays" in caplog.text
    assert "old/greedy_search/result-dev-x.json" in caplog.text and "early" not in caplog.text
    assert add_delays(experiments[:3], reference, data, device="cpu") is None


def test_without_reference_or_data_nothing_is_measured(
    reference: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = read_experiment(decoded(tmp_path / "late", {}))
    assert add_delays([experiment], tmp_path / "none", data, device="cpu") is None
    assert "none is not trained" in caplog.text
    assert add_delays([experiment], reference, tmp_path / "moved", device="cpu") is None
    assert "moved is not there" in caplog.text and "delays" not in experiment.results[0]


def test_the_results_page_has_delays_of_streaming_students(
    reference: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alignment = of_set(reference, data).utterances["ctc"]
    root = data / "root"
    decoded(root / "late", shifted(alignment, 2))
    (root / "big").symlink_to(reference)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_results(root)
    assert "delay" not in (root / "RESULTS.md").read_text()
    assert not (root / "delays.png").exists()
    write_results(root, delay_reference="big", data_dir=data)
    page = (root / "RESULTS.md").read_text()
    assert "| dev WER % (95 %) | CER % | delay, ms (90 %) | last word |" in page
    assert "| 12.50 (10.00–15.00) | 5.00 | 80 (80) | 80 (80) |" in page
    assert "against CTC forced alignment of the transcripts by `big`" in page
    assert "![delays.png](delays.png)" in page and (root / "delays.png").is_file()


def test_what_cannot_be_measured_is_refused(reference: Path, tmp_path: Path) -> None:
    folder = decoded(tmp_path / "late", {})
    with pytest.raises(UserError, match="no results of test") as error:
        measure_delays([folder], reference, tmp_path, sets=["test"], device="cpu")
    assert error.value.step == "decoding"
    times = folder / "greedy_search" / "times-dev-x.jsonl"
    times.unlink()
    with pytest.raises(UserError, match=r"times-dev-x.* is missing"):
        measure_delays([folder], reference, tmp_path, device="cpu")
    decoded(tmp_path / "other", {}, times_sha256="0" * 64)
    with pytest.raises(UserError, match=r"times-dev-x.* is damaged") as error:
        measure_delays([tmp_path / "other"], reference, tmp_path, device="cpu")
    assert error.value.step == "decoding"
    streaming = ModelConfig(
        dim=16, num_layers=1, num_heads=2, conv_kernel=3, causal=True, chunk_size=[4], **SIZES
    )
    save(tmp_path / "small", streaming, 24)
    with pytest.raises(UserError, match=r"attends to chunks of \[4\] frames"):
        of_set(tmp_path / "small", tmp_path)
