"""A headless Chromium, driven by its DevTools protocol."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One page."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A method of the protocol."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            answer = await self._socket.receive_json()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, as after a click."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def wait(self, expression: str, seconds: float = 60.0) -> Any:
        """The value of an expression as soon as it is true."""
        for _ in range(round(seconds / 0.1)):
            if value := await self.evaluate(expression):
                return value
            await asyncio.sleep(0.1)
        text = await self.evaluate("document.body.innerText")
        raise AssertionError(f"{expression} stays false; the page says {text}")


@asynccontextmanager
async def browse(address: str, microphone: Path, profile: Path) -> AsyncIterator[Tab]:
    """A tab at an address, with a WAV file as the microphone, played once."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        "--headless=new",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
        address,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = await _port(profile / "DevToolsActivePort")
        async with ClientSession() as session:
            tab = None
            while tab is None:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                    tabs = await response.json()
                tab = next((each for each in tabs if each["url"].startswith(address)), None)
                await asyncio.sleep(0.1)
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Tab(socket)
    finally:
        process.terminate()
        await process.wait()


async def _port(path: Path) -> int:
    for _ in range(600):
        if path.is_file() and (text := path.read_text()):
            return int(text.split()[0])
        await asyncio.sleep(0.1)
    raise AssertionError("Chromium has not started")
