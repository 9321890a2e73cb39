"""Codebook indexes of another quantizer, to teach a student with: is it the quantizer that matters?

    python benchmarks/peer_codes.py --method faiss-OPQ --num-codebooks 8 \\
        --embeddings data/mini_librispeech/teachers/<teacher>/embeddings/layer-4 \\
        --output data/opq-8
    ./run.sh --recipe egs/mini_librispeech --stage 9 --exp mvq --variant opq \\
        --distillation.codes.targets data/opq-8 \\
        --distillation.codes.quantizer.file data/opq-8/quantizer.pt \\
        --distillation.codes.teacher "hf:<teacher>"

Fits one of the quantizers of `benchmarks/quantizer.py` on frames of the stored embeddings (those of
all utterances, which stage 5 extracts for the experiments `l1` and `l2`), encodes every utterance
with that quantizer's own search, and writes a folder of codes as `local/dump_codes.py` does, with
the codebooks beside them in our format, for methods that need to know what the codes stand for.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch
from cached_refinement import cached_refinement
from quantizer_peers import METHODS, direct_sum, fit
from tqdm import tqdm

from mvqkd.data.targets.codes import CodesInfo, write_codes
from mvqkd.data.targets.embeddings import EmbeddingFrames, EmbeddingStore
from mvqkd.quantization import Quantizer
from mvqkd.storage.ragged import shard_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--embeddings", type=Path, required=True, help="folder of one layer's embeddings")
    add("--output", type=Path, required=True, help="folder of the codes")
    add("--method", choices=METHODS, required=True)
    add("--num-codebooks", type=int, default=8)
    add("--train-utterances", type=int, default=950, help="that it is fitted on (%(default)s)")
    add("--seed", type=int, default=0)
    options = parser.parse_args()

    store = EmbeddingStore(options.embeddings)
    ids = sorted(store, key=lambda name: hashlib.sha256(f"{options.seed} {name}".encode()).digest())
    frames = EmbeddingFrames(store, ids[: options.train_utterances])
    x = frames.read(0, frames.num_frames).float()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(options.seed))
    coder, seconds = fit(options.method, x[order], options.num_codebooks, options.seed)
    print(f"fitted on {len(x)} frames in {seconds:.0f} s of processor time")

    centers = direct_sum(coder, options.num_codebooks)
    shared = centers.mean(dim=1, keepdim=True)
    quantizer = Quantizer(
        shared.sum(dim=(0, 1)), centers - shared, metadata={"method": options.method}
    )
    quantizer.save(options.output / "quantizer.pt")  # before the codes, which are never without it
    info = CodesInfo(
        teacher=store.info.teacher,
        layer=store.info.layer,
        frame_rate=store.info.frame_rate,
        quantizer_id=quantizer.id,
        num_codebooks=options.num_codebooks,
        encoder=quantizer.encoder if options.method == "ours" else options.method,
    )
    path = shard_path(options.output, "codes", 0, 1)
    error = energy = 0.0
    mean = x.mean(dim=0)
    total = store.total_frames
    with write_codes(path, info=info, total_frames=total) as writer, cached_refinement():
        for utterance in tqdm(store, unit="utterance"):
            rows = torch.tensor(store[utterance]).float()
            codes = coder.encode(rows)
            writer.write(utterance, codes.numpy())
            error += float((rows - coder.decode(codes)).square().sum())
            energy += float((rows - mean).square().sum())
    print(f"{path}: relative error {error / energy:.4f} on all utterances")


if __name__ == "__main__":
    main()
