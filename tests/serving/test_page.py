"""The page in a real browser: a file fed as the microphone, and a file chosen."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("aiohttp", reason="needs aiohttp (extra serve)")

from aiohttp.test_utils import TestServer

from mvqkd import Recognizer
from mvqkd.serving.server import Server
from mvqkd.serving.session import Limits
from tests.serving.browser import CHROMIUM, Tab, browse
from tests.serving.test_server import RULE, direct
from tests.test_recognizer import experiment
from tests.transcription.test_live import audio

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome"),
]
CHOOSE = """(() => {
  const bytes = Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "%s"));
  byId("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
})()"""
FINALS = "[...document.querySelectorAll('p.final')].map((p) => p.lastChild.textContent)"
STATUS = "byId('status').textContent"


async def drop(tab: Tab, name: str, data: bytes) -> None:
    await tab.evaluate(CHOOSE % (base64.b64encode(data).decode(), name))


def test_words_come_from_the_microphone_and_from_files(tmp_path: Path) -> None:
    recognizer = Recognizer.load(
        experiment(tmp_path / "exp", streaming=True), method="greedy_search"
    )
    samples = audio(6.0, 1)
    soundfile.write(tmp_path / "mic.wav", np.pad(samples, (0, 16000 * 60)), 16000)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    expected = [text for text, _ in direct(recognizer, samples)]
    limits = Limits(seconds=30.0)

    async def run() -> None:
        server = TestServer(Server(recognizer, rule=RULE, limits=limits).application())
        await server.start_server()
        address = str(server.make_url("/"))
        try:
            async with browse(address, tmp_path / "mic.wav", tmp_path / "profile") as tab:
                # Not that the document is complete: so is the blank one before it.
                await tab.wait("typeof byId === 'function'")
                # A file: decoded by the browser, sample for sample what was sent.
                await drop(tab, "a.wav", (tmp_path / "a.wav").read_bytes())
                await tab.wait(f"{STATUS} === 'done'")
                assert await tab.evaluate(FINALS) == [text for text in expected if text]
                # No audio.
                await drop(tab, "b.wav", b"no audio")
                await tab.wait(f"{STATUS}.includes('b.wav is not audio')")
                # Too long: the page shows the reason.
                silence = np.zeros(16000 * 40)
                soundfile.write(tmp_path / "long.wav", silence, 16000)
                await drop(tab, "long.wav", (tmp_path / "long.wav").read_bytes())
                await tab.wait(f"{STATUS} === 'closed: more than 30 s of audio'")
                # The microphone: words appear while it is listened to.
                await tab.evaluate("byId('microphone').click()")
                await tab.wait(f"{STATUS} === 'listening' && byId('text').innerText.length > 20")
                await tab.wait(f"{FINALS}.length >= 2")
                await tab.evaluate("byId('microphone').click()")
                await tab.wait(f"{STATUS} === 'done'")
                heard = " ".join(await tab.evaluate(FINALS)).split()
                assert len(heard) > 3
                # And once more, after it was stopped.
                await tab.evaluate("byId('microphone').click()")
                await tab.wait(f"{STATUS} === 'listening'")
                await tab.evaluate("byId('microphone').click()")
                await tab.wait(f"{STATUS} === 'done'")
        finally:
            await server.close()

    asyncio.run(asyncio.wait_for(run(), 240))
