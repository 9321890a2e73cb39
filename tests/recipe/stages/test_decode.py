"""Decoding an experiment's folder: files, what is kept, what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import kaldialign
import pytest
import sentencepiece
import torch

from mvqkd.checkpoints.files import save_checkpoint
from mvqkd.data.loading.batch import Batch, collate
from mvqkd.data.loading.tokenizer import Tokenizer, train_tokenizer
from mvqkd.decoding.hypothesis import Hypothesis
from mvqkd.decoding.split import Recognized
from mvqkd.errors import UserError
from mvqkd.evaluation.result_files import read_recogs
from mvqkd.evaluation.token_times import read_times
from mvqkd.recipe.build import build_student, describe_model
from mvqkd.recipe.config.schema import DecodingConfig, ExperimentConfig, LossConfig, ModelConfig
from mvqkd.recipe.stages import decode
from mvqkd.recipe.stages.decode import choose_chunks, decode_experiment
from mvqkd.storage.files import read_json
from mvqkd.storage.jsonl import write_items

TEXTS = ["THE CAT SAT ON THE MAT", "A DOG RAN", "THE DOG AND THE CAT RAN ON"]
IDS = ["19-198-0002", "19-198-0001", "32-4137-0000"]
CONFIG = DecodingConfig(methods=["greedy_search"], blank_penalty=2.0)


def random_batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(n, 80, generator=generator).numpy() * 4 - 8 for n in (150, 90, 60)]
    return [collate(IDS, features, TEXTS, [torch.zeros(1).numpy()] * 3)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Decodes a random streaming student; returns the names of all result files."""
    tokenizer = train_tokenizer(TEXTS, 24, tmp_path / "lang")
    model = ModelConfig(
        dim=16,
        num_layers=1,
        num_heads=2,
        feedforward_dim=16,
        conv_kernel=3,
        causal=True,
        chunk_size=[4],
        left_context=8,
        predictor_dim=16,
        joiner_dim=16,
    )
    experiment = ExperimentConfig(model=model, loss=LossConfig(ctc_scale=0.1))
    exp_dir = tmp_path / "exp"
    exp_dir.mkdir()
    for epoch in (1, 2):
        torch.manual_seed(epoch)
        student = build_student(experiment, tokenizer.vocab_size)
        weights = {name: 4 * value for name, value in student.state_dict().items()}
        checkpoint = {
            "model": weights,
            "average": {name: value.double() for name, value in weights.items()},
            "average_count": epoch,
            "description": describe_model(experiment, tokenizer.vocab_size),
        }
        save_checkpoint(exp_dir / f"epoch-{epoch}.pt", checkpoint)
    cuts = tmp_path / "cuts.jsonl.gz"
    items = zip(IDS, TEXTS, strict=True)
    write_items(cuts, [{"id": name, "supervisions": [{"text": text}]} for name, text in items])
    monkeypatch.setattr(decode, "eval_loader", lambda *_, **__: random_batches())

    def decode_it(config: DecodingConfig, **options: Any) -> list[str]:
        decode_experiment(
            exp_dir,
            config,
            {"dev": cuts, "test": cuts},
            tmp_path / "lang",
            device="cpu",
            **options,
        )
        return sorted(str(path.relative_to(exp_dir)) for path in exp_dir.glob("*/*"))

    return decode_it


def test_files_and_their_names(run: Callable[..., list[str]], tmp_path: Path) -> None:
    suffix = "epoch-2-avg-1-use-averaged-model-chunk-4-left-8"
    penalty = "blank-penalty-2"
    config = replace(CONFIG, methods=["greedy_search", "modified_beam_search"])
    files = run(config)
    assert files == sorted(
        f"{method}/{kind}-{name}-{suffix}{size}-{penalty}.{ending}"
        for method, size in (("greedy_search", ""), ("modified_beam_search", "-beam-size-4"))
        for name in ("dev", "test")
        for kind, ending in (
            ("recogs", "txt"),
            ("errs", "txt"),
            ("times", "jsonl"),
            ("wer-summary", "txt"),
            ("result", "json"),
        )
    )
    folder = tmp_path / "exp" / "greedy_search"
    result = json.loads((folder / f"result-dev-{suffix}-{penalty}.json").read_text())
    assert result["utterances"] == 3
    assert result["counts"]["words"] == 16
    assert result["audio_seconds"] == pytest.approx(3.0)
    assert len(result["interval_by_speaker"]) == 2
    transcripts = read_recogs(folder / f"recogs-dev-{suffix}-{penalty}.txt")
    assert [t.id for t in transcripts] == ["19-198-0001", "19-198-0002", "32-4137-0000"]
    assert transcripts[1].reference == TEXTS[0].split()
    assert any(transcript.hypothesis for transcript in transcripts)
    times = read_times(folder / f"times-dev-{suffix}-{penalty}.jsonl")
    for transcript in transcripts:
        found = times[transcript.id]
        assert found.words().units == transcript.hypothesis
        assert found.frames == sorted(found.frames) and all(0 <= t < 37 for t in found.frames)
    errors = (folder / f"errs-dev-{suffix}-{penalty}.txt").read_text()
    assert errors.startswith(f"%WER = {result['wer']:.2f}\n")
    letters = [(" ".join(t.reference), " ".join(t.hypothesis)) for t in transcripts]
    distance = sum(kaldialign.edit_distance(list(a), list(b))["total"] for a, b in letters)
    assert result["cer"] == pytest.approx(100 * distance / sum(len(a) for a, _ in letters))


