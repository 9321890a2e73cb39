"""Every kind of stored file, damaged, ends in an error that names it or changes nothing, in the
stages that read it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from mvqkd.checkpoints.files import load_checkpoint
from mvqkd.checkpoints.model_folder import read_safetensors
from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.feature_reader import FeatureReader
from mvqkd.data.targets.codes import CodeStore
from mvqkd.data.targets.embeddings import EmbeddingStore
from mvqkd.data.targets.hypothesis_store import HypothesisStore
from mvqkd.quantization import Quantizer
from mvqkd.recipe.stages.quantizer import QuantizerTraining
from mvqkd.storage.files import file_digest, read_json
from mvqkd.storage.jsonl import read_items
from tests.data.conftest import write_part
from tests.local.programs import run
from tests.storage.damage import damages, outcome
from tests.teachers.corpus import URI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WRITER = "python:tests.teachers.corpus:writer?word=round "
STUDENT = f"""
model: {{dim: 16, num_layers: 1, num_heads: 2, feedforward_dim: 16, conv_kernel: 3,
        predictor_dim: 16, joiner_dim: 16}}
data: {{step_duration: 6, num_buckets: 2, num_workers: 0}}
training: {{num_epochs: 2}}
decoding: {{methods: [greedy_search]}}
distillation:
  codes:
    weight: 1
    teacher: {URI}
    teacher_layer: 2
    layer: 1
    quantizer: {{num_codebooks: 2, num_steps: 2, sample_utterances: 8}}
  embeddings: {{weight: 1, teacher: "{URI}", teacher_layer: 3, layer: 1}}
"""
TEXTS = f"""
base: student.yaml
distillation:
  codes: {{weight: 0}}
  embeddings: {{weight: 0}}
  hypotheses: {{weight: 1, teacher: "{WRITER}", num_hypotheses: 2, beam_size: 3}}
