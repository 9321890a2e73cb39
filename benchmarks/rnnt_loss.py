"""Transducer losses side by side: time and memory of ours, fast_rnnt's and torchaudio's.

    python benchmarks/rnnt_loss.py            # a few minutes on two cores
    python benchmarks/rnnt_loss.py --quick    # one small case, half a minute

Three things are measured, on the CPU, on random inputs: the lattice recursion alone (forward and
backward), the whole loss with projections and joiner (forward; forward and backward), and the peak
of memory during a forward and backward pass, each in a fresh process. All contestants run in
turns within one process, so that a busy machine disturbs all of them alike.

How much probability each cell of a lattice gets matters for the time: ours leaves cells of
negligible gradient out of its backward pass, and probabilities that are denormal numbers slow down
matrix products. So the whole loss is timed twice, at the random start and, as "fitted", after the
inputs and parameters were trained on the batch for ``--fit`` steps, which makes alignments as
sharp as a trained model's. The share of the band's cells that ours left out is shown too.

``ours`` is :class:`mvqkd.losses.PrunedTransducerLoss`. ``fast_rnnt`` (the pruned loss of k2 as a
package of its own) is left out if it cannot be imported. It builds in a minute against a CPU torch,
with pybind11's source tree unpacked beside it::

    pip download --no-binary :all: --no-deps pybind11 fast_rnnt==1.3
    FT_CMAKE_ARGS="-DCMAKE_BUILD_TYPE=Release -DFT_BUILD_TESTS=OFF -DFT_WITH_CUDA=OFF
      -DCMAKE_CXX_STANDARD=17 -DFETCHCONTENT_SOURCE_DIR_PYBIND11=<pybind11's tree>
      -DPYTHON_INCLUDE_DIRS=<folder of Python.h>"
      pip install --no-build-isolation fast_rnnt-1.3.tar.gz

(With a CUDA build of torch and no CUDA toolkit its CMake step refuses; then compile its three .cu
files, all but the one for CUDA, as C++: ``g++ -x c++ -O3 -DNDEBUG -std=c++17``.) ``torchaudio``
evaluates the joiner on the full lattice.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torchaudio
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mvqkd.losses import PrunedTransducerLoss, joint, lattice_log_likelihood
from mvqkd.models.joiner import Joiner

HAS_FAST_RNNT = importlib.util.find_spec("fast_rnnt") is not None
CONTESTANTS = ["ours", *(["fast_rnnt"] if HAS_FAST_RNNT else []), "torchaudio"]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Case(nn.Module):
    """Random inputs of one size, and the three losses of them."""

    def __init__(self, args: argparse.Namespace, frames: int, tokens: tuple[int, int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        least, most = tokens
        self.prune_range = args.prune_range
        self.loss = PrunedTransducerLoss(
            encoder_dim=args.dim,
            predictor_dim=args.dim,
            vocab_size=args.vocab,
            prune_range=args.prune_range,
        )
        self.joiner = Joiner(
            encoder_dim=args.dim,
            predictor_dim=args.dim,
            joiner_dim=args.dim,
            vocab_size=args.vocab,
        )
        self.encoder_out = nn.Parameter(torch.randn(args.batch, frames, args.dim))
        self.predictor_out = nn.Parameter(torch.randn(args.batch, most + 1, args.dim))
        self.tokens = torch.randint(1, args.vocab, (args.batch, most))
        # All utterances have all frames: padding would favour ours, which leaves it out.
        self.lens = torch.full((args.batch,), frames)
        self.token_lens = torch.linspace(least, most, args.batch).long()

    def ours(self) -> Tensor:
        losses = self.loss(
            self.encoder_out,
            self.predictor_out,
            self.joiner,
            self.tokens,
            self.lens,
            self.token_lens,
        )
        return 0.5 * losses.simple.sum() + losses.pruned.sum()

    def fast_rnnt(self) -> Tensor:
        import fast_rnnt

        boundary = torch.zeros(len(self.lens), 4, dtype=torch.int64)
        boundary[:, 2], boundary[:, 3] = self.token_lens, self.lens
        simple, (px_grad, py_grad) = fast_rnnt.rnnt_loss_smoothed(
            lm=self.loss.project_predictor(self.predictor_out),
            am=self.loss.project_encoder(self.encoder_out),
            symbols=self.tokens,
            termination_symbol=0,
            lm_only_scale=0.25,
            am_only_scale=0.0,
            boundary=boundary,
            reduction="sum",
            return_grad=True,
        )
        ranges = fast_rnnt.get_rnnt_prune_ranges(px_grad, py_grad, boundary, self.prune_range)
        encoder, predictor = fast_rnnt.do_rnnt_pruning(
            am=self.joiner.project_encoder(self.encoder_out),
            lm=self.joiner.project_predictor(self.predictor_out),
            ranges=ranges,
        )
        pruned = fast_rnnt.rnnt_loss_pruned(
            logits=self.joiner(encoder, predictor),
            symbols=self.tokens,
            ranges=ranges,
            termination_symbol=0,
            boundary=boundary,
            reduction="sum",
        )
        return 0.5 * simple + pruned

    def torchaudio(self) -> Tensor:
        logits = self.joiner(
            self.joiner.project_encoder(self.encoder_out)[:, :, None],
            self.joiner.project_predictor(self.predictor_out)[:, None],
        )
        return torchaudio.functional.rnnt_loss(
            logits,
            self.tokens.int(),
            self.lens.int(),
            self.token_lens.int(),
            blank=0,
            reduction="sum",
        )

    def step(self, name: str) -> None:
        self.zero_grad(set_to_none=True)
        getattr(self, name)().backward()

    def fit(self, steps: int) -> None:
        """Train everything, the inputs too, on this batch."""
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        for _ in range(steps):
            self.step("ours")
            optimizer.step()

    def describe(self) -> str:
        """Loss per token, and what part of the band the backward pass leaves out."""
        needed: list[Tensor] = []

        def spy(*grads: Tensor) -> Tensor:
            found = find_needed_cells(*grads)
            assert found is not None  # on the CPU
            needed.append(found)
            return found

        find_needed_cells = joint._needed_cells
        with mock.patch.object(joint, "_needed_cells", spy):
            loss = self.ours()
            loss.backward()
        left_out = 1 - needed[0].double().mean().item()
        per_token = loss.item() / int(self.token_lens.sum())
        return f"{per_token:.2f} nats per token, {left_out:.0%} of cells left out"


def interleaved_medians(
    functions: dict[str, Callable[[], object]], args: argparse.Namespace
) -> dict[str, float]:
    """Median milliseconds of each function, all called in turns after one call to warm up.

    At its turn a function is called twice, and the second call counts: in training, too, a loss
    finds memory as its own last step left it, not as another library's did.
    """
    clock = CLOCKS[args.clock]
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repetition in range(args.repetitions + 1):
        for name, function in functions.items():
            function()
            begin = clock()
            function()
            if repetition:
                times[name].append(1e3 * (clock() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def recursion_times(
    batch: int, tokens: int, frames: int, topology: str, args: argparse.Namespace
) -> dict[str, float]:
    """The recursion with occupancies, for full lattices."""
    torch.manual_seed(0)
    symbol, blank = torch.randn(batch, frames, tokens), torch.randn(batch, frames, tokens + 1)
    lens, token_lens = torch.full((batch,), frames), torch.full((batch,), tokens)

    def run(backend: str) -> object:
        return lattice_log_likelihood(
            symbol, blank, lens, token_lens, topology=topology, backend=backend
        )

    functions: dict[str, Callable[[], object]] = {"ours": lambda: run("builtin")}
    if HAS_FAST_RNNT:
        import fast_rnnt

        px, py = symbol.transpose(1, 2), blank.transpose(1, 2).contiguous()
        if topology == "regular":
            px = nn.functional.pad(px, (0, 1), value=float("-inf"))
        px = px.contiguous()
        functions["fast_rnnt"] = lambda: fast_rnnt.mutual_information_recursion(
            px, py, return_grad=True
        )
    functions["ours, torch backend"] = lambda: run("torch")
    return interleaved_medians(functions, args)


def whole_loss_times(
    case: Case, names: list[str], args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """The whole loss: without gradients, and with them."""

    def forward(name: str) -> None:
        with torch.no_grad():
            getattr(case, name)()

    return {
        "forward": interleaved_medians({n: lambda n=n: forward(n) for n in names}, args),
        "forward + backward": interleaved_medians(
            {n: lambda n=n: case.step(n) for n in names}, args
        ),
    }


def peak_increase(case: Case, warm_up: Case, name: str) -> float:
    """MB by which a step's peak of resident memory exceeds the memory before it (Linux only)."""
    warm_up.step(name)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status_megabytes("VmRSS")
    case.step(name)
    return _status_megabytes("VmHWM") - before