def test_chunked_finds_what_simulated_finds(run: Callable[..., list[str]], tmp_path: Path) -> None:
    run(replace(CONFIG, methods=["modified_beam_search", "ctc_greedy_search"]))
    files = run(
        replace(CONFIG, methods=["modified_beam_search", "ctc_greedy_search"], streaming="chunked")
    )
    pairs = [(name.replace("-chunked", ""), name) for name in files if "-chunked" in name]
    recogs = [pair for pair in pairs if "/recogs-" in pair[1]]
    assert len(recogs) == 4
    for simulated, chunked in recogs:
        assert read_recogs(tmp_path / "exp" / simulated) == read_recogs(tmp_path / "exp" / chunked)


def test_nbest(run: Callable[..., list[str]], tmp_path: Path) -> None:
    files = run(replace(CONFIG, methods=["modified_beam_search"], nbest=3))
    path = next(tmp_path / "exp" / name for name in files if "nbest-dev" in name)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["19-198-0001", "19-198-0002", "32-4137-0000"]
    tokenizer = Tokenizer.load(tmp_path / "lang")
    for line in lines:
        assert 1 < len(line["nbest"]) <= 3
        for hypothesis in line["nbest"]:
            assert hypothesis["text"] == tokenizer.decode(hypothesis["tokens"])
            assert len(hypothesis["frames"]) == len(hypothesis["tokens"])
        assert len({tuple(h["tokens"]) for h in line["nbest"]}) == len(line["nbest"])


