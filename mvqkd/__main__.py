"""Programs for those who use a trained model: `mvqkd transcribe`, `mvqkd serve`.

    mvqkd transcribe exp/mini/streaming_mvq speech.wav
    mvqkd serve exp/mini/streaming_mvq

Also `python -m mvqkd`. Programs that train are in `local/`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mvqkd.errors import UserError

if TYPE_CHECKING:
    from mvqkd.transcription.interface import FileRecognizer

METHODS = ("greedy_search", "modified_beam_search", "ctc_greedy_search")
RUNTIMES = ("auto", "torch", "onnxruntime")
PRECISIONS = ("float32", "float16", "int8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the programs.

    Args:
        arguments: of the command line; None: the process's own.

    Returns:
        Exit status: 0; 1 after an error, 130 after an interruption.
    """
    options = parse(arguments)
    try:
        return 0 if options.program(options) else 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of standard output has what it wants
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; files may stand before and behind options, which argparse does not take."""
    whole = parser()
    options, rest = whole.parse_known_args(arguments)
    wrong = [word for word in rest if word.startswith("-") and word != "-"]
    if wrong or (rest and "audio" not in options):
        whole.error(f"unrecognized arguments: {' '.join(wrong or rest)}")
    if rest:
        options.audio += rest
    return options


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    whole = argparse.ArgumentParser(
        prog="mvqkd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    programs = whole.add_subparsers(title="programs", required=True, metavar="PROGRAM")
    _add_transcribe(programs)
    _add_serve(programs)
    return whole


def _add_model(program: argparse.ArgumentParser, method: str) -> None:
    add = program.add_argument
    add(
        "model",
        help="folder of an experiment or a model, a file of weights in one, or hf:OWNER/NAME",
    )
    add("--epoch", type=int, help="last epoch of an average (default: pretrained.pt)")
    add("--avg", type=int, default=1, help="epochs to average (default: 1)")
    add("--tokens", type=Path, help="folder of bpe.model (default: that of the model)")
    add("--method", choices=METHODS, default=method, help=f"search (default: {method})")
    add("--beam-size", type=int, default=4, help="of modified_beam_search (default: 4)")
    add("--device", default="cpu", help="of torch: cpu or cuda (default: cpu)")
    add(
        "--runtime",
        choices=RUNTIMES,
        default="auto",
        help="auto: onnxruntime for a folder with ONNX files for the search, else torch",
    )
    add("--precision", choices=PRECISIONS, help="of ONNX files (default: float32)")
    add("--threads", type=int, default=0, help="of the processor (default: 0, as torch chooses)")
    add(
        "--utterance-pause",
        type=float,
        default=0.6,
        metavar="SECONDS",
        help="of quiet between utterances, which are decoded apart (default: 0.6; 0: all is one)",
    )
    add("--pause", type=float, default=1.2, help="seconds that end a segment (default: 1.2)")
    add(
        "--longest",
        type=float,
        default=20.0,
        help="seconds of a segment of a stream at most (default: 20)",
    )
    add(
        "--tail-padding",
        type=int,
        default=30,
        help="frames of 10 ms of silence after the end, in which a streaming model emits what is "
        "late (default: 30)",
    )


def _add_transcribe(programs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    program = programs.add_parser(
        "transcribe",
        help="text, JSON or subtitles of audio files, or of what arrives",
        description="Transcribe audio of any format, rate and length.",
    )
    _add_model(program, "modified_beam_search")
    add = program.add_argument
    add("audio", nargs="*", help="files, folders of them, or - for standard input")
    add("-f", "--format", default="text", help="text, json, srt, vtt, or several: text,json")
    add("-o", "--output", type=Path, help="folder of transcripts (default: standard output)")
    add("--batch-seconds", type=float, default=240.0, help="audio decoded at once (default: 240)")
    add("--stream", action="store_true", help="print words as they come; a file plays in real time")
    add("--mic", nargs="?", const="", metavar="DEVICE", help="listen to a microphone")
    add("--pcm", type=int, metavar="RATE", help="with --stream -: 16-bit mono without a header")
    program.set_defaults(program=_transcribe)


def _add_serve(programs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    program = programs.add_parser(
        "serve",
        help="a WebSocket server with a page for the microphone",
        description="Recognize streams of many clients at once. Clients of sherpa-onnx's "
        "streaming WebSocket server fit.",
    )
    _add_model(program, "greedy_search")
    add = program.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=int, default=6006, help="0: a free one, which is printed (default: 6006)")
    add("--certificate", type=Path, help="PEM file with certificate and key: wss and https")
    add("--max-sessions", type=int, default=64, help="at once (default: 64)")
    add("--max-batch", type=int, default=32, help="sessions decoded in one step (default: 32)")
    add("--max-seconds", type=float, default=3600.0, help="audio of a session (default: 3600)")
    add("--max-idle", type=float, default=60.0, help="seconds without a message (default: 60)")
    program.set_defaults(program=_serve)


def _transcribe(options: argparse.Namespace) -> bool:
    live = options.stream or options.mic is not None
    if options.mic is not None and options.audio:
        raise UserError("a microphone and files at once", remedy="name one of them")
    if options.mic is None and not options.audio:
        raise UserError("there is nothing to transcribe", remedy="name files, - or --mic")
    if live and len(options.audio) > 1:
        raise UserError("several files cannot be streamed", remedy="name one of them")
    if options.pcm is not None and not (options.stream and options.audio == ["-"]):
        raise UserError("--pcm is for standard input with --stream", remedy="add --stream -")
    from mvqkd.transcription.live import EndpointRule
    from mvqkd.transcription.pauses import pause_rule
    from mvqkd.transcription.program import Settings, transcribe, transcribe_stream

    settings = Settings(
        formats=options.format.replace(",", " ").split(),
        folder=options.output,
        rule=EndpointRule(options.pause, options.longest),
        pauses=pause_rule(options.utterance_pause),
        batch_seconds=options.batch_seconds,
        tail_padding=options.tail_padding,
    )
    recognizer = load_recognizer(options)
    if not live:
        return transcribe(recognizer, options.audio, settings)
    transcribe_stream(
        recognizer,
        options.mic if options.mic is not None else options.audio[0],
        settings,
        from_microphone=options.mic is not None,
        pcm_rate=options.pcm,
    )
    return True


def _serve(options: argparse.Namespace) -> bool:
    from mvqkd.serving.program import serve
    from mvqkd.serving.session import Limits
    from mvqkd.transcription.live import EndpointRule
    from mvqkd.transcription.pauses import pause_rule

    serve(
        load_recognizer(options),
        host=options.host,
        port=options.port,
        certificate=options.certificate,
        rule=EndpointRule(options.pause, options.longest),
        pauses=pause_rule(options.utterance_pause),
        tail_padding=options.tail_padding,
        max_batch=options.max_batch,
        limits=Limits(
            sessions=options.max_sessions, seconds=options.max_seconds, idle=options.max_idle
        ),
    )
    return True


def load_recognizer(options: argparse.Namespace) -> FileRecognizer:
    """The recognizer of a folder.

    Raises:
        UserError: the folder is none of a model, or lacks what the search needs.
    """
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    if not (options.model.startswith("hf:") or Path(options.model).exists()):
        raise UserError(f"{options.model} is missing", remedy="name the folder of an experiment")
    if (exported := _exported(options)) is not None:
        from mvqkd.onnx_recognizer import OnnxRecognizer

        return OnnxRecognizer.load(
            exported,
            method=options.method,
            precision=options.precision or PRECISIONS[0],
            beam_size=options.beam_size,
            tokens=options.tokens,
            num_threads=torch.get_num_threads(),
        )
    from mvqkd.recognizer import Recognizer

    try:
        return Recognizer.load(
            options.model,
            epoch=options.epoch,
            avg=options.avg,
            tokens=options.tokens,
            method=options.method,
            beam_size=options.beam_size,
            device=options.device,
        )
    except ValueError as error:
        raise UserError(
            f"{options.model}: {error}",
            remedy=f"another --method: {', '.join(METHODS)}; others give no times of words",
        ) from None


def _exported(options: argparse.Namespace) -> Path | None:
    """The folder whose ONNX files are asked for, or are there and fit; None: torch is.

    Raises:
        UserError: they are asked for, and what torch alone does is asked for, too.
    """
    with_torch = [
        name
        for name, given in (
            ("--runtime torch", options.runtime == "torch"),
            ("--epoch", options.epoch is not None),
            ("--avg", options.avg != 1),
            ("--device", options.device != "cpu"),
        )
        if given
    ]
    wanted = options.runtime == "onnxruntime" or options.precision is not None
    if wanted and with_torch:
        raise UserError(
            f"ONNX files and {with_torch[0]} at once",
            remedy="leave out one of them: ONNX files are of fixed weights, and run on the CPU",
        )
    if with_torch:
        return None
    from mvqkd.checkpoints.model_folder import local_path
    from mvqkd.onnx_recognizer import has_files

    folder = local_path(options.model)
    return folder if wanted or has_files(folder, options.method) else None


if __name__ == "__main__":
    sys.exit(main())
