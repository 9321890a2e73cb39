"""Wall Street Journal's discs: a tree in their layout, with audio as they have it and as it is
converted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mvqkd.data.prepare.sources import list_splits
from mvqkd.data.prepare.sphere import read_sphere
from mvqkd.data.prepare.wsj import SPLITS, WsjCorpus, unpack
from mvqkd.data.prepare.wsj_text import normalize_dot
from mvqkd.errors import UserError
from tests.data.prepare.discs import DiscUtterance, write_list, write_sphere

Speech = Callable[..., np.ndarray]
HEADER = "NIST_1A\n   1024\nsample_count -i {}\nsample_coding -s26 {}\nend_head\n"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Mr. Roe's co-workers agreed .", "MR. ROE'S CO-WORKERS AGREED"),
        (r"it rose \\.point five \\%percent", "IT ROSE POINT FIVE PERCENT"),
        (r"yes \\,COMMA he said --DASH \"DOUBLE-QUOTE", "YES COMMA HE SAID DASH DOUBLE-QUOTE"),
        ("'SINGLE-QUOTE 'em 'TIS", "SINGLE-QUOTE 'EM 'TIS"),
        ("[loud_breath] the <and> U. S. [<door_slam] plan ~", "THE AND U. S. PLAN"),
        ("[phone_ring/] five [/phone_ring] *millyon* (un)sold", "FIVE MILLYON UNSOLD"),
        ("[tongue-click] . -- ~", ""),
    ],
)
def test_transcripts_are_what_is_said(written: str, said: str) -> None:
    assert normalize_dot(written) == said


@pytest.fixture
def discs(tmp_path: Path, make_speech: Speech) -> Path:
    """Two utterances of each training list, and one of the speaker whom Kaldi leaves out, without
    audio. Discs differ in the case of names."""
    root = tmp_path / "ldc"
    texts = iter(("one", "two", "three", "four", "five", "six"))

    def spoken(place: str) -> DiscUtterance:
        number = next(texts)
        text = f"The \\\\%percent of number {number} ."
        return DiscUtterance(place, make_speech(0.4, len(number)), text)

    write_list(
        root / "11-13.1",
        "wsj0/doc/indices/train/tr_s_wv1.ndx",
        [spoken("wsj0/si_tr_s/011/011c0201.wv1"), spoken("wsj0/si_tr_s/011/011c0202.wv1")],
        more=["wsj0/si_tr_s/401/401c0201.wv1"],
    )
    write_list(
        root / "13-34.1",
        "WSJ1/doc/indices/si_tr_s.ndx",
        [spoken("/WSJ1/SI_TR_S/4A0/4A0C0201.WV1"), spoken("/WSJ1/SI_TR_S/4A0/4A0C0202.WV1")],
    )
    dev, test = spoken("wsj1/si_dt_20/4k0/4k0c0301.wv1"), spoken("wsj0/si_et_20/440/440c0401")
    write_list(root / "13-34.1", "wsj1/doc/indices/h1_p0.ndx", [dev])
    write_list(root / "11-13.1", "wsj0/doc/indices/test/nvp/si_et_20.ndx", [test])
    return root


def test_discs_become_a_corpus_that_stage_1_reads(discs: Path, tmp_path: Path) -> None:
    output = tmp_path / "corpus"
    unpack(discs, ["train_si284", "test_dev93", "test_eval92"], output, num_jobs=2)
    splits = list_splits(output)
    assert set(splits) == {"train_si284", "test_dev93", "test_eval92"}
    listing = splits["train_si284"]()
    assert not listing.problems and not listing.unused
    segments = {segment.id: segment for segment in listing.supervisions}
    assert list(segments) == ["011c0201", "011c0202", "4a0c0201", "4a0c0202"]
    assert segments["4a0c0202"].speaker == "4a0"
    assert segments["011c0201"].text == "THE PERCENT OF NUMBER ONE"
    assert segments["4a0c0202"].text == "THE PERCENT OF NUMBER FOUR"
    assert [s.id for s in splits["test_eval92"]().supervisions] == ["440c0401"]
    (wave,) = discs.rglob("4A0C0202.WV1")
    expected, _ = soundfile.read(wave, dtype="int16")
    found, rate = soundfile.read(listing.audio["4a0c0202"], dtype="int16")
    assert rate == 16000
    np.testing.assert_array_equal(found, expected)
    assert listing.probes["4a0c0202"]().num_samples == len(expected) == 6400


def test_what_is_unpacked_is_kept(discs: Path, tmp_path: Path) -> None:
    output = tmp_path / "corpus"

    def times() -> dict[str, int]:
        return {p.name: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}

    unpack(discs, ["train_si84"], output, num_jobs=1)
    before = times()
    (output / "train_si84/011/011c0202.flac").unlink()
    unpack(discs, ["train_si84"], output, num_jobs=1)
    assert before.keys() == times().keys() == {"011c0201.flac", "011c0202.flac", "011.trans.txt"}
    assert [name for name in before if times()[name] != before[name]] == ["011c0202.flac"]


def test_merged_folders_and_converted_audio_are_read(
    discs: Path, tmp_path: Path, make_speech: Speech
) -> None:
    """`wsj0` and `wsj1` alone, and WAV in place of SPHERE."""
    merged = tmp_path / "merged"
    for name in ("wsj0", "wsj1"):
        for path in sorted(discs.rglob("*")):
            parts = [part.lower() for part in path.relative_to(discs).parts]
            if path.is_file() and name in parts:
                target = merged.joinpath(*parts[parts.index(name) :])
                target.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix.lower() == ".wv1":
                    soundfile.write(target.with_suffix(".wav"), *soundfile.read(path))
                else:
                    target.write_bytes(path.read_bytes())
    one, other = (WsjCorpus(folder).split("train_si284") for folder in (discs, merged))
    assert [(u.id, u.text) for u in one] == [(u.id, u.text) for u in other]
    assert {u.audio.suffix for u in other} == {".wav"}


def test_missing_discs_are_named(discs: Path, tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(UserError, match=message) as error:
            unpack(discs, [name], tmp_path / "corpus", num_jobs=1)
        assert "LDC93S6A" in str(error.value.remedy) and "corpus_dir" in error.value.parameters
        assert not (tmp_path / "corpus").exists()

    refused("test_eval93", f"has no {SPLITS['test_eval93'][0]}")
    (audio,) = discs.rglob("011c0202.wv1")
    audio.unlink()
    refused("train_si84", "1 of 2 utterances of train_si84, as the audio of wsj0/si_tr_s/011/011c")
    for path in discs.rglob("011c0200.dot"):
        path.unlink()
    refused("train_si84", "2 of 2 utterances of train_si84, as the transcript of wsj0/si_tr_s/011")
    with pytest.raises(UserError, match="has no folders wsj0 and wsj1"):
        WsjCorpus(tmp_path / "nothing")


@pytest.fixture
def shortened(tmp_path: Path) -> Path:
    path = tmp_path / "a.wv1"
    header = HEADER.format(4000, "pcm,embedded-shorten-v2.00").encode()
    path.write_bytes(header.ljust(1024) + b"ajkg\x02")
    return path


def test_compressed_audio_needs_a_program(
    shortened: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_speech: Speech
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match="compressed with shorten") as error:
        read_sphere(shortened)
    assert "install-sph2pipe" in str(error.value.remedy)
    # A program with its options, which finds this audio in every file.
    soundfile.write(tmp_path / "a.wav", make_speech(0.25, 1), 16000)
    program = tmp_path / "bin/sph2pipe"
    program.parent.mkdir()

    def write(content: str) -> None:
        program.write_text(f"#!/bin/sh\n{content}\n")
        program.chmod(0o755)

    write(f'[ "$*" = "-f wav -p -c 1 {shortened}" ] && exec /bin/cat {tmp_path}/a.wav')
    samples, rate = read_sphere(shortened)
    expected, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert rate == 16000
    np.testing.assert_array_equal(samples, expected)
    write("echo lost sync >&2; exit 3")
    with pytest.raises(UserError, match="sph2pipe fails: lost sync"):
        read_sphere(shortened)


def test_audio_that_is_cut_off_is_refused(tmp_path: Path, make_speech: Speech) -> None:
    path = tmp_path / "a.wv1"
    write_sphere(path, make_speech(0.25, 1))
    assert len(read_sphere(path)[0]) == 4000
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="3500 samples, its header says 4000"):
        read_sphere(path)
    path.write_bytes(b"no audio")
    with pytest.raises(UserError, match="cannot be read"):
        read_sphere(path)