def _status_megabytes(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1000
    raise RuntimeError(f"/proc/self/status has no {field}")


def memory_in_fresh_process(
    args: argparse.Namespace, name: str, frames: int, tokens: tuple[int, int]
) -> float:
    command = [sys.executable, __file__, "--memory-of", name, "--frames", str(frames)]
    command += ["--tokens", *map(str, tokens), "--threads", str(args.threads)]
    for option in ("batch", "vocab", "dim", "prune_range"):
        command += ["--" + option.replace("_", "-"), str(getattr(args, option))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_table(title: str, rows: list[tuple[str, dict[str, float]]], unit: str) -> None:
    """Markdown; the ratios are those of ours to each other contestant."""
    names = list(rows[0][1])
    print(f"\n{title}\n")
    header = [f"{name} ({unit})" for name in names] + [f"ours / {name}" for name in names[1:]]
    print("| | " + " | ".join(header) + " |\n|" + " --- |" * (len(header) + 1))
    for label, values in rows:
        cells = [f"{values[name]:.1f}" if name in values else "" for name in names]
        cells += [
            f"{values['ours'] / values[name]:.2f}" if name in values else "" for name in names[1:]
        ]
        print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small case, few repetitions")
    parser.add_argument("--repetitions", type=int, default=9, help="of each timing")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: processor time of all threads, for a busy machine; use it with --threads 1",
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[100, 200, 400], help="T")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=16, help="N")
    parser.add_argument("--vocab", type=int, default=500, help="V")
    parser.add_argument("--dim", type=int, default=256, help="width of encoder and joiner")
    parser.add_argument("--prune-range", type=int, default=5, help="S")
    parser.add_argument("--fit", type=int, default=30, help="steps of training for the fitted case")
    for name in ("--memory-of", "--frames"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    if args.memory_of:
        case = Case(args, int(args.frames), tuple(args.tokens))
        print(peak_increase(case, Case(args, 8, (2, 4)), args.memory_of))
        return

    sizes = [(frames, (40, 60)) for frames in args.lengths]
    recursions = [(16, 50, 200), (32, 100, 400)]
    if args.quick:
        args.repetitions, sizes, recursions = 3, sizes[:1], recursions[:1]
    else:
        sizes.append((args.lengths[-1], (100, 100)))
    print(
        f"torch {torch.__version__}, {args.threads} threads, {args.clock} time; batch "
        f"{args.batch}, vocabulary {args.vocab}, joiner {args.dim}, prune range {args.prune_range}"
    )

    rows = []
    for size in recursions:
        for topology in ("regular", "modified"):
            label = "N {}, U {}, T {}, ".format(*size) + topology
            rows.append((label, recursion_times(*size, topology, args)))
    print_table("Recursion alone, forward + backward", rows, "ms")

    times, memories = [], []
    for frames, tokens in sizes:
        case = Case(args, frames, tokens)
        label = f"T {frames}, U {tokens[0]}-{tokens[1]}"
        for state, steps in (("random", 0), ("fitted", args.fit)):
            case.fit(steps)
            measured = whole_loss_times(case, args.contestants, args)
            times += [(f"{label}, {state}, {what}", values) for what, values in measured.items()]
            print(f"{label}, {state}: {case.describe()}", flush=True)
        memory = {n: memory_in_fresh_process(args, n, frames, tokens) for n in args.contestants}
        memories.append((label, memory))
    print_table("Whole loss with joiner", times, "ms")
    print_table("Peak memory of a step, forward + backward", memories, "MB")


if __name__ == "__main__":
    main()
