"""The tiny corpus of `tests/data`."""

from __future__ import annotations

from tests.data.conftest import corpus, make_speech, prepared  # noqa: F401
