"""Make the two files that `benchmarks/quantizer.py` reads, from a LibriSpeech tree and a Whisper
checkpoint: teacher embeddings and fbank features of the same utterances.

    python benchmarks/quantizer_data.py --corpus corpus/LibriSpeech \
        --teacher openai/whisper-tiny.en --layer 3 --embeddings emb/layer3.h5 --fbank emb/fbank.h5

Embedding files hold `embeddings` (frames, D) float16, `offsets` (utterances + 1,) int64, `ids`
(UTF-8), and the attributes `teacher`, `layer`, `frame_rate`, `dim`; the fbank file has `features`
(frames, 80) instead of `embeddings`. Any embedding file of this layout will do for the benchmark,
for example one written by `local/extract_embeddings.py`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import h5py
import numpy as np
import soundfile
import torch
import torchaudio
from tqdm import tqdm


class Writer:
    """Rows of several utterances, appended to one HDF5 file."""

    def __init__(self, path: Path, name: str, dim: int, **attributes: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.partial = path, path.with_name(f".tmp-{os.getpid()}-{path.name}")
        self.file = h5py.File(self.partial, "w")
        self.rows = self.file.create_dataset(
            name, (0, dim), maxshape=(None, dim), dtype="float16", chunks=(1024, dim)
        )
        self.offsets, self.ids = [0], []
        self.file.attrs.update({**attributes, "dim": dim})

    def add(self, utterance: str, rows: np.ndarray) -> None:
        begin, end = self.offsets[-1], self.offsets[-1] + len(rows)
        self.rows.resize(end, axis=0)
        self.rows[begin:end] = rows
        self.offsets.append(end)
        self.ids.append(utterance)

    def close(self) -> None:
        self.file["offsets"] = np.asarray(self.offsets, dtype=np.int64)
        self.file.create_dataset("ids", data=self.ids, dtype=h5py.string_dtype("utf-8"))
        self.file.close()
        os.replace(self.partial, self.path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="a LibriSpeech tree of FLACs")
    parser.add_argument("--teacher", required=True, help="a Whisper folder or Hugging Face name")
    parser.add_argument(
        "--layer", type=int, default=3, help="1-based; the last layer is taken after its norm"
    )
    parser.add_argument("--minutes", type=float, default=120.0, help="of audio, at most")
    parser.add_argument("--embeddings", type=Path, required=True)
    parser.add_argument("--fbank", type=Path, required=True)
    args = parser.parse_args()

    from transformers import WhisperFeatureExtractor, WhisperModel

    extractor = WhisperFeatureExtractor.from_pretrained(args.teacher)
    encoder = WhisperModel.from_pretrained(args.teacher).encoder.float().eval()
    paths = sorted(args.corpus.rglob("*.flac"))
    # Evenly through the sorted list, so that all speakers are there whatever --minutes is.
    total = sum(soundfile.info(path).duration for path in paths) / 60
    keep = min(1.0, args.minutes / total)
    paths = [p for i, p in enumerate(paths) if int(i * keep) != int((i - 1) * keep) or keep == 1]
    embeddings = Writer(
        args.embeddings,
        "embeddings",
        encoder.config.d_model,
        teacher=Path(args.teacher).name,
        layer=args.layer,
        frame_rate=50.0,
    )
    fbank = Writer(args.fbank, "features", 80, frame_rate=100.0)
    for path in tqdm(paths, unit="utterance"):
        samples, rate = soundfile.read(path, dtype="float32")
        inputs = extractor(samples, sampling_rate=rate, return_tensors="pt").input_features
        with torch.inference_mode():
            hidden = encoder(inputs, output_hidden_states=True).hidden_states[args.layer][0]
        embeddings.add(path.stem, hidden[: len(samples) * 50 // rate].numpy())
        feats = torchaudio.compliance.kaldi.fbank(
            torch.from_numpy(samples)[None] * 32768, num_mel_bins=80, snip_edges=False, dither=0.0
        )
        fbank.add(path.stem, feats.numpy())
    embeddings.close()
    fbank.close()


if __name__ == "__main__":
    main()
