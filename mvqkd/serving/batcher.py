"""Sessions of all clients decoded together, in one thread beside the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor

from mvqkd.serving.session import ServedSession
from mvqkd.transcription.interface import LiveRecognizer


class Batcher:
    """Decodes one chunk of each session that has one, again and again.

    While a step is running the other sessions gather audio, so that batches grow with the load and
    a single session never waits for others.

    Args:
        recognizer: of all sessions.
        max_batch: sessions of a step.
    """

    def __init__(self, recognizer: LiveRecognizer, *, max_batch: int = 32) -> None:
        self.recognizer = recognizer
        self.max_batch = max_batch
        self.steps = 0
        """Batches decoded so far."""
        self.chunks = 0
        """Chunks in them."""
        self._sessions: set[ServedSession] = set()
        self._news = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decoder")

    def add(self, session: ServedSession) -> None:
        """Decode it from now on."""
        self._sessions.add(session)

    def remove(self, session: ServedSession) -> None:
        """Forget it."""
        self._sessions.discard(session)

    def notify(self) -> None:
        """Something has arrived."""
        self._news.set()

    async def run(self) -> None:
        """Decode until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                while sessions := [s for s in self._sessions if s.has_input or s.stream.is_ready]:
                    sessions.sort(key=lambda session: session.waiting_since)
                    found = await loop.run_in_executor(self._thread, self._step, sessions)
                    for session, messages in found:
                        session.drained.set()
                        for message in messages:
                            session.outgoing.put_nowait(message)
        finally:
            self._thread.shutdown(wait=False)

    def _step(self, sessions: list[ServedSession]) -> list[tuple[ServedSession, list[str | None]]]:
        """Accept what has arrived of all of them, and decode a chunk of those that wait longest."""
        try:
            for session in sessions:
                session.accept()
            streams = [session for session in sessions if not session.stream.is_due]
            ready = [session for session in streams if session.stream.is_ready][: self.max_batch]
            if ready:
                self.recognizer.step([session.stream.session for session in ready])
                self.steps += 1
                self.chunks += len(ready)
            decoded = set(ready)
            now = time.monotonic()
            for session in ready:
                session.waiting_since = now
            return [(session, session.collect(decoded=session in decoded)) for session in sessions]
        except Exception:  # a defect: these sessions end, the server goes on
            logging.exception("decoding failed; %d sessions are closed", len(sessions))
            for session in sessions:
                self._sessions.discard(session)
                session.failed = True
            return [(session, [None]) for session in sessions]