def test_what_is_done_is_kept(
    run: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(CONFIG)
    calls: list[Any] = []
    original = decode.recognize
    monkeypatch.setattr(
        decode, "recognize", lambda *args, **kw: calls.append(args) or original(*args, **kw)
    )
    run(CONFIG)
    assert calls == []
    run(CONFIG, force=True)
    assert len(calls) == 2
    # Weights that were trained anew are other weights, whatever their names.
    path = tmp_path / "exp" / "epoch-2.pt"
    path.write_bytes(path.read_bytes() + b" ")
    run(CONFIG)
    assert len(calls) == 4


def test_another_set_of_the_same_name_replaces_nothing(
    run: Callable[..., list[str]], tmp_path: Path
) -> None:
    before = {name: (tmp_path / "exp" / name).read_bytes() for name in run(CONFIG)}
    write_items(tmp_path / "cuts.jsonl.gz", [{"id": "x", "supervisions": [{"text": "A DOG"}]}])
    with pytest.raises(UserError, match="two sets are called dev"):
        run(CONFIG)
    with pytest.raises(UserError, match="two sets are called dev"):
        run(replace(CONFIG, epoch=1))  # nor stands beside it
    assert before == {name: (tmp_path / "exp" / name).read_bytes() for name in before}
    assert run(CONFIG, force=True) == sorted(before)


def test_an_interrupted_decoding_is_done_again(
    run: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = run(CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr(decode, "write_errors", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            run(CONFIG, force=True)
    left = list((tmp_path / "exp" / "greedy_search").glob("result-dev-*"))
    assert left == []
    assert run(CONFIG) == complete


def test_refusals(run: Callable[..., list[str]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no decoding method fast_beam_search"):
        run(replace(CONFIG, methods=["fast_beam_search"]))
    with pytest.raises(UserError, match="cannot average 3"):
        run(replace(CONFIG, avg=3))
    with pytest.raises(UserError, match="beam_size"):
        run(replace(CONFIG, methods=["modified_beam_search"], beam_size=0))
    with pytest.raises(UserError, match="nbest=5 must be between 1 and beam_size=4"):
        run(replace(CONFIG, methods=["modified_beam_search"], nbest=5))
    train_tokenizer(TEXTS, 22, tmp_path / "lang")
    with pytest.raises(UserError, match="trained with 24 tokens"):
        run(CONFIG)


def test_each_chunk_size_has_results_of_its_own(run: Callable[..., list[str]], tmp_path) -> None:
    run(replace(CONFIG, streaming="chunked", chunk_size=[2, 8]))
    found = {path.name: path.read_text() for path in (tmp_path / "exp").glob("*/times-*")}
    suffixes = [f"chunk-{size}-left-8-chunked" for size in (2, 8)]
    assert len(found) == 4 and all(any(s in name for name in found) for s in suffixes)
    sizes = [read_json(x)["settings"]["chunk_size"] for x in tmp_path.glob("exp/*/result-dev*")]
    assert sorted(sizes) == [2, 8]
    run(replace(CONFIG, streaming="chunked", chunk_size=[8]), force=True)
    again = {path.name: path.read_text() for path in (tmp_path / "exp").glob("*/times-*")}
    assert again == found
    assert len({text for name, text in found.items() if "times-dev" in name}) == 2


@pytest.mark.parametrize("damage", [None, "{}"])
def test_token_times_that_are_not_as_written_are_decoded_again(
    run: Callable[..., list[str]], tmp_path: Path, damage: str | None
) -> None:
    files = run(CONFIG)
    (name,) = (name for name in files if "times-dev" in name)
    path = tmp_path / "exp" / name
    before = path.read_text()
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage)
    run(CONFIG)
    assert path.read_text() == before


def test_chunks() -> None:
    streaming = {"chunk_size": [-1, 16], "left_context": 64, "causal": True}
    full = {"chunk_size": [], "left_context": -1, "causal": False}
    (simulated,) = choose_chunks(DecodingConfig(), streaming)
    assert (simulated.size, simulated.left_context, simulated.with_states) == (16, 64, False)
    (chunked,) = choose_chunks(DecodingConfig(streaming="chunked", left_context=32), streaming)
    assert (chunked.size, chunked.left_context, chunked.with_states) == (16, 32, True)
    # 0, as of configurations of earlier versions, is that of the training.
    sizes = [c.size for c in choose_chunks(DecodingConfig(chunk_size=[4, 0, 16]), streaming)]
    assert sizes == [4, 16]
    assert choose_chunks(DecodingConfig(streaming="none"), streaming)[0].size is None
    assert choose_chunks(DecodingConfig(chunk_size=[0]), full)[0].size is None
    assert choose_chunks(DecodingConfig(left_context=-1), streaming)[0].left_context is None
    with pytest.raises(UserError, match="full context"):
        choose_chunks(DecodingConfig(chunk_size=[16]), full)
    with pytest.raises(UserError, match="unlimited left context"):
        choose_chunks(DecodingConfig(streaming="chunked", left_context=-1), streaming)
    half_rate = {**streaming, "half_rate": [2, 5]}
    assert choose_chunks(DecodingConfig(), half_rate)[0].size == 16
    for odd in ({"chunk_size": [4, 5]}, {"left_context": 33}):
        with pytest.raises(UserError, match="pairs of frames"):
            choose_chunks(DecodingConfig(**odd), half_rate)


def test_what_is_left_out_and_respelled_is_in_the_results(
    run: Callable[..., list[str]], tmp_path: Path
) -> None:
    def results() -> list[dict[str, Any]]:
        paths = sorted((tmp_path / "exp").glob("*/result-dev-*.json"))
        return [read_json(path) for path in paths]

    run(CONFIG)
    (result,) = results()
    assert (result["left_out"], result["references_changed"]) == ({}, 0)
    run(CONFIG, left_out={"dev": {"longer than 40 s": 2}})  # decoded before
    (other,) = results()
    assert other == result | {"left_out": {"longer than 40 s": 2}}


def test_a_perfect_recognizer_has_no_errors_with_a_model_that_normalizes(tmp_path: Path) -> None:
    """References are compared as the model spells them."""
    model = io.BytesIO()
    texts = ["½ … می‌خواهم", "A ﬁne DAY"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 3),
        model_writer=model,
        vocab_size=30,
        model_type="bpe",
        user_defined_symbols=["<blk>", "<sos/eos>"],
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    tokenizer = Tokenizer(model.getvalue())
    found = [
        Recognized(name, text, [Hypothesis(tokenizer.encode(text), [], 0.0)])
        for name, text in zip("ab", texts, strict=True)
    ]
    result = tmp_path / "result-dev-x.json"
    scored = decode._write_files(result, found, tokenizer, "dev", "greedy_search", 0)
    assert scored.total.errors == 0 and scored.total.words == 7
