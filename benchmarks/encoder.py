"""Speed of the Conformer encoder: training throughput and streaming latency, beside torchaudio's.

    python -m benchmarks.encoder --threads 1

Training is a forward and a backward pass over a batch of equal utterances. Ours and the peer take
steps in turn, and times are medians of several: wall-clock seconds, or with `--clock cpu` processor
seconds of this process, summed over threads, which other work on the machine disturbs less. The
peer is `torchaudio.models.Conformer` (no positions, BatchNorm) behind our subsampling, its
feed-forward width chosen to have as many parameters; "/ peer" is speed relative to it. With "half
rate" all layers but the first and the last work at 12.5 Hz. Prints Markdown.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch
import torchaudio
from torch import Tensor, nn

from mvqkd.geometry import encoder_frames
from mvqkd.models import ConformerEncoder
from mvqkd.models.subsampling import ConvSubsampling

SIZES = {  # layers x width
    "4x144": {"num_layers": 4, "dim": 144, "feedforward_dim": 576},
    "6x160": {"num_layers": 6, "dim": 160, "feedforward_dim": 640},
    "4x192": {"num_layers": 4, "dim": 192, "feedforward_dim": 768},
    "12x256": {"num_layers": 12, "dim": 256, "feedforward_dim": 1024},
    "12x512": {"num_layers": 12, "dim": 512, "feedforward_dim": 2048, "num_heads": 8},
}
CHUNK, LEFT = 16, 64  # 25 Hz frames: 0.64 s and 2.56 s
KERNEL = 15


class Peer(nn.Module):
    """Our subsampling and torchaudio's Conformer."""

    def __init__(
        self, *, num_layers: int, dim: int, feedforward_dim: int, num_heads: int = 4
    ) -> None:
        super().__init__()
        self.subsampling = ConvSubsampling(input_dim=80, dim=dim, channels=32)
        self.conformer = torchaudio.models.Conformer(
            dim, num_heads, feedforward_dim, num_layers, KERNEL, dropout=0.1
        )

    def forward(self, features: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        return self.conformer(self.subsampling(features), encoder_frames(lens))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def peer_of(encoder: ConformerEncoder, options: dict[str, int]) -> Peer:
    """The peer whose feed-forward width brings it closest to the encoder's parameters."""
    peer = Peer(**options)
    per_width = options["num_layers"] * 2 * (2 * options["dim"] + 1)
    change = round((num_parameters(encoder) - num_parameters(peer)) / per_width)
    return Peer(**{**options, "feedforward_dim": options["feedforward_dim"] + change})


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def timed(run: Callable[[], object], args: argparse.Namespace) -> float:
    """Seconds of one run."""
    clock = CLOCKS[args.clock]
    if args.device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    run()
    if args.device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def training_speeds(
    contestants: dict[str, tuple[nn.Module, dict[str, int]]], args: argparse.Namespace
) -> dict[str, float]:
    """Seconds of audio for each second of training, of modules with options of their forward."""
    batch = max(1, round(args.batch_seconds / args.seconds))
    features = torch.randn(batch, round(args.seconds * 100), 80, device=args.device) * 4 - 7
    lens = torch.full((batch,), features.size(1), device=args.device)

    def step(model: nn.Module, options: dict[str, int]) -> None:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            out, _ = model(features, lens, **options)
        out.float().square().mean().backward()
        model.zero_grad()

    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(args.repeats + 1):
        for name, (model, options) in contestants.items():
            model.train().to(args.device)
            times[name].append(timed(functools.partial(step, model, options), args))
    # The first step warms up.
    return {name: batch * args.seconds / statistics.median(own[1:]) for name, own in times.items()}


@torch.inference_mode()
def chunk_latency(model: ConformerEncoder, args: argparse.Namespace, streams: int) -> float:
    """Milliseconds of one chunk of some streams, their left context full."""
    model.eval().to(args.device)
    features = torch.randn(streams, 4 * CHUNK + 3, 80, device=args.device) * 4 - 7
    state = model.initial_state(streams, LEFT)
    state = state._replace(processed=state.processed + 4 * LEFT)
    run = lambda: model.stream(features, state, CHUNK)  # noqa: E731
    return 1000 * statistics.median([timed(run, args) for _ in range(5 * args.repeats + 1)][1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--seconds", type=float, default=15.0, help="audio of an utterance")
    parser.add_argument("--batch-seconds", type=float, default=120.0, help="audio of a batch")
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many counts")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 by autocast")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    window = {"chunk_size": CHUNK, "left_context": LEFT}
    print(
        "| layers x width | parameters | torchaudio (parameters) | full context | / peer | chunks "
        "| / peer | half rate | / peer | chunk of 1 stream | of 16 streams |\n" + "|" + "---|" * 11
    )
    for size in args.sizes:
        options = SIZES[size]
        torch.manual_seed(0)
        model = ConformerEncoder(**options, conv_kernel=KERNEL, causal=True)
        half = ConformerEncoder(
            **options,
            conv_kernel=KERNEL,
            causal=True,
            half_rate=(2, options["num_layers"] - 1),
        )
        peer = peer_of(model, options)
        contestants: dict[str, tuple[nn.Module, dict[str, int]]] = {
            "full": (model, {}),
            "chunks": (model, window),
            "half": (half, {}),
            "peer": (peer, {}),
        }
        speed = training_speeds(contestants, args)
        cells = [
            f"{speed[name]:.0f} x | {speed[name] / speed['peer']:.2f}"
            for name in ("full", "chunks", "half")
        ]
        latencies = [f"{chunk_latency(model, args, streams):.1f} ms" for streams in (1, 16)]
        print(
            f"| {size} | {num_parameters(model) / 1e6:.2f} M "
            f"| {speed['peer']:.0f} x ({num_parameters(peer) / 1e6:.2f} M) "
            f"| {' | '.join([*cells, *latencies])} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
