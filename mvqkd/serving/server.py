"""The application: WebSocket sessions and the page, both at `/`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.resources import files

from aiohttp import WSCloseCode, WSMsgType, web

from mvqkd.serving.batcher import Batcher
from mvqkd.serving.protocol import DONE, BadInput, rate_of, samples_of
from mvqkd.serving.session import LIMITS, Limits, ServedSession
from mvqkd.transcription.interface import FileRecognizer
from mvqkd.transcription.live import ENDPOINTS, EndpointRule, LiveStream
from mvqkd.transcription.pauses import PAUSES, PauseRule

BATCHER = web.AppKey("batcher", Batcher)
_PAGE = "page.html"


class Server:
    """Makes the application of a streaming recognizer.

    Args:
        recognizer: of a streaming model.
        rule: where segments end.
        pauses: what separates utterances.
        tail_padding: frames of 10 ms of silence behind the end of a stream.
        max_batch: sessions decoded in one step.
        limits: of clients.
    """

    def __init__(
        self,
        recognizer: FileRecognizer,
        *,
        rule: EndpointRule = ENDPOINTS,
        pauses: PauseRule | None = PAUSES,
        tail_padding: int = 0,
        max_batch: int = 32,
        limits: Limits = LIMITS,
    ) -> None:
        self.limits = limits
        self._sockets: set[web.WebSocketResponse] = set()
        self._sessions = recognizer.sessions()
        self._tokens = recognizer.tokens
        self._rule, self._pauses = rule, pauses
        self._tail_padding = tail_padding
        self._max_batch = max_batch
        self._page = (files("mvqkd.serving") / _PAGE).read_text(encoding="utf-8")

    def application(self) -> web.Application:
        """For aiohttp to run."""
        application = web.Application()
        application.router.add_get("/", self._root)
        application.on_shutdown.append(self._closing)
        application.cleanup_ctx.append(self._decoding)
        return application

    async def _decoding(self, application: web.Application) -> AsyncIterator[None]:
        self._batcher = application[BATCHER] = Batcher(self._sessions, max_batch=self._max_batch)
        task = asyncio.create_task(self._batcher.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def _closing(self, _: web.Application) -> None:
        for socket in list(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server ends")

    async def _root(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(text=self._page, content_type="text/html")
        socket = web.WebSocketResponse(
            # Of frames that are a little too large the client is told the reason.
            max_msg_size=4 * self.limits.message_bytes,
            heartbeat=self.limits.idle,
            compress=False,
        )
        await socket.prepare(request)
        try:
            if len(self._sockets) >= self.limits.sessions:
                reason = f"{self.limits.sessions} sessions are open: try again later"
                raise BadInput(reason, WSCloseCode.TRY_AGAIN_LATER)
            rate = rate_of(request.query.get("sample_rate"))
            self._sockets.add(socket)
            await self._talk(socket, rate)
            await socket.close()
        except BadInput as bad:
            logging.info("a session is closed: %s", bad.reason)
            await socket.close(code=bad.code, message=bad.reason.encode()[:123])
        except ConnectionError:
            pass  # the client is gone
        finally:
            self._sockets.discard(socket)
        return socket

    async def _talk(self, socket: web.WebSocketResponse, rate: int) -> None:
        """From the first message of a client to the last one to it."""
        session = ServedSession(
            LiveStream(
                self._sessions,
                self._tokens,
                self._rule,
                pauses=self._pauses,
                tail_padding=self._tail_padding,
            ),
            self._tokens,
            rate,
        )
        self._batcher.add(session)
        tasks = [
            asyncio.create_task(self._receive(socket, session)),
            asyncio.create_task(self._send(socket, session)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            self._batcher.remove(session)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self, socket: web.WebSocketResponse, session: ServedSession) -> None:
        """Take messages until the client has sent everything.

        Raises:
            BadInput: see there.
            ConnectionError: the client is gone.
        """
        limits = self.limits
        while True:
            try:
                message = await socket.receive(timeout=limits.idle)
            except asyncio.TimeoutError:
                raise BadInput(f"no message for {limits.idle:g} s", 1008) from None
            if message.type == WSMsgType.TEXT:
                if message.data != DONE:
                    raise BadInput(f"text that is not {DONE}", WSCloseCode.UNSUPPORTED_DATA)
                session.end()
                self._batcher.notify()
                return
            if message.type != WSMsgType.BINARY:
                raise ConnectionError
            if len(message.data) > limits.message_bytes:
                reason = f"a frame of more than {limits.message_bytes} bytes"
                raise BadInput(reason, WSCloseCode.MESSAGE_TOO_BIG)
            session.put(samples_of(message.data))
            if session.received_seconds > limits.seconds:
                raise BadInput(f"more than {limits.seconds:g} s of audio", 1008)
            self._batcher.notify()
            while session.pending_seconds > limits.pending:
                session.drained.clear()
                await session.drained.wait()

    async def _send(self, socket: web.WebSocketResponse, session: ServedSession) -> None:
        """Send messages until the last one.

        Raises:
            BadInput: decoding has failed.
            ConnectionError: the client is gone.
        """
        while (message := await session.outgoing.get()) is not None:
            # A client that takes no messages does not answer pings either, and is cut off. (Not
            # `wait_for`, which before Python 3.12 may swallow the cancellation of this task.)
            await socket.send_str(message)
        if session.failed:
            raise BadInput("decoding failed: see the server's log", WSCloseCode.INTERNAL_ERROR)
