"""How many sessions a server holds at real time, servers side by side in one run.

    pip install sherpa-onnx sherpa-onnx-bin
    python benchmarks/serving.py --audio <corpus>/LibriSpeech/dev-clean --cores 0,1 \\
        --output benchmarks/results/serving.json \\
        --server "mvqkd=python -m mvqkd serve <exp> --port {port} --threads 2" \\
        --server "sherpa-onnx=sherpa-onnx-online-websocket-server --port={port} \\
            --num-work-threads=2 --max-batch-size=16 --tokens=<model>/tokens.txt \\
            --encoder=<model>/encoder.onnx --decoder=<model>/decoder.onnx \\
            --joiner=<model>/joiner.onnx --log-file=/dev/null"

Any server with sherpa-onnx's protocol can take part. Each client sends 0.1 s of audio every
0.1 s. The lag of a session is the time from its last samples to its last result; a number of
sessions is held at real time if 95 % of them lag by at most `--allowed` seconds. Servers take turns
at each number of sessions, each in a fresh process on the given cores. Clients run on all
cores: where there are no others, they cost the servers a little, all of them the same. Processor
seconds are those of the server's process and its threads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import ClientError, ClientSession, WSMsgType
from numpy.typing import NDArray

from mvqkd.geometry import SAMPLE_RATE
from mvqkd.storage.files import write_json
from mvqkd.transcription.audio import find_audio

BLOCK = SAMPLE_RATE // 10
STARTED = 120.0
"""Seconds that a server may take until it answers."""


def recordings(folder: Path, count: int, seconds: float) -> list[NDArray[np.float32]]:
    """Audio of so many seconds for each of several sessions, made of a folder's files in turn."""
    files, size = find_audio([folder]), round(seconds * SAMPLE_RATE)
    found: list[NDArray[np.float32]] = []
    parts: list[NDArray[np.float32]] = []
    for number in range(10**9):
        parts += list(files[number % len(files)].blocks())
        if sum(map(len, parts)) >= size:
            found.append(np.concatenate(parts)[:size])
            parts = []
        if len(found) == count:
            break
    return found


@contextmanager
def running(command: str, cores: set[int]) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server in a process of its own on these cores: its port and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        shlex.split(command.format(port=port)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    try:
        yield port, process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def processor_seconds(process: subprocess.Popen[bytes]) -> float:
    """User and system time of a process and its threads (Linux, proc(5))."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def wait_until_it_answers(session: ClientSession, port: int) -> None:
    """A session without audio, again and again until one is answered."""
    begin = time.monotonic()
    while time.monotonic() - begin < STARTED:
        try:
            async with session.ws_connect(f"http://127.0.0.1:{port}/") as client:
                await client.send_str("Done")
                await client.receive(timeout=30)
                return
        except (ClientError, OSError):
            await asyncio.sleep(0.5)
    raise SystemExit("a server does not answer: run its command by hand to see why")


async def speak(
    session: ClientSession, port: int, samples: NDArray[np.float32], delay: float
) -> tuple[float, str]:
    """One session at real time: seconds of lag, and the text."""
    await asyncio.sleep(delay)
    texts: dict[int, str] = {}
    async with session.ws_connect(f"http://127.0.0.1:{port}/") as client:

        async def listen() -> float:
            last = 0.0
            async for message in client:
                if message.type == WSMsgType.TEXT and message.data.startswith("{"):
                    last = time.monotonic()
                    result = json.loads(message.data)
                    texts[result["segment"]] = result["text"]
                elif message.data == "Done!":
                    break
            return last

        listening = asyncio.create_task(listen())
        begin = time.monotonic()
        for number, start in enumerate(range(0, len(samples), BLOCK), 1):
            await asyncio.sleep(max(0.0, begin + 0.1 * number - time.monotonic()))
            await client.send_bytes(samples[start : start + BLOCK].tobytes())
        # What the server should have had by now, whether or not it has taken it.
        end = begin + len(samples) / SAMPLE_RATE
        await client.send_str("Done")
        last = await listening
    return last - end, " ".join(filter(None, (texts[number] for number in sorted(texts))))


async def measure(port: int, process: Any, audio: list[NDArray[np.float32]]) -> dict[str, Any]:
    """All sessions at once, begun within a second."""
    async with ClientSession() as session:
        await wait_until_it_answers(session, port)
        await speak(session, port, audio[0][: 5 * SAMPLE_RATE], 0.0)  # to warm up
        before = processor_seconds(process)
        found = await asyncio.gather(
            *(speak(session, port, each, i / len(audio)) for i, each in enumerate(audio))
        )
        spent = processor_seconds(process) - before
    lags = [lag for lag, _ in found]
    return {
        "sessions": len(audio),
        "median_lag": float(np.median(lags)),
        "lag_95": float(np.percentile(lags, 95)),
        "processor_seconds": spent,
        "audio_seconds": sum(map(len, audio)) / SAMPLE_RATE,
        "texts": [text for _, text in found],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--server", action="append", required=True, metavar="NAME=COMMAND", help="with {port}")
    add("--audio", type=Path, required=True, help="folder of speech")
    add("--sessions", default="1,2,4,8,16,32,64", help="numbers of sessions to try, ascending")
    add("--seconds", type=float, default=30.0, help="of audio in a session")
    add("--allowed", type=float, default=1.0, help="seconds of lag that count as real time")
    add("--cores", default="0,1", help="that servers run on")
    add("--output", type=Path, help="JSON of everything")
    options = parser.parse_args()
    servers = dict(each.split("=", 1) for each in options.server)
    numbers = [int(number) for number in options.sessions.split(",")]
    cores = {int(core) for core in options.cores.split(",")}
    audio = recordings(options.audio, max(numbers), options.seconds)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    held = dict.fromkeys(servers, 0)
    print("| server | sessions | lag, median, s | lag, 95 %, s | processor s for a s of audio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for number in numbers:
        for name, command in servers.items():
            if results[name] and held[name] < results[name][-1]["sessions"]:
                continue  # it did not hold fewer
            with running(command, cores) as (port, process):
                found = asyncio.run(measure(port, process, audio[:number]))
            results[name].append(found)
            if found["lag_95"] <= options.allowed:
                held[name] = number
            share = found["processor_seconds"] / found["audio_seconds"]
            lags = f"{found['median_lag']:.2f} | {found['lag_95']:.2f}"
            print(f"| {name} | {number} | {lags} | {share:.4f} |", flush=True)
    for name, number in held.items():
        alone = results[name][0]["texts"][0]
        changed = sum(each["texts"][0] != alone for each in results[name])
        print(f"{name} holds {number} sessions; the first one's text has changed {changed} times")
    if len(servers) > 1:
        one, other = (results[name][0]["texts"][0] for name in list(servers)[:2])
        print(f"the same text of the first session: {'yes' if one == other else 'no'}")
    if options.output:
        write_json(options.output, {"options": sys.argv[1:], "held": held, "results": results})


if __name__ == "__main__":
    main()
