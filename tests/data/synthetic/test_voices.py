from __future__ import annotations

import random
from pathlib import Path

import pytest

from mvqkd.data.synthetic.voices import ACCENTS, VARIANTS, babble_voices, make_speakers
from mvqkd.errors import UserError


def test_splits_share_no_variant_and_no_speaker():
    variants = [name for split in VARIANTS.values() for v in split.values() for name in v.split()]
    assert len(variants) == len(set(variants))
    speakers = [s for split in VARIANTS for s in make_speakers(split, 30, seed=0)]
    assert len({speaker.id for speaker in speakers}) == 90


def test_default_training_speakers_cover_accents_evenly_over_both_sexes():
    speakers = make_speakers("train", 20, seed=0)
    assert len({speaker.variant for speaker in speakers}) == 20
    for sex in "FM":
        assert {s.accent for s in speakers if s.sex == sex} == set(ACCENTS)


def test_a_speaker_does_not_depend_on_how_many_there_are():
    assert make_speakers("test", 12, seed=3)[:4] == make_speakers("test", 4, seed=3)
    assert make_speakers("test", 4, seed=3) != make_speakers("test", 4, seed=4)


def test_speakers_of_one_variant_differ():
    speakers = make_speakers("dev", 9, seed=0)
    assert len({(s.voice, s.rate, s.pitch, s.range) for s in speakers}) == 9


def test_too_many_speakers_are_refused():
    with pytest.raises(UserError, match="at most 999"):
        make_speakers("train", 1000, seed=0)


def test_babble_is_of_training_voices():
    training = set(" ".join(VARIANTS["train"].values()).split())
    voices = babble_voices(random.Random(0), 200)
    assert {voice.split("+")[1] for voice in voices} <= training


def test_espeak_ships_every_voice():
    loader = pytest.importorskip("espeakng_loader")
    data = Path(loader.get_data_path())
    languages = {path.name.lower() for path in (data / "lang" / "gmw").iterdir()}
    assert set(ACCENTS) <= languages
    names = {name for split in VARIANTS.values() for v in split.values() for name in v.split()}
    assert names <= {path.name for path in (data / "voices" / "!v").iterdir()}
