"""Every kind of stored file, damaged, ends in an error that names it or changes nothing, in the
functions that read it."""

from __future__ import annotations

import gzip
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import mvqkd
from mvqkd.checkpoints.files import load_checkpoint, save_checkpoint
from mvqkd.checkpoints.model_folder import write_safetensors
from mvqkd.checkpoints.pretrained import begin_with, write_pretrained
from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.excluded import excluded_line, excluded_path, read_excluded
from mvqkd.data.loading.feature_reader import FeatureReader
from mvqkd.data.loading.index import open_index
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.data.prepare.fbank import manifest_cuts
from mvqkd.data.prepare.preparation_report import PreparationReport, read_report
from mvqkd.data.targets.codes import CodesInfo, CodeStore, write_codes
from mvqkd.data.targets.embeddings import (
    EmbeddingFrames,
    EmbeddingsInfo,
    EmbeddingStore,
    write_embeddings,
)
from mvqkd.data.targets.hypothesis_records import StoredHypothesis, UtteranceHypotheses
from mvqkd.data.targets.hypothesis_store import (
    ENDING,
    HypothesesInfo,
    HypothesesWriter,
    HypothesisStore,
)
from mvqkd.evaluation.gather import compare, read_distillation, read_experiments
from mvqkd.evaluation.result_files import write_recogs
from mvqkd.evaluation.wer import Transcript
from mvqkd.models.build import build_model
from mvqkd.quantization import Quantizer, load_quantizer
from mvqkd.quantization.predictability.code_predictor import CodePredictor
from mvqkd.recipe.config.load import load_config, save_config
from mvqkd.recipe.config.schema import ExperimentConfig
from mvqkd.recipe.run_folder import check_folder, lang_name, record_start
from mvqkd.recipe.teacher_files import resolve_teacher
from mvqkd.storage.files import file_digest, write_json
from mvqkd.storage.ragged import shard_path
from tests.data.conftest import prepare, write_part
from tests.storage.damage import damages, outcome

DESCRIPTION = {
    "model": {
        **dict(dim=8, num_layers=1, num_heads=2, feedforward_dim=8, conv_kernel=3, dropout=0.0),
        **dict(causal=False, predictor_dim=8, context_size=2, joiner_dim=8),
        **dict(chunk_size=[], left_context=-1),
    },
    "vocab_size": 30,
    "heads": ["transducer"],
}
CODES = CodesInfo("hf:x", 3, 50.0, "0123abcd", num_codebooks=2, codebook_size=16)
FRAMES = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


@dataclass
class Kind:
    """A kind of stored file: a pattern of its path in the folder `root`, and a reader of it."""

    pattern: str
    read: Callable[[Path], object]
    flips: int = 12
    may_go: bool = False
    """Whether nothing is missed when it is deleted."""


def _weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return build_model(DESCRIPTION).state_dict()