"""
TEACHER = "data/teachers/tests.teachers.corpus-spectra"
HYPOTHESES = "data/teachers/tests.teachers.corpus-writer*/*/hypotheses-train-tiny-*.jsonl.gz"


def options(root: Path, *more: object, name: str = "student") -> tuple[object, ...]:
    return ("--config", root / f"{name}.yaml", "--data-dir", root / "data", *more)


Options = Callable[..., tuple[object, ...]]
of_texts = partial(options, name="texts")


def manifests(root: Path) -> object:
    run(
        "prepare_manifests",
        *("--corpus-dir", root / "corpus", "--data-dir", root / "data", "--prefix", "tiny"),
        *("--train-splits", "train-tiny", "--dev-splits", "dev-a", "--nj", 1),
    )
    return [list(read_items(path)) for path in sorted((root / "data/manifests").glob("*.gz"))]


def features(root: Path) -> object:
    run("compute_fbank", "--data-dir", root / "data", "--nj", 1)
    data = DataFolder(root / "data")
    return [list(read_items(data.cuts(split))) for split in ("train-tiny", "dev-a")]


def tokens(root: Path) -> object:
    run("prepare_lang", "--data-dir", root / "data", "--vocab-size", 30)
    lang = root / "data/lang_bpe_30"
    return [
        (lang / name).read_bytes() for name in ("bpe.model", "tokens.txt", "excluded_dev-a.txt")
    ]


def embeddings(root: Path) -> object:
    run("extract_embeddings", *options(root, "--exp-root", root / "exp", "--num-workers", 0))
    stores = map(EmbeddingStore, sorted((root / TEACHER).glob("*/layer-*")))
    return [{name: store.num_frames(name) for name in store} for store in stores]


def quantizer(root: Path) -> object:
    run("train_quantizer", *options(root, "--exp-root", root / "exp"))
    return Quantizer.load(root / TEACHER / "quantizer-layer-2-cb2.pt").centers.tolist()


def codes(root: Path) -> object:
    run("dump_codes", *options(root, "--exp-root", root / "exp", "--num-workers", 0))
    store = CodeStore(root / TEACHER / "codes-layer-2-cb2")
    return {name: store[name].tolist() for name in store}


def texts(root: Path) -> object:
    run("dump_hypotheses", *of_texts(root, "--exp-root", root / "exp", "--num-workers", 0))
    return [utterance.to_dict() for utterance in HypothesisStore(_one(root, HYPOTHESES).parent)]


def train(root: Path, name: str = "student", options: Options = options) -> object:
    exp = root / "exp" / name
    run("train", *options(root, "--exp-dir", exp, "--vocab-size", 30, "--device", "cpu"))
    weights = [load_checkpoint(exp / file)["model"] for file in ("epoch-2.pt", "pretrained.pt")]
    values = [{key: value.tolist() for key, value in state.items()} for state in weights]
    return values, (exp / "tokens.txt").read_text()


def decode(root: Path, *more: object) -> object:
    exp, data = root / "exp/student", root / "data"
    options = ("--exp-dir", exp, "--data-dir", data, "--splits", "dev-a", "--num-workers", 0)
    run("decode", *options, *more)
    return [path.read_text() for path in sorted(exp.glob("greedy_search/recogs-*"))]


def results(root: Path) -> object:
    run("results", "--exp-dir", root / "exp")
    return (root / "exp/RESULTS.md").read_text()


def export(root: Path) -> object:
    folder = root / "exp/student/export"
    run("export", "--exp-dir", folder.parent, "--data-dir", root / "data", "--num-workers", 0)
    contents: dict[str, object] = {
        str(file.relative_to(folder)): file_digest(file)
        for file in folder.rglob("*")
        if file.is_file()
    }
    # The order of its metadata is arbitrary.
    weights = read_safetensors(folder / "exp/model.safetensors")["model"]
    contents["exp/model.safetensors"] = {name: x.tolist() for name, x in weights.items()}
    contents["export.json"] = read_json(folder / "export.json")["settings"]
    return contents


anew = partial(train, name="other")
with_texts = partial(train, name="texts", options=of_texts)


def again(root: Path) -> object:
    return decode(root, "--force")


READERS: dict[str, list[Callable[[Path], object]]] = {
    "data/manifests/tiny_recordings_dev-a.jsonl.gz": [manifests, features],
    "data/manifests/tiny_supervisions_train-tiny.jsonl.gz": [manifests, features, tokens],
    "data/manifests/tiny_dev-a.report.json": [manifests, features],
    "data/data.json": [features, tokens, anew, decode],
    "data/fbank/tiny_cuts_train-tiny.jsonl.gz": [features, tokens, embeddings, anew],
    "data/fbank/tiny_cuts_dev-a.jsonl.gz": [anew, again],
    "data/fbank/tiny_cuts_dev-a.report.json": [features],
    "data/fbank/feats_tiny_cuts_train-tiny-*/000000.jsonl.gz": [features],
    "data/fbank/feats_tiny_cuts_train-tiny-*/000000.lca": [features, anew],
    "data/fbank/feats_tiny_cuts_dev-a-*/000000.lca": [again],
    "data/lang_bpe_30/tiny_cuts_train-tiny.index.h5": [tokens, anew],
    "data/lang_bpe_30/bpe.model": [tokens, anew, again],
    "data/lang_bpe_30/bpe.report.json": [tokens, anew],
    "data/lang_bpe_30/tokens.txt": [tokens, anew],
    "data/lang_bpe_30/excluded_dev-a.txt": [tokens, anew],
    f"{TEACHER}/sample/layer-2/*.h5": [embeddings, quantizer],
    f"{TEACHER}/embeddings/layer-3/*dev-a*.h5": [embeddings, anew],
    f"{TEACHER}/quantizer-layer-2-cb2.pt": [quantizer, codes, anew],
    f"{TEACHER}/quantizer-layer-2-cb2.json": [quantizer],
    f"{TEACHER}/quantizer-layer-2-cb2.code_predictor.pt": [quantizer],
    f"{TEACHER}/codes-layer-2-cb2/*train-tiny*.h5": [codes, anew],
    HYPOTHESES: [texts, with_texts],
    "exp/student/config.yaml": [train, decode, results],
    "exp/student/data.json": [train, decode],
    "exp/student/distillation.json": [train, results],
    "exp/student/environment.json": [train, results],
    "exp/student/log/metrics.jsonl": [train],
    "exp/student/epoch-2.pt": [train, again],
    "exp/student/epoch-1.pt": [train, again],
    "exp/student/pretrained.pt": [train, again],
    "exp/student/greedy_search/result-*.json": [decode, results],
    "exp/student/greedy_search/recogs-*.txt": [decode, results],
    "exp/student/export/export.json": [export],
    "exp/student/export/README.md": [export],
    "exp/student/export/exp/encoder-*.onnx": [export],
    "exp/student/export/exp/model.safetensors": [export],
    "exp/student/export/data/*/tokens.txt": [export],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder in which all stages ran, and a copy of it."""
    root = tmp_path_factory.mktemp("stages") / "root"
    write_part(root / "corpus", "train-tiny")
    write_part(root / "corpus", "dev-a", utterances=2)
    (root / "student.yaml").write_text(STUDENT)
    (root / "texts.yaml").write_text(TEXTS)
    with pytest.MonkeyPatch.context() as patch:
        _make_quantizers_small(patch)
        for stage in (manifests, features, tokens, embeddings, quantizer, codes, train, decode):
            stage(root)
        texts(root)
        export(root)
    results(root)
    copy = root.with_name("copy")
    shutil.copytree(root, copy)
    return root, copy


def _make_quantizers_small(patch: pytest.MonkeyPatch) -> None:
    small = QuantizerTraining(codebook_size=16, predictor_steps=2)
    patch.setattr(
        "mvqkd.recipe.stages.quantizer.QuantizerTraining",
        lambda **options: replace(small, **options),
    )


@pytest.mark.parametrize("pattern", READERS)
def test_damage_is_named_or_changes_nothing(
    made: tuple[Path, Path], pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, copy = made
    _make_quantizers_small(monkeypatch)
    found = {}
    for stage in READERS[pattern]:
        _put_back(root, copy)
        expected = stage(root)
        for damage, content in damages(_one(copy, pattern).read_bytes(), pattern, flips=3):
            _put_back(root, copy)
            name = f"{getattr(stage, '__name__', 'train')}, {damage}"
            found[name] = outcome(_one(root, pattern), content, lambda: stage(root), expected)  # noqa: B023
    assert not {name: words for name, words in found.items() if words.startswith("WRONG")}


def test_features_are_what_they_were(made: tuple[Path, Path]) -> None:
    root, copy = made
    _put_back(root, copy)
    cuts = DataFolder(root / "data").cuts("train-tiny")
    reader = FeatureReader([cuts])
    assert all(reader[item["id"]].shape[1] == 80 for item in read_items(cuts))


def _one(root: Path, pattern: str) -> Path:
    return min(root.glob(pattern))


def _put_back(root: Path, copy: Path) -> None:
    for name in ("data", "exp"):
        shutil.rmtree(root / name)
        shutil.copytree(copy / name, root / name)
