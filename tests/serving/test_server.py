"""Clients of the server: results as of direct decoding, limits, and reasons."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="needs aiohttp (extra serve)")

from aiohttp import ClientWebSocketResponse, WSMsgType
from aiohttp.test_utils import TestClient, TestServer

from mvqkd import Recognizer
from mvqkd.serving.server import BATCHER, Server
from mvqkd.serving.session import Limits
from mvqkd.transcription.live import EndpointRule, LiveStream, decode_chunk
from tests.test_recognizer import experiment
from tests.transcription.test_live import audio

RULE = EndpointRule(0.4, 2.0)
Socket = ClientWebSocketResponse


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    folder = experiment(tmp_path_factory.mktemp("serve") / "exp", streaming=True)
    return Recognizer.load(folder, method="greedy_search")


def with_server(
    recognizer: Any, work: Callable[[TestClient], Awaitable[Any]], **options: Any
) -> Any:
    async def run() -> Any:
        server = Server(recognizer, rule=RULE, **options)
        async with TestClient(TestServer(server.application())) as client:
            return await asyncio.wait_for(work(client), 60)

    return asyncio.run(run())


async def talk(
    client: TestClient, samples: np.ndarray, block: int, path: str = "/", done: bool = True
) -> tuple[list[dict[str, Any]], Socket]:
    """Send everything, and take what comes back until the server closes."""
    socket = await client.ws_connect(path)
    for begin in range(0, len(samples), block):
        await socket.send_bytes(samples[begin : begin + block].astype("<f4").tobytes())
        await asyncio.sleep(0)
    if done:
        await socket.send_str("Done")
    results = []
    async for message in socket:
        assert message.type == WSMsgType.TEXT
        results.append(message.data)
    if done:
        assert results.pop() == "Done!"
    return [json.loads(text) for text in results], socket


def direct(recognizer: Recognizer, samples: np.ndarray) -> list[tuple[str, list[str]]]:
    """Text and tokens of each segment."""
    sessions = recognizer.sessions()
    stream = LiveStream(sessions, recognizer.tokens, RULE)
    stream.accept(samples)
    stream.finish()
    found = []
    while brought := decode_chunk(sessions, [stream]):
        found += [update.final for _, update in brought if update.final]
    found.append(stream.rest())
    return [
        (
            " ".join(word.text for word in stream.words(segment)),
            [recognizer.tokens[emission.token] for emission in segment],
        )
        for segment in found
    ]


def finals(results: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    return [(result["text"], result["tokens"]) for result in results if result["is_final"]]


@pytest.mark.parametrize("block", [400, 8000])
def test_results_are_those_of_direct_decoding(recognizer: Recognizer, block: int) -> None:
    samples = audio(8.0, 1)
    results, socket = with_server(recognizer, lambda client: talk(client, samples, block))
    assert finals(results) == direct(recognizer, samples) and len(finals(results)) > 2
    assert socket.close_code == 1000
    numbers = [result["segment"] for result in results]
    assert sorted(set(numbers)) == list(range(len(finals(results)))) and numbers == sorted(numbers)
    assert [result["is_eof"] for result in results] == [False] * (len(results) - 1) + [True]
    for result in results:
        assert len(result["tokens"]) == len(result["timestamps"]) == len(result["ys_probs"])
        times = result["timestamps"]
        assert times == sorted(times) and all(time >= 0 for time in times)
        if result["is_final"]:
            assert " ".join(word["word"] for word in result["words"]) == result["text"]
            starts = [word["start"] for word in result["words"]]
            assert all(start >= result["start_time"] - 0.011 for start in starts)
    assert any(not result["is_final"] for result in results)


def test_sessions_together_are_sessions_apart(recognizer: Recognizer) -> None:
    inputs = [audio(seconds, seed) for seed, seconds in enumerate((6.0, 3.3, 4.7, 0.0, 2.0))]

    async def work(client: TestClient) -> tuple[list[Any], float]:
        found = await asyncio.gather(*(talk(client, samples, 6400) for samples in inputs))
        batcher = client.server.app[BATCHER]
        return list(found), batcher.chunks / batcher.steps

    found, batch = with_server(recognizer, work)
    for (results, _), samples in zip(found, inputs, strict=True):
        assert finals(results) == direct(recognizer, samples)
    assert batch > 1.5


def test_batches_have_a_limit(recognizer: Recognizer) -> None:
    sizes = []

    class Counting:
        tokens = recognizer.tokens

        def sessions(self) -> Any:
            sessions = recognizer.sessions()
            step = sessions.step
            sessions.step = lambda each: (sizes.append(len(each)), step(each))  # type: ignore
            return sessions

    async def work(client: TestClient) -> Any:
        return await asyncio.gather(*(talk(client, audio(2.0, seed), 32000) for seed in range(5)))

    found = with_server(Counting(), work, max_batch=2)
    assert max(sizes) == 2
    for seed, (results, _) in enumerate(found):
        assert finals(results) == direct(recognizer, audio(2.0, seed))


def test_other_rates_are_resampled(recognizer: Recognizer) -> None:
    samples = np.repeat(audio(3.0, 1), 3)  # its spectrum has images, but it is the same for both
    path = "/?sample_rate=48000"
    results, _ = with_server(recognizer, lambda client: talk(client, samples, 4800, path))
    assert finals(results) and results[-1]["is_eof"]


GOOD = np.zeros(1600, "<f4").tobytes()
BAD: dict[str, tuple[Sequence[Any], str, int, str]] = {
    "odd": ([GOOD, GOOD[:-1]], "/", 1007, "6399 bytes are no whole float32 samples"),
    "nan": ([np.full(10, np.nan, "<f4").tobytes()], "/", 1007, "not finite"),
    "integers": ([np.full(10, 9000.0, "<f4").tobytes()], "/", 1007, "divide 16-bit integers"),
    "text": (["Stop"], "/", 1003, "text that is not Done"),
    "large": ([bytes(1 << 16)], "/", 1009, "a frame of more than 32000 bytes"),
    "long": ([GOOD] * 60, "/", 1008, "more than 5 s of audio"),
    "rate": ([GOOD], "/?sample_rate=1000", 1008, "from 8000 to 192000 Hz"),
    "no rate": ([GOOD], "/?sample_rate=x", 1008, "sample_rate=x"),
    "idle": ([GOOD], "/", 1008, "no message for 0.5 s"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_closes_with_a_reason(recognizer: Recognizer, name: str) -> None:
    messages, path, code, reason = BAD[name]
    limits = Limits(message_bytes=32000, seconds=5.0, idle=0.5 if name == "idle" else 20.0)

    async def work(client: TestClient) -> tuple[int | None, str]:
        other = await client.ws_connect("/")
        socket = await client.ws_connect(path)
        for message in messages:
            if isinstance(message, str):
                await socket.send_str(message)
            else:
                await socket.send_bytes(message)
        closed = await socket.receive()
        while closed.type == WSMsgType.TEXT:
            closed = await socket.receive()
        if name != "idle":  # the others are not disturbed
            await other.send_str("Done")
            assert json.loads((await other.receive()).data)["is_eof"]
        return closed.data, closed.extra

    found_code, found_reason = with_server(recognizer, work, limits=limits)
    assert found_code == code and reason in found_reason


def test_a_long_stream_is_closed_while_it_is_answered(recognizer: Recognizer) -> None:
    async def work(client: TestClient) -> None:
        _, socket = await talk(client, audio(40.0, 1), 4000, done=False)
        assert socket.close_code == 1008

    with_server(recognizer, work, limits=Limits(seconds=30.0, pending=20.0))


def test_too_many_sessions(recognizer: Recognizer) -> None:
    async def work(client: TestClient) -> None:
        first = await client.ws_connect("/")
        second = await client.ws_connect("/")
        closed = await second.receive()
        assert closed.data == 1013 and "1 sessions are open" in closed.extra
        await first.close()
        for _ in range(100):  # there is room again
            third = await client.ws_connect("/")
            await third.send_str("Done")
            if (await third.receive()).type == WSMsgType.TEXT:
                return
            await asyncio.sleep(0.05)
        raise AssertionError

    with_server(recognizer, work, limits=Limits(sessions=1))


class Held:
    """A recognizer that waits until it is let go."""

    def __init__(self, recognizer: Recognizer, error: Exception | None = None) -> None:
        import threading

        self.tokens = recognizer.tokens
        self.go = threading.Event()
        self._recognizer = recognizer
        self._error = error

    def sessions(self) -> Any:
        sessions = self._recognizer.sessions()
        step = sessions.step

        def held(each: Any) -> None:
            self.go.wait(30)
            if self._error:
                raise self._error
            step(each)

        sessions.step = held  # type: ignore[method-assign]
        return sessions


def test_a_client_that_is_too_fast_is_slowed_down(recognizer: Recognizer) -> None:
    held = Held(recognizer)
    # 2.6 MB, more than sockets hold; silence would not wait for being decoded.
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, 16000).astype("<f4")

    async def work(client: TestClient) -> None:
        socket = await client.ws_connect("/")
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(40):
                await socket.send_bytes(samples.tobytes())
                sent += 1
            await socket.send_str("Done")

        sending = asyncio.create_task(send())
        await asyncio.sleep(0.7)
        (session,) = client.server.app[BATCHER]._sessions
        assert session.received_seconds <= 3.0
        held.go.set()
        await sending
        async for message in socket:
            last = message.data
        assert last == "Done!"

    with_server(held, work, limits=replace(Limits(), pending=2.0))


def test_a_defect_ends_sessions_not_the_server(
    recognizer: Recognizer, caplog: pytest.LogCaptureFixture
) -> None:
    held = Held(recognizer, RuntimeError("on purpose"))
    held.go.set()

    async def work(client: TestClient) -> None:
        for _ in range(2):
            results, socket = await talk(client, audio(2.0, 1), 8000, done=False)
            assert results == [] and socket.close_code == 1011

    with_server(held, work)
    assert "on purpose" in caplog.text


def test_a_client_that_leaves_is_forgotten(recognizer: Recognizer) -> None:
    async def work(client: TestClient) -> None:
        socket = await client.ws_connect("/")
        await socket.send_bytes(GOOD)
        await socket.close()
        for _ in range(100):
            if not client.server.app[BATCHER]._sessions:
                return
            await asyncio.sleep(0.02)
        raise AssertionError

    with_server(recognizer, work)


def test_the_page(recognizer: Recognizer) -> None:
    async def work(client: TestClient) -> str:
        response = await client.get("/")
        assert response.status == 200 and response.content_type == "text/html"
        return await response.text()

    page = with_server(recognizer, work)
    assert "getUserMedia" in page and "http://" not in page and "https://" not in page
