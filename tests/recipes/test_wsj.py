"""egs/wsj: its options, its table of experiments, and its stages on real speech in the layout of
Wall Street Journal's discs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from lhotse import Recording

from mvqkd.data.folder import DataFolder
from mvqkd.recipe.config.load import load_config
from mvqkd.recipe.teacher_files import hypotheses_folder
from mvqkd.storage.jsonl import read_items
from tests.data.prepare.discs import DiscUtterance, write_list

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "egs/wsj/conf"
SIZES = {"teacher": (384, 5, 3), "mid": (256, 4, 1), "small": (128, 3, 1)}
ROWS = [(1, 5), (1, 10), (5, 5), (5, 10), (10, 10)]


def test_the_experiments_are_the_rows_of_the_table() -> None:
    rows = {f"{size}_k{count}_beam{beam}" for size in ("mid", "small") for count, beam in ROWS}
    assert {path.stem for path in CONF.glob("*.yaml")} == rows | SIZES.keys()
    results = (ROOT / "egs/wsj/RESULTS.md").read_text(encoding="utf-8")
    stores = set()
    for path in CONF.glob("*.yaml"):
        assert f"`{path.stem}`" in results
        config = load_config(path).config
        size, _, row = path.stem.partition("_")
        model = config.model
        assert (model.dim, model.num_layers, model.decoder.num_layers) == SIZES[size]
        assert (model.encoder, model.decoder.kind) == ("gru", "gru")
        section = config.distillation.hypotheses
        assert bool(section.weight) == bool(row)
        if row:
            assert row == f"k{section.num_hypotheses}_beam{section.beam_size}"
            assert (section.weighting, section.truth_share) == ("equal", 0)
            stores.add(hypotheses_folder(section, Path("data")))
    assert len(stores) == 2  # one for each beam


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "run.sh"), "--recipe", "egs/wsj", "--no-install", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture
def idle_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs do nothing: what they would be is printed."""
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{python.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("idle_programs")
def test_discs_are_unpacked_and_then_read_from_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "ldc").mkdir()
    done = run("--corpus-dir", str(tmp_path / "ldc"), "--stop-stage", "3")
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines() if "python local/" in line]
    unpacking, manifests, _, lang = lines
    assert f"unpack_wsj.py --corpus-dir {tmp_path}/ldc --out data/wsj/corpus" in unpacking
    assert "--splits 'train_si284 test_dev93 test_eval92 '" in unpacking
    assert "prepare_manifests.py --corpus-dir data/wsj/corpus --prefix wsj" in manifests
    assert "--units char" in lang
    assert f"{tmp_path}/ldc" not in "".join(lines[1:])


@pytest.mark.slow
def test_without_the_corpus_stage_0_says_what_to_get(tmp_path: Path) -> None:
    done = run("--stop-stage", "0", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert "LDC93S6B and LDC94S13B" in done.stderr and "--corpus-dir" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif("MVQKD_SHARED" not in os.environ, reason="MVQKD_SHARED names no folder")
def test_real_speech_in_the_layout_of_the_discs_goes_through_the_stages(tmp_path: Path) -> None:
    folder = Path(os.environ["MVQKD_SHARED"]) / "corpus" / "mini_librispeech" / "dev-mini"
    corpus = min(folder.rglob("*.trans.txt"))
    spoken = []
    for line in corpus.read_text(encoding="utf-8").splitlines()[:6]:
        name, text = line.split(maxsplit=1)
        recording = Recording.from_file(next(corpus.parent.glob(f"{name}.*"))).resample(16000)
        samples = recording.load_audio()[0]
        spoken.append((samples, f"{text.lower()} [loud_breath] ."))
    places = [f"wsj0/si_tr_s/011/011c020{n}.wv1" for n in range(2)]
    places += ["wsj1/si_tr_s/4a0/4a0c0201.wv1", "wsj1/si_tr_s/4a0/4a0c0202.wv1"]
    places += ["wsj1/si_dt_20/4k0/4k0c0301.wv1", "wsj0/si_et_20/440/440c0401"]
    found = [
        DiscUtterance(place, *audio_and_text)
        for place, audio_and_text in zip(places, spoken, strict=True)
    ]
    discs = tmp_path / "ldc"
    write_list(discs, "wsj0/doc/indices/train/tr_s_wv1.ndx", found[:2])
    write_list(discs, "wsj1/doc/indices/si_tr_s.ndx", found[2:4])
    write_list(discs, "wsj1/doc/indices/h1_p0.ndx", found[4:5])
    write_list(discs, "wsj0/doc/indices/test/nvp/si_et_20.ndx", found[5:])
    done = run(
        *("--corpus-dir", str(discs), "--data-dir", str(tmp_path / "data"), "--nj", "1"),
        *("--stop-stage", "3", "--exp", "teacher"),
    )
    assert done.returncode == 0, done.stderr
    data = DataFolder(tmp_path / "data")
    assert json.loads((data.root / "data.json").read_text())["prefix"] == "wsj"
    cuts = {cut["id"]: cut for cut in read_items(data.cuts("train_si284"))}
    assert sorted(cuts) == ["011c0200", "011c0201", "4a0c0201", "4a0c0202"]
    text = spoken[0][1].removesuffix(" [loud_breath] .").upper()
    assert cuts["011c0200"]["supervisions"][0]["text"] == text
    assert cuts["011c0200"]["duration"] == len(spoken[0][0]) / 16000
    tokens = (data.lang() / "tokens.txt").read_text(encoding="utf-8")
    assert all(len(line.split()[0]) == 1 for line in tokens.splitlines()[3:])