def _write_experiment(exp: Path, data: Path, name: str) -> None:
    config = ExperimentConfig()
    config.training.num_epochs = 2
    save_config(config, exp / "config.yaml")
    lang = data / "lang_bpe_30"
    for file in ("bpe.model", "tokens.txt"):
        shutil.copy(lang / file, exp / file)
    digest = file_digest(lang / "bpe.model")
    write_json(exp / "data.json", {"lang": lang.name, "bpe_model_sha256": digest, "cuts": {}})
    write_json(exp / "distillation.json", {"codes": {"layer": 3, "bytes_per_hour": 1.5}})
    for epoch in (1, 2):
        average = {key: value.double() for key, value in _weights(10 + epoch).items()}
        counts = {"average": average, "average_count": epoch, "description": DESCRIPTION}
        save_checkpoint(exp / f"epoch-{epoch}.pt", {"model": _weights(epoch), **counts})
    objective = {f"model.{key}": value for key, value in _weights(2).items()}
    progress = {"progress": {"epoch": 3, "epoch_step": 0}}
    save_checkpoint(exp / "checkpoint-8.pt", {"objective": objective, **progress, **counts})
    save_checkpoint(exp / "best-valid-loss.pt", {"model": _weights(1), **counts})
    write_pretrained(exp, epoch=2, avg=1, use_averaged_model=True)
    write_safetensors(exp / "export/exp/model.safetensors", _weights(2), DESCRIPTION)
    folder = exp / "greedy_search"
    recogs = folder / "recogs-dev-x.txt"
    write_recogs(
        recogs, [Transcript("u1", ["THE", "CAT"], ["THE", name]), Transcript("u2", [], [])]
    )
    result = {"set": "dev", "method": "greedy_search", "suffix": "x", "wer": 50.0}
    facts = {"time": "2026-01-01", "parameters": 9, "recogs_sha256": file_digest(recogs)}
    write_json(folder / "result-dev-x.json", result | facts)
    record_start(exp, 1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of every kind; tests put back what they damage."""
    root = tmp_path_factory.mktemp("stored")
    data = root / "data"
    write_part(root / "corpus", "train-tiny")
    write_part(root / "corpus", "dev-a", utterances=2)
    prepare(root / "corpus", data, speeds=(1.0,))
    lang = data / "lang_bpe_30"
    open_index(data / "fbank/tiny_cuts_dev-a.jsonl.gz", lang)
    excluded = excluded_path(lang, data / "fbank/tiny_cuts_dev-a.jsonl.gz")
    text = excluded_line("107-7-0001", "9 tokens in 3 encoder frames")
    excluded.write_text(text)
    report = PreparationReport("dev")
    report.write(excluded.with_suffix(".report.json"), sha256=file_digest(excluded))
    teacher = data / "teachers/x"
    codes = np.random.default_rng(0).integers(0, 16, (40, 2), dtype=np.uint8)
    for index, names in enumerate(("ab", "c")):
        path = shard_path(teacher / "codes", "codes-train", index, 2)
        with write_codes(path, info=CODES, total_frames=20 * len(names)) as writer:
            for name in names:
                writer.write(name, codes[20 * index : 20 * index + 20])
    info = EmbeddingsInfo("hf:x", 3, 50.0, 6, first_frame=0.0125)
    with write_embeddings(teacher / "sample.h5", info=info, total_frames=40) as writer:
        for name, rows in (("a", FRAMES[:15]), ("b", FRAMES[15:])):
            writer.write(name, rows.numpy())
    for index, names in enumerate(("ab", "c")):
        path = shard_path(teacher / "texts", "hypotheses-train", index, 2, ENDING)
        with HypothesesWriter(path, HypothesesInfo("hf:x", {}, {}, {}, "00")) as writer:
            for name in names:
                one = StoredHypothesis("THE CAT", -0.5, 1, 4, ["the cat"], [3, 4])
                writer.write(UtteranceHypotheses(name, 1.0, [one]))
    quantizer = Quantizer.fit(
        FRAMES, num_codebooks=2, codebook_size=4, num_steps=2, metadata={"layer": 3}
    )
    quantizer.save(teacher / "quantizer.pt")
    predictor = CodePredictor.fit(
        [torch.zeros(80, 80)],
        [quantizer.encode(FRAMES)],
        codebook_size=4,
        num_steps=1,
        quantizer_id=quantizer.id,
        energy=1.0,
    )
    predictor.save(teacher / "quantizer.code_predictor.pt")
    for name in ("baseline", "other"):
        _write_experiment(root / "exp" / name, data, name)
    return root


def _features(root: Path) -> list[bytes]:
    cuts = DataFolder(root / "data").cuts("train-tiny")
    reader = FeatureReader([cuts])
    return [reader[name.decode()].tobytes() for name in open_index(cuts, None).ids.tolist()]


def _index(root: Path) -> object:
    data = root / "data"
    index = open_index(data / "fbank/tiny_cuts_dev-a.jsonl.gz", data / "lang_bpe_30")
    numbers = range(len(index))
    return index.fingerprint(), [(index.cut(i), index.tokens(i).tolist()) for i in numbers]


def _codes(root: Path) -> object:
    store = CodeStore(root / "data/teachers/x/codes")
    store.verify(dict.fromkeys("abc", 20), quantizer_id="0123abcd")
    return store.info, {name: store[name].tolist() for name in store}


def _hypotheses(root: Path) -> object:
    store = HypothesisStore(root / "data/teachers/x/texts")
    return store.info, [utterance.to_dict() for utterance in store.verify("abc")]


def _embeddings(root: Path) -> object:
    path = root / "data/teachers/x/sample.h5"
    store = EmbeddingStore(path)
    frames = EmbeddingFrames(store, list(store))
    blocks = [block.tolist() for block in EmbeddingStore(path).blocks(frames=7)]
    return store.info, frames.read(0, frames.num_frames).tolist(), blocks


def _quantizer(load: Callable[[Path], Quantizer]) -> Callable[[Path], object]:
    def read(root: Path) -> object:
        quantizer = load(root / "data/teachers/x/quantizer.pt")
        codes = quantizer.encode(FRAMES)
        return quantizer.id, quantizer.metadata, quantizer.decode(codes).tolist()

    return read


def _predictor(root: Path) -> object:
    predictor = CodePredictor.load(root / "data/teachers/x/quantizer.code_predictor.pt")
    found = predictor.log_probabilities(torch.zeros(40, 80), 10)
    return predictor.quantizer_id, predictor.energy, found.tolist()


def _model(name: str = "", **options: int) -> Callable[[Path], object]:
    def read(root: Path) -> object:
        model = mvqkd.load_model(root / "exp/baseline" / name, **options)
        return {key: value.tolist() for key, value in model.state_dict().items()}

    return read


def _begun(root: Path) -> object:
    model = build_model(DESCRIPTION)
    begin_with(model, root / "exp/baseline/best-valid-loss.pt")
    return {key: value.tolist() for key, value in model.state_dict().items()}


def _folder(root: Path) -> object:
    exp, config = root / "exp/baseline", ExperimentConfig()
    config.training.num_epochs = 2
    digest = file_digest(root / "data/lang_bpe_30/bpe.model")
    features = {"kind": "fbank", "bins": 80}
    data = {"features": features, "lang": "lang_bpe_30", "bpe_model_sha256": digest, "cuts": {}}
    return check_folder(exp, config, data)


def _compared(root: Path) -> object:
    baseline, other = read_experiments(root / "exp")
    compared = compare(other, baseline, by_speaker=False)
    return baseline, [(one.words, one.characters) for one in compared]


def _starts(root: Path) -> object:
    exp = root / "exp/baseline"
    record_start(exp, 1)
    return [experiment.starts[0] for experiment in read_experiments(root / "exp")]


KINDS = {
    "recordings": Kind(
        "data/manifests/*_recordings_dev-a.jsonl.gz",
        lambda root: manifest_cuts(DataFolder(root / "data"), "dev-a"),
    ),
    "supervisions": Kind(
        "data/manifests/*_supervisions_dev-a.jsonl.gz",
        lambda root: manifest_cuts(DataFolder(root / "data"), "dev-a"),
    ),
    "report of manifests": Kind(
        "data/manifests/tiny_dev-a.report.json",
        lambda root: read_report(DataFolder(root / "data").report("dev-a")),
        may_go=True,
    ),
    "data.json": Kind(
        "data/data.json",
        lambda root: (DataFolder(root / "data").splits(), DataFolder(root / "data").vocab_size),
    ),
    "cuts": Kind("data/fbank/tiny_cuts_train-tiny.jsonl.gz", _features),
    "features": Kind("data/fbank/feats_tiny_cuts_train-tiny-*/*.lca", _features, flips=30),
    "index": Kind("data/lang_bpe_30/tiny_cuts_dev-a.index.h5", _index, flips=60),
    "bpe.model": Kind(
        "data/lang_bpe_30/bpe.model",
        lambda root: Tokenizer.load(root / "data/lang_bpe_30").tokens,
    ),
    "report of tokens": Kind(
        "data/lang_bpe_30/bpe.report.json",
        lambda root: Tokenizer.load(root / "data/lang_bpe_30").tokens,
        may_go=True,
    ),
    "excluded cuts": Kind(
        "data/lang_bpe_30/excluded_dev-a.txt",
        lambda root: read_excluded(
            root / "data/lang_bpe_30", DataFolder(root / "data").cuts("dev-a")
        ),
    ),
    "codes": Kind("data/teachers/x/codes/codes-train-00000-of-00002.h5", _codes, flips=60),
    "embeddings": Kind("data/teachers/x/sample.h5", _embeddings, flips=60),
    "hypotheses": Kind("data/teachers/x/texts/hypotheses-train-00000-*.gz", _hypotheses, flips=30),
    "model.safetensors": Kind("exp/baseline/export/exp/model.safetensors", _model("export")),
    "quantizer": Kind("data/teachers/x/quantizer.pt", _quantizer(Quantizer.load)),
    "quantizer, imported": Kind("data/teachers/x/quantizer.pt", _quantizer(load_quantizer)),
    "code predictor": Kind("data/teachers/x/quantizer.code_predictor.pt", _predictor),
    "pretrained.pt": Kind("exp/baseline/pretrained.pt", _model()),
    "pretrained.pt, of a teacher": Kind(
        "exp/baseline/pretrained.pt",
        lambda root: resolve_teacher("mvqkd:baseline", root / "exp"),
    ),
    "last epoch": Kind("exp/baseline/epoch-2.pt", _model(epoch=-1)),
    "epoch before": Kind("exp/baseline/epoch-1.pt", _model(epoch=2, avg=1)),
    "checkpoint": Kind("exp/baseline/checkpoint-8.pt", _model("checkpoint-8.pt")),
    "checkpoint of another's decoding": Kind(
        "exp/baseline/checkpoint-8.pt", _model(epoch=-1), may_go=True
    ),
    "best-valid-loss.pt": Kind("exp/baseline/best-valid-loss.pt", _begun),
    "config.yaml": Kind(
        "exp/baseline/config.yaml",
        lambda root: load_config(root / "exp/baseline/config.yaml").config,
    ),
    "config.yaml, of a training": Kind("exp/baseline/config.yaml", _folder, may_go=True),
    "data.json of a training": Kind("exp/baseline/data.json", _folder, may_go=True),
    "data.json for decoding": Kind(
        "exp/baseline/data.json", lambda root: lang_name(root / "exp/baseline"), may_go=True
    ),
    "copy of bpe.model": Kind(
        "exp/baseline/bpe.model", lambda root: Tokenizer.load(root / "exp/baseline").tokens
    ),
    "distillation.json": Kind(
        "exp/baseline/distillation.json",
        lambda root: read_distillation(root / "exp/baseline"),
        may_go=True,
    ),
    "environment.json": Kind("exp/baseline/environment.json", _starts, may_go=True),
    "result": Kind("exp/other/greedy_search/result-dev-x.json", _compared),
    "recogs": Kind("exp/other/greedy_search/recogs-dev-x.txt", _compared),
}


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_named_or_changes_nothing(root: Path, name: str) -> None:
    kind = KINDS[name]
    (path,) = root.glob(kind.pattern)
    whole = path.read_bytes()
    saved = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    expected = kind.read(root)
    assert kind.read(root) == expected
    found = {}
    for damage, content in damages(whole, name, flips=kind.flips):
        for file, before in saved.items():
            if not file.is_file() or file.read_bytes() != before:
                file.write_bytes(before)
        found[damage] = outcome(path, content, lambda: kind.read(root), expected)
    for file, before in saved.items():
        file.write_bytes(before)
    if kind.may_go:
        found.pop("deleted")
    assert not {damage: words for damage, words in found.items() if words.startswith("WRONG")}
    # Otherwise nothing is read.
    unread = ("index", "epoch before", "checkpoint of another's decoding")
    assert any(words != "same" for words in found.values()) or name in unread


def test_the_checkpoint_is_what_it_was(root: Path) -> None:
    """The walk has put everything back."""
    assert load_checkpoint(root / "exp/baseline/checkpoint-8.pt")["progress"]["epoch"] == 3


def _tensors(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


STRANGE = {
    ".json": [b"{}", b"[]", b"null", b"5", b'{"digest": 5}', b"[[]]", b"\xff", b'{"cuts": 5}'],
    ".yaml": [b"[]", b"null", b"{", b"a: b", b"\xff", b"model: 5", b"distillation: [1]"],
    ".gz": [gzip.compress(x) for x in (b"{}\n", b"[]\n", b"null\n", b'{"id": 5}\n', b"\xff\n")],
    ".txt": [b"\xff", b"\n\n", b"x", b"x\ty\tz\n"],
    ".pt": [_tensors(x) for x in ({}, [], {"model": 5}, {"description": 5}, {"format": 5}, 5)],
    ".h5": [b"\x89HDF\r\n\x1a\n" + bytes(200), b"x" * 5000],
    ".model": [b"\xff" * 50],
    ".lca": [b"L" * 100],
    ".safetensors": [b"\xff" * 50, bytes(100), b"\x02" + bytes(7) + b"{}"],
}
"""Contents that are well formed, or nearly, and of something else."""


@pytest.mark.parametrize("name", KINDS)
def test_other_contents_are_refused_or_taken_and_no_defect(root: Path, name: str) -> None:
    kind = KINDS[name]
    (path,) = root.glob(kind.pattern)
    saved = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    found = []
    for content in STRANGE[path.suffix]:
        for file, before in saved.items():
            file.write_bytes(before)
        words = outcome(path, content, lambda: kind.read(root), None)
        if words.startswith("WRONG") and not words.endswith(("another result", "same")):
            found.append((content[:20], words))
    for file, before in saved.items():
        file.write_bytes(before)
    assert not found
