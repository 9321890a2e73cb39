"""The server as a program."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from contextlib import suppress
from pathlib import Path

from mvqkd.errors import UserError
from mvqkd.serving.session import Limits
from mvqkd.transcription.interface import FileRecognizer
from mvqkd.transcription.live import EndpointRule
from mvqkd.transcription.pauses import PauseRule


def serve(
    recognizer: FileRecognizer,
    *,
    host: str,
    port: int,
    certificate: Path | None,
    rule: EndpointRule,
    pauses: PauseRule | None,
    tail_padding: int,
    max_batch: int,
    limits: Limits,
) -> None:
    """Serve until a signal ends the process (SIGINT, SIGTERM); prints the address when it listens.

    Args:
        recognizer: of a streaming model.
        host, port: where to listen; port 0 is a free one.
        certificate: PEM file with a certificate and its key; None: no TLS.
        rule, pauses, tail_padding, max_batch, limits: see `mvqkd.serving.server.Server`.

    Raises:
        UserError: the model does not stream, aiohttp is not installed, the address is taken, or the
            certificate cannot be read.
    """
    if not recognizer.streams:
        raise UserError(
            "the model attends to whole utterances: it cannot recognize while audio arrives",
            remedy="take a streaming student",
        )
    try:
        from aiohttp import web

        from mvqkd.serving.server import Server
    except ImportError as error:
        raise UserError(
            f"the server needs {error.name}", remedy="pip install mvqkd[serve]"
        ) from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    context = _context(certificate) if certificate else None
    server = Server(
        recognizer,
        rule=rule,
        pauses=pauses,
        tail_padding=tail_padding,
        max_batch=max_batch,
        limits=limits,
    )

    async def run() -> None:
        runner = web.AppRunner(server.application(), shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port, ssl_context=context)
            try:
                await site.start()
            except OSError as error:
                raise UserError(
                    f"cannot listen on {host}:{port}: {error.strerror}", remedy="take another port"
                ) from None
            address = runner.addresses[0]
            scheme = "https" if context else "http"
            print(f"listening on {scheme}://{address[0]}:{address[1]}", flush=True)
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            for name in (signal.SIGINT, signal.SIGTERM):
                with suppress(NotImplementedError):  # of Windows
                    loop.add_signal_handler(name, ended.set)
            await ended.wait()
        finally:
            await runner.cleanup()

    asyncio.run(run())


def _context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate)
    except OSError as error:  # ssl.SSLError is one
        raise UserError(
            f"{certificate} cannot be read: {error}",
            remedy="name a PEM file with a certificate and its key",
        ) from None
    return context
