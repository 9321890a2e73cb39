"""sherpa-onnx's own client, unmodified, talks to the server."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

pytest.importorskip("aiohttp", reason="needs aiohttp (extra serve)")

from aiohttp.test_utils import TestClient

from mvqkd import Recognizer
from tests.serving.test_server import direct, finals, with_server
from tests.test_recognizer import experiment
from tests.transcription.test_live import audio

NAME = "sherpa-onnx-online-websocket-client"
CLIENT = shutil.which(NAME, path=str(Path(sys.executable).parent)) or shutil.which(NAME)
pytestmark = pytest.mark.skipif(CLIENT is None, reason="needs sherpa-onnx-bin")


def test_the_client_gets_every_segment_and_the_end(tmp_path: Path) -> None:
    recognizer = Recognizer.load(
        experiment(tmp_path / "exp", streaming=True), method="greedy_search"
    )
    path = tmp_path / "speech.wav"
    soundfile.write(path, audio(6.0, 1), 16000, subtype="PCM_16")
    # What 16 bits make of it.
    samples, _ = soundfile.read(path, dtype="float32")

    async def work(client: TestClient) -> str:
        process = await asyncio.create_subprocess_exec(
            *(str(CLIENT), f"--server-port={client.port}", "--seconds-per-message=0.01", str(path)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output
        return output.decode()

    output = with_server(recognizer, work)
    messages = [line[line.index("{") :] for line in output.splitlines() if '{"text"' in line]
    results = [json.loads(message) for message in messages]
    assert finals(results) == direct(recognizer, samples) and len(finals(results)) > 1
    assert results[-1]["is_eof"] and "Done!" in output
