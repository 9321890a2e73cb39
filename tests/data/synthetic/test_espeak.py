from __future__ import annotations

import sys

import numpy as np
import pytest

from mvqkd.data.synthetic.espeak import Espeak, Line
from mvqkd.errors import UserError


@pytest.fixture(scope="module")
def espeak():
    pytest.importorskip("espeakng_loader")
    with Espeak() as espeak:
        yield espeak


LINES = [Line("The old dog slept.", "en-us+f2"), Line("Where is she?", "en-gb-scotland+klatt2")]


def test_speech_depends_on_the_request_alone(espeak):
    rate, first = espeak.speak(LINES, seed=1)
    espeak.speak([Line("Something else.", "en+m7", rate=250)], seed=2)
    again_rate, again = espeak.speak(LINES, seed=1)
    with Espeak() as other:
        _, elsewhere = other.speak(LINES, seed=1)
    assert rate == again_rate == 22050
    for a, b, c in zip(first, again, elsewhere, strict=True):
        assert a.tobytes() == b.tobytes() == c.tobytes()
    assert any(
        a.tobytes() != b.tobytes()
        for a, b in zip(first, espeak.speak(LINES, seed=2)[1], strict=True)
    )


def test_rate_and_text_set_the_duration(espeak):
    text = "The farmer walked slowly through the dark forest."
    _, (slow, fast, short) = espeak.speak(
        [Line(text, "en", rate=120), Line(text, "en", rate=240), Line("Yes.", "en", rate=120)],
        seed=0,
    )
    assert 1.5 < len(slow) / len(fast) < 2.5
    assert len(short) < len(slow) / 3
    assert 500 < np.abs(slow.astype(int)).max() < 32767


def test_variants_and_accents_sound_different(espeak):
    voices = ["en-us+f2", "en-us+m3", "en-us+klatt2", "en+m3"]
    _, spoken = espeak.speak([Line("We saw the river.", voice) for voice in voices], seed=0)
    assert len({samples.tobytes() for samples in spoken}) == len(voices)


def test_an_unknown_voice_is_an_error_and_the_next_request_is_answered(espeak):
    with pytest.raises(UserError, match="xx-nowhere"):
        espeak.speak([Line("Hello.", "xx-nowhere")], seed=0)
    _, spoken = espeak.speak(LINES[:1], seed=0)
    assert len(spoken[0]) > 10000


def test_nothing_to_say(espeak):
    assert espeak.speak([], seed=0)[1] == []


def test_a_missing_package_has_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r"pip install 'mvqkd\[mini\]'"):
        Espeak()


def test_a_broken_library_has_a_remedy(monkeypatch, tmp_path):
    loader = pytest.importorskip("espeakng_loader")
    broken = tmp_path / "libespeak-ng.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(loader, "get_library_path", lambda: str(broken))
    with Espeak() as espeak, pytest.raises(UserError, match="does not start"):
        espeak.speak(LINES, seed=0)
