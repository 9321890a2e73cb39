from __future__ import annotations

import importlib.util
import multiprocessing
import shutil
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mvqkd.data.synthetic.corpus import CorpusConfig, make_corpus, plan
from mvqkd.data.synthetic.summary import read_split
from mvqkd.errors import UserError

pytest.importorskip("espeakng_loader")

CONFIG = CorpusConfig(
    seed=7,
    train_speakers=3,
    train_utterances=25,
    dev_speakers=1,
    dev_utterances=4,
    test_speakers=2,
    test_utterances=3,
)
SIZES = {"train-mini": (3, 75), "dev-mini": (1, 4), "test-mini": (2, 6)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "LibriSpeech"
    make_corpus(out, CONFIG, nj=2, progress=False)
    return out


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_layout_is_librispeechs(corpus):
    expected = {"SPEAKERS.TXT", "corpus.json"}
    for path in corpus.rglob("*.trans.txt"):
        part, speaker, chapter, name = path.relative_to(corpus).parts
        assert name == f"{speaker}-{chapter}.trans.txt"
        expected.add(str(path.relative_to(corpus)))
        for index, line in enumerate(path.read_text().splitlines()):
            utterance, text = line.split(" ", 1)
            assert utterance == f"{speaker}-{chapter}-{index:04d}"
            assert text.replace(" ", "").isalpha() and text.isupper()
            expected.add(f"{part}/{speaker}/{chapter}/{utterance}.flac")
    assert set(contents(corpus)) == expected


def test_parts_have_the_sizes_asked_for_and_share_nothing(corpus):
    parts = {name: read_split(corpus / name) for name in SIZES}
    assert {n: (len(p.speakers), len(p.texts)) for n, p in parts.items()} == SIZES
    assert len(set.union(*(part.speakers for part in parts.values()))) == 6
    assert len({text for part in parts.values() for text in part.texts}) == 85
    for name in ("dev-mini", "test-mini"):
        assert set(parts[name].words) <= set(parts["train-mini"].words)


def test_audio_is_speech_between_silences(corpus):
    for path in corpus.rglob("*.trans.txt"):
        for line in path.read_text().splitlines():
            utterance, text = line.split(" ", 1)
            wave, rate = soundfile.read(path.with_name(f"{utterance}.flac"))
            info = soundfile.info(path.with_name(f"{utterance}.flac"))
            assert (rate, info.channels, info.subtype) == (16000, 1, "PCM_16")
            assert 0.05 < np.abs(wave).max() <= 0.951
            letters = len(text.replace(" ", ""))
            # 0.2 to 1.0 s of silence, then the speech
            assert 0.025 * letters + 0.2 < len(wave) / rate < 0.12 * letters + 1.2, utterance
            powers = np.square(wave[: len(wave) // 320 * 320]).reshape(-1, 320).mean(axis=1)
            assert powers.max() > 5 * powers[:4].mean(), utterance  # 80 ms before the speech
            assert np.unique(wave).size > 200


def test_speakers_table_names_everyone(corpus):
    rows = [
        [field.strip() for field in line.split("|")]
        for line in (corpus / "SPEAKERS.TXT").read_text().splitlines()
        if not line.startswith(";")
    ]
    assert [(int(row[0]), row[1], row[2]) for row in rows] == list(
        dict.fromkeys((c.speaker.id, c.speaker.sex, f"{c.split}-mini") for c in plan(CONFIG))
    )
    minutes = sum(float(row[3]) for row in rows)
    seconds = sum(read_split(corpus / name).seconds for name in SIZES)
    assert minutes == pytest.approx(seconds / 60, abs=0.01 * len(rows))


def test_lhotse_reads_it(corpus):
    recipes = pytest.importorskip("lhotse.recipes")
    manifests = recipes.prepare_librispeech(corpus, dataset_parts=list(SIZES))
    for name, (speakers, utterances) in SIZES.items():
        supervisions = manifests[name]["supervisions"]
        assert len(manifests[name]["recordings"]) == len(supervisions) == utterances
        assert len({supervision.speaker for supervision in supervisions}) == speakers


def test_bytes_depend_neither_on_parallelism_nor_on_a_kill(corpus, tmp_path):
    out = tmp_path / "LibriSpeech"
    # Forked: a fresh interpreter would spend seconds on imports.
    process = multiprocessing.get_context("fork").Process(
        target=make_corpus, args=(out, CONFIG), kwargs={"nj": 1, "progress": False}
    )
    process.start()
    while process.is_alive() and len(list(out.rglob("1*.flac"))) < 30:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    made = {path: path.stat().st_mtime_ns for path in out.rglob("1*.flac")}
    assert 30 <= len(made) < 75
    # What a kill in the middle of a write leaves behind.
    (next(iter(made)).parent / ".tmp-1-half.trans.txt").write_text("x")

    make_corpus(out, CONFIG, nj=3, progress=False)
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())
    assert contents(out) == contents(corpus)


def test_the_program_reports_what_there_is(corpus, monkeypatch, capsys):
    path = Path(__file__).resolve().parents[3] / "local/make_mini_corpus.py"
    spec = importlib.util.spec_from_file_location("make_mini_corpus", path)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    options = [f"--{k.replace('_', '-')}={v}" for k, v in asdict(CONFIG).items()]
    before = contents(corpus)
    monkeypatch.setattr(sys, "argv", ["make_mini_corpus.py", f"--out={corpus.parent}", *options])
    program.main()
    printed = capsys.readouterr().out
    assert "train-mini" in printed and f"{corpus}: ready" in printed
    assert contents(corpus) == before


def test_another_configuration_is_refused(corpus):
    before = contents(corpus)
    others = [replace(CONFIG, seed=8), replace(CONFIG, dev_speakers=2)]
    for other in [*others, replace(CONFIG, text="spelling")]:
        with pytest.raises(UserError, match=r"another configuration: .* -> ") as error:
            make_corpus(corpus, other, progress=False)
        assert str(corpus) in str(error.value.remedy)
    assert contents(corpus) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / ".tmp-thesis").write_text("more of it")
    with pytest.raises(UserError, match="no synthetic corpus"):
        make_corpus(tmp_path, CONFIG, progress=False)
    assert contents(tmp_path) == {"thesis.tex": b"years of work", ".tmp-thesis": b"more of it"}


@pytest.mark.parametrize("killed", ["corpus.json", "SPEAKERS.TXT"])
def test_a_kill_at_the_first_or_the_last_file_is_no_hindrance(corpus, tmp_path, killed):
    out = tmp_path / "LibriSpeech"
    if killed == "SPEAKERS.TXT":
        shutil.copytree(corpus, out)
        (out / killed).unlink()
    else:
        out.mkdir()
    (out / f".tmp-17-{killed}").write_text("{")
    make_corpus(out, CONFIG, nj=2, progress=False)
    assert contents(out) == contents(corpus)


@pytest.mark.parametrize("field", ["train_speakers", "test_utterances"])
def test_sizes_below_one_are_refused(field):
    with pytest.raises(UserError, match=f"{field} is 0"):
        replace(CONFIG, **{field: 0})


def test_the_seed_changes_words_and_voices():
    other = plan(replace(CONFIG, seed=8))
    for mine, theirs in zip(plan(CONFIG), other, strict=True):
        assert mine.sentences != theirs.sentences
        assert mine.speaker != theirs.speaker
