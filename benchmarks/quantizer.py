"""Compare quantizers side by side: reconstruction, time, and what a student can predict.

    ./run.sh --recipe egs/mini_librispeech --corpus-dir <corpus> --exp mvq --stop-stage 5
    export LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2
    export OMP_NUM_THREADS=1 MALLOC_CONF=dirty_decay_ms:30000
    python benchmarks/quantizer.py \\
        --embeddings data/mini_librispeech/teachers/<teacher>/sample/layer-4 \\
        --cuts data/mini_librispeech/fbank/librispeech_cuts_train-*.jsonl.gz \\
        --output benchmarks/results/quantizer --skip multi_quantization-10k+10k

Embeddings are those that stage 5 of a recipe extracts, features those of stage 2. Every (method,
bytes) pair is measured once and kept in the output folder, so that the command can be stopped and
repeated; `tables.md` and `rate_distortion.png` are written from what is there. Utterances are split
by speaker: a fifth of the speakers is never trained on, and a tenth of the other utterances is held
out as well, together with their copies at other speeds. Speakers are the first part of
LibriSpeech-like ids. `--gaussian 256` measures on independent Gaussian frames instead, where theory
knows the least possible error of any quantizer. Times are processor seconds summed over threads,
which other work on the machine disturbs less than it would a clock. Those of the kernel are left
out: where getting memory is slow, multi_quantization would be charged almost double for its large
temporaries. For the same reason an allocator that keeps them for a while
(`apt install libjemalloc2`) makes the whole command faster.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from cached_refinement import cached_refinement
from quantizer_peers import METHODS, Ours, direct_sum, fit, installed, user_seconds
from quantizer_report import draw, write_tables

from mvqkd.data.loading.feature_reader import FeatureReader
from mvqkd.data.loading.labelled import SPEED
from mvqkd.data.targets.embeddings import EmbeddingStore
from mvqkd.quantization.counts import code_counts, code_entropy
from mvqkd.quantization.predictability.code_predictor import CodePredictor
from mvqkd.quantization.predictability.measure import predictability, regression_error
from mvqkd.storage.files import atomic_path, read_json, write_json

PARTS = ("train", "held_out", "other_speakers")


class Data:
    """Utterances of the three parts: `x[part]` and `features[part]` are lists of tensors."""

    def __init__(
        self, embeddings: Path, manifests: list[Path], train_frames: int, test_frames: int
    ) -> None:
        store = EmbeddingStore(embeddings)
        self.name = f"{store.info.teacher.rsplit('/')[-1]}, layer {store.info.layer}"
        split = _split({name: len(store[name]) for name in store}, train_frames, test_frames)
        self.x = {
            part: [torch.from_numpy(np.array(store[name])).float() for name in chosen]
            for part, chosen in split.items()
        }
        self.features: dict[str, list[torch.Tensor]] = {}
        if manifests:
            reader = FeatureReader(manifests)
            self.features = {
                part: [torch.from_numpy(reader[name]) for name in chosen]
                for part, chosen in split.items()
            }


class Gaussian:
    """Frames of independent Gaussian numbers: no structure to find, no speakers."""

    def __init__(self, dim: int, train_frames: int, test_frames: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.name = f"independent Gaussian, {dim} dimensions"
        sizes = (train_frames, test_frames, test_frames)
        self.x = {
            part: [torch.randn(n, dim, generator=generator)]
            for part, n in zip(PARTS, sizes, strict=True)
        }
        self.features: dict[str, list[torch.Tensor]] = {}


def _split(lens: dict[str, int], train_frames: int, test_frames: int) -> dict[str, list[str]]:
    """Utterances of each part, in an order that a seed decides."""
    rng = np.random.default_rng(0)
    originals = sorted({SPEED.sub("", name) for name in lens})
    everyone = rng.permutation(sorted({name.split("-")[0] for name in originals}))
    others = set(everyone[: max(1, len(everyone) // 5)].tolist())
    order = rng.permutation(originals).tolist()
    known = [name for name in order if name.split("-")[0] not in others]
    held = max(1, len(known) // 10)
    parts = {
        "train": (known[held:], train_frames),
        "held_out": (known[:held], test_frames),
        "other_speakers": ([name for name in order if name.split("-")[0] in others], test_frames),
    }
    copies: dict[str, list[str]] = {}
    for name in lens:
        copies.setdefault(SPEED.sub("", name), []).append(name)
    chosen: dict[str, list[str]] = {}
    for part, (candidates, limit) in parts.items():
        names = [name for original in candidates for name in copies[original]]
        before = np.cumsum([0, *(lens[name] for name in names[:-1])])
        chosen[part] = [name for name, b in zip(names, before, strict=True) if b < limit]
    return chosen


def claim(out: Path, data: Data | Gaussian, seed: int) -> None:
    """Note in a folder of results which frames they are of, or stop where they are of others."""
    digest = hashlib.sha256()
    for part in PARTS:
        for rows in data.x[part]:
            digest.update(rows.numpy().tobytes())
    counts = {part: sum(map(len, data.x[part])) for part in PARTS}
    facts = {"of": data.name, "frames": counts, "seed": seed, "sha256": digest.hexdigest()[:16]}
    path = out / "frames.json"
    if not path.exists() and not any(out.glob("*-*.json")):
        write_json(path, facts)
    found = read_json(path) if path.exists() else None
    if found != facts:
        sys.exit(f"{out} has results of {found}, not of {facts}: name another --output")


def relative_error(x: torch.Tensor, x_hat: torch.Tensor, mean: torch.Tensor) -> float:
    return float((x - x_hat).square().sum() / (x - mean).square().sum())


def measure(
    method: str, data: Data | Gaussian, num_codebooks: int, seed: int, out: Path, *, keep: bool
) -> None:
    """Fit, encode, decode; keep the numbers and, with `keep`, the codes of all utterances."""
    x = {part: torch.cat(rows) for part, rows in data.x.items()}
    order = torch.randperm(len(x["train"]), generator=torch.Generator().manual_seed(seed))
    kept = out / f"{method}-{num_codebooks}.partial"
    coder, seconds = fit(method, x["train"][order], num_codebooks, seed, kept)
    result: dict[str, object] = {"method": method, "bytes": num_codebooks}
    result["train_seconds"] = seconds
    result["threads"] = torch.get_num_threads()
    mean = x["train"].mean(dim=0)
    efforts = {"": coder}
    if isinstance(coder, Ours):
        coder.quantizer.save(out / f"{method}-{num_codebooks}.pt")
        fast = Ours(coder.quantizer, coder.beam_size // 4, max(1, coder.sweeps // 2))
        thorough = Ours(coder.quantizer, 2 * coder.beam_size, 2 * coder.sweeps)
        efforts |= {" fast": fast, " thorough": thorough}
    timed = x["held_out"][:2000]
    coder.encode(timed[:512])  # compiled, and warm
    codes = {}
    for name, effort in efforts.items():
        begin, passes, seconds = user_seconds(), 0, 0.0
        while seconds < 1:
            effort.encode(timed)
            passes, seconds = passes + 1, user_seconds() - begin
        result["encode_per_second" + name] = passes * len(timed) / seconds
        codes[name] = {}
        for part, suffix in (("held_out", ""), ("other_speakers", "_other")):
            with cached_refinement():
                codes[name][part] = effort.encode(x[part])
            x_hat = effort.decode(codes[name][part])
            result["error" + suffix + name] = relative_error(x[part], x_hat, mean)
    if isinstance(coder, Ours):
        for part, suffix in (("held_out", ""), ("other_speakers", "_other")):
            x_hat = coder.quantizer.direct_sum(codes[""][part])
            result["direct_sum_error" + suffix] = relative_error(x[part], x_hat, mean)
    entropy = code_entropy(code_counts(codes[""]["held_out"], 256))
    result["entropy"] = entropy.mean().item()
    if keep:
        with cached_refinement():
            codes[""]["train"] = coder.encode(x["train"])
        with atomic_path(out / f"{method}-{num_codebooks}.npz") as path:
            np.savez_compressed(
                path,
                centers=direct_sum(coder, num_codebooks).numpy(),
                **{part: rows.numpy() for part, rows in codes[""].items()},
            )
    write_json(out / f"{method}-{num_codebooks}.json", result)
    kept.unlink(missing_ok=True)


def probe(data: Data, result: Path, steps: int) -> None:
    """Add what a small network can predict of the codes to a result."""
    with np.load(result.with_suffix(".npz")) as kept:
        codes = {
            part: list(torch.from_numpy(kept[part]).split([len(u) for u in data.x[part]]))
            for part in PARTS
        }
        centers = torch.from_numpy(kept["centers"])
    found = predictability(
        CodePredictor.fit(data.features["train"], codes["train"], num_steps=steps),
        data.features["held_out"],
        codes["held_out"],
        centers=centers,
        mean=torch.zeros(centers.shape[2]),
        embeddings=data.x["held_out"],
    )
    mean = torch.cat(data.x["train"]).mean(dim=0)
    x = torch.cat(data.x["held_out"])
    facts = json.loads(result.read_text())
    facts["cross_entropy"] = float(np.mean(found.cross_entropy))
    facts["captured"] = float(np.mean(found.captured))
    facts["captured_range"] = [min(found.captured), max(found.captured)]
    # The decoders here have no mean of their own: put the error on the common denominator.
    ratio = float(x.square().sum() / (x - mean).square().sum())
    facts["posterior_error"] = (found.reconstruction_error or 0.0) * ratio
    facts["probe_steps"] = steps
    write_json(result, facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--embeddings", type=Path, help="folder or file of teacher embeddings")
    source.add_argument("--gaussian", type=int, metavar="DIM", help="random frames instead")
    parser.add_argument(
        "--cuts", type=Path, nargs="*", default=[], help="manifests with their features: the probe"
    )
    parser.add_argument("--num-codebooks", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--skip", nargs="+", default=[], choices=METHODS)
    parser.add_argument("--train-frames", type=int, default=200_000)
    parser.add_argument("--test-frames", type=int, default=20_000)
    parser.add_argument(
        "--probe-at",
        type=int,
        nargs="*",
        default=[8],
        metavar="BYTES",
        help="rates that are probed",
    )
    parser.add_argument("--probe-steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    if args.gaussian is not None:
        data: Data | Gaussian = Gaussian(args.gaussian, args.train_frames, args.test_frames)
    else:
        data = Data(args.embeddings, args.cuts, args.train_frames, args.test_frames)
    claim(args.output, data, args.seed)
    for num_codebooks in args.num_codebooks:
        probed = isinstance(data, Data) and bool(data.features) and num_codebooks in args.probe_at
        for method in args.methods:
            if method in args.skip:
                continue
            if not installed(method):
                print(f"{method} is not installed: skipped", file=sys.stderr)
                continue
            result = args.output / f"{method}-{num_codebooks}.json"
            known = json.loads(result.read_text()) if result.exists() else {}
            to_probe = probed and known.get("probe_steps") != args.probe_steps
            if not known or (to_probe and not result.with_suffix(".npz").exists()):
                print(f"{method}, {num_codebooks} bytes", file=sys.stderr, flush=True)
                measure(method, data, num_codebooks, args.seed, args.output, keep=to_probe)
            if isinstance(data, Data) and to_probe:
                print(f"{method}, {num_codebooks} bytes: probe", file=sys.stderr, flush=True)
                probe(data, result, args.probe_steps)
    reference = args.output / "regression.json"
    if isinstance(data, Data) and data.features and args.probe_at and not reference.exists():
        error = regression_error(
            data.features["train"],
            data.x["train"],
            data.features["held_out"],
            data.x["held_out"],
            num_steps=args.probe_steps,
        )
        write_json(reference, {"regression_error": error})
    kept = [json.loads(p.read_text()) for p in sorted(args.output.glob("*-*.json"))]
    results = {(r["method"], r["bytes"]): r for r in kept}
    regression = None
    if reference.exists():
        regression = json.loads(reference.read_text())["regression_error"]
    write_tables(data.name, args.gaussian, results, regression, args.output / "tables.md")
    draw(data.name, args.gaussian, results, args.output / "rate_distortion.png")
    print((args.output / "tables.md").read_text())


if __name__ == "__main__":
    main()
