"""Which recognizer files are for, what they are called, and how it is run with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mvqkd.export.ctc_graphs import ctc_graphs
from mvqkd.export.graphs import transducer_graphs
from mvqkd.export.interface import Graph
from mvqkd.geometry import FRAME_SHIFT, SAMPLE_RATE, needed_features
from mvqkd.models import AsrModel, StreamingConfig

Head = Literal["transducer", "ctc"]

_ENDINGS = {"float32": ".onnx", "float16": ".fp16.onnx", "int8": ".int8.onnx"}
_CONSTRUCTORS = {
    ("transducer", False): "OfflineRecognizer.from_transducer",
    ("transducer", True): "OnlineRecognizer.from_transducer",
    ("ctc", False): "OfflineRecognizer.from_zipformer_ctc",
    ("ctc", True): "OnlineRecognizer.from_zipformer2_ctc",
}
_BINARIES = {
    ("transducer", False): "sherpa-onnx-offline",
    ("transducer", True): "sherpa-onnx",
    ("ctc", False): "sherpa-onnx-offline",
    ("ctc", True): "sherpa-onnx",
}
_CTC_OPTIONS = {False: "zipformer-ctc-model", True: "zipformer2-ctc-model"}


@dataclass(frozen=True)
class Target:
    """A recognizer of sherpa-onnx, and what of a model it gets."""

    head: Head
    streaming: bool
    chunks: StreamingConfig
    """What frames attend to; `streaming` needs both numbers."""
    epoch: int
    avg: int

    @property
    def name(self) -> str:
        """For people: `streaming transducer`."""
        return f"{'streaming' if self.streaming else 'offline'} {self.head}"

    @property
    def recognizer(self) -> str:
        """The class of sherpa-onnx and its constructor."""
        return f"sherpa_onnx.{_CONSTRUCTORS[self.head, self.streaming]}"

    @property
    def tail_seconds(self) -> float:
        """Silence to append to a stream's end: sherpa-onnx decodes whole chunks alone."""
        size = self.chunks.chunk_size
        return 0.0 if not self.streaming or size is None else needed_features(size) * FRAME_SHIFT

    def graphs(self, model: AsrModel) -> dict[str, Graph]:
        """Modules of the files, by their names.

        Raises:
            ValueError: the model cannot be used like that.
        """
        make = transducer_graphs if self.head == "transducer" else ctc_graphs
        return make(model, self.chunks, streaming=self.streaming)

    def files(self, precision: str) -> dict[str, str]:
        """Names of files, icefall's, by the names of graphs: `encoder-epoch-30-avg-9.int8.onnx`."""
        names = ["encoder", "decoder", "joiner"] if self.head == "transducer" else ["ctc"]
        suffix = f"-epoch-{self.epoch}-avg-{self.avg}"
        if self.streaming:
            suffix += f"-chunk-{self.chunks.chunk_size}-left-{self.chunks.left_context}"
        return {name: f"{name}{suffix}{_ENDINGS[precision]}" for name in names}

    def command(self, files: Mapping[str, str], tokens: str, wave: str) -> str:
        """The line that decodes a file with sherpa-onnx's own program."""
        options = {"tokens": tokens}
        if self.head == "ctc":
            options[_CTC_OPTIONS[self.streaming]] = files["ctc"]
        else:
            options.update(files)
        words = [f"--{name}={value}" for name, value in options.items()]
        return " ".join([_BINARIES[self.head, self.streaming], *words, wave])

    def program(self, files: Mapping[str, str], tokens: str, wave: str) -> str:
        """Lines of Python that decode a file of 16 kHz."""
        named = {"tokens": tokens}
        named |= {("model" if name == "ctc" else name): path for name, path in files.items()}
        arguments = ", ".join(f"{name}={path!r}" for name, path in named.items())
        lines = [
            "import sherpa_onnx, soundfile",
            f"recognizer = {self.recognizer}({arguments})",
            f"samples, rate = soundfile.read({wave!r}, dtype='float32')",
            "stream = recognizer.create_stream()",
            "stream.accept_waveform(rate, samples)",
        ]
        if not self.streaming:
            return "\n".join(
                [*lines, "recognizer.decode_stream(stream)", "print(stream.result.text)"]
            )
        tail = round(self.tail_seconds * SAMPLE_RATE)
        return "\n".join(
            [
                *lines,
                f"stream.accept_waveform({SAMPLE_RATE}, [0.0] * {tail})  # the last chunk is whole",
                "stream.input_finished()",
                "while recognizer.is_ready(stream):",
                "    recognizer.decode_stream(stream)",
                "print(recognizer.get_result(stream))",
            ]
        )
