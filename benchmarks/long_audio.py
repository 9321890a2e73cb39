"""Word errors of one long file beside those of its utterances.

    python benchmarks/long_audio.py --model exp/mini/teacher --utterances 48 --gap 0.5 \\
        --cuts data/mini/fbank/mini_cuts_test-mini.jsonl.gz --utterance-pauses 0 0.4 0.6

Utterances of a split are joined with silence and transcribed as `mvqkd transcribe` does, once for
each pause that separates utterances (0: none does). For comparison: each alone; each alone after
some milliseconds of silence, which tells what is due to where an utterance begins; their encoder
frames joined before the search, which tells what is due to the predictor's context.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
import torch
from lhotse.serialization import deserialize_item
from numpy.typing import NDArray

from mvqkd import Recognizer
from mvqkd.data.loading.index import transcript
from mvqkd.evaluation.wer import Transcript, log_line, score
from mvqkd.features.fbank import extract
from mvqkd.features.reading import read_audio
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.storage.jsonl import read_items
from mvqkd.transcription.audio import find_audio
from mvqkd.transcription.files import transcribe_files
from mvqkd.transcription.pauses import pause_rule

Wave = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, help="folder of an experiment or a model")
    add("--cuts", type=Path, required=True, help="manifest of the split")
    add("--utterances", type=int, default=48, help="the first so many (default: 48)")
    add("--method", default="greedy_search")
    add("--gap", type=float, default=0.5, help="seconds of silence after each (default: 0.5)")
    add("--utterance-pauses", type=float, nargs="+", default=[0.0, 0.4, 0.6], metavar="SECONDS")
    add("--shifts", type=int, nargs="*", default=[20, 100], help="ms of silence before utterances")
    options = parser.parse_args()
    recognizer = Recognizer.load(options.model, method=options.method)
    normalize = recognizer.tokenizer.normalize
    texts: list[str] = []
    waves: list[Wave] = []
    for cut in islice(read_items(options.cuts), options.utterances):
        texts.append(normalize(transcript(cut)))
        waves.append(read_audio(deserialize_item(cut)))

    def tell(name: str, found: Sequence[str]) -> None:
        joined = [Transcript("all", " ".join(texts).split(), " ".join(found).split())]
        print(log_line(name, score(joined).total), flush=True)

    def alone(silence: int) -> list[str]:
        padding = np.zeros(silence * SAMPLE_RATE // 1000, dtype=np.float32)
        found = recognizer.recognize([np.concatenate([padding, wave]) for wave in waves])
        return [recognizer.tokenizer.decode(hypothesis.tokens) for hypothesis in found]

    tell("each alone", alone(0))
    for shift in options.shifts:
        tell(f"each alone after {shift} ms of silence", alone(shift))
    tell("encoder frames of each alone, one search", [search_once(recognizer, waves)])
    silence = np.zeros(round(options.gap * SAMPLE_RATE), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "joined.wav"
        samples = np.concatenate([part for wave in waves for part in (wave, silence)])
        soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT")
        for pause in options.utterance_pauses:
            ((_, result),) = transcribe_files(
                recognizer, find_audio([path]), pauses=pause_rule(pause), tail_padding=30
            )
            tell(f"one file, utterance pause {pause:g}", [getattr(result, "text", "")])


@torch.inference_mode()
def search_once(recognizer: Recognizer, waves: Sequence[Wave]) -> str:
    """Text of one search over the encoder frames of utterances that were encoded apart."""
    search, state = recognizer._search, recognizer._search.start(1)
    chunks = (recognizer._chunk_size, recognizer._left_context if recognizer.streams else None)
    for wave in waves:
        features = torch.from_numpy(extract(wave))[None]
        out, lens = recognizer.model.encoder(
            features,
            torch.tensor([features.size(1)]),
            chunk_size=chunks[0],
            left_context=chunks[1],
        )
        state = search.advance(state, out, lens)
    return recognizer.tokenizer.decode(search.hypotheses(state)[0][0].tokens)


if __name__ == "__main__":
    main()
