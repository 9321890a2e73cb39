#!/usr/bin/env python3
"""Processor time of a step of each optimizer, and of torch's own Muon.

    benchmarks/optimizers.py --config egs/mini_librispeech/conf/baseline.yaml

Of a student with random gradients; no forward or backward pass. Contestants take turns; medians.
Prints a Markdown table. `ONEDNN_MAX_CPU_ISA=AVX2` shows a CPU without bfloat16 instructions.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from mvqkd.recipe.build import build_objective, build_optimizer
from mvqkd.recipe.config.load import load_config
from mvqkd.training.optimizers import MuonWithAdamW, build_muon

STEPS = 4  # that are timed together


def with_torch_muon(student: nn.Module) -> torch.optim.Optimizer:
    """`build_muon` with the Muon of torch in place of ours, over the same matrices."""
    matrices, *others = build_muon(student, learning_rate=1e-3).param_groups
    peer = torch.optim.Muon(matrices["params"], lr=1e-3, adjust_lr_fn="match_rms_adamw")
    rest = torch.optim.AdamW(
        [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in others],
        lr=1e-3,
        fused=True,
    )
    return MuonWithAdamW(peer, rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="YAML file of an experiment")
    parser.add_argument("--vocab-size", type=int, default=64, help="tokens")
    parser.add_argument("--repeats", type=int, default=9, help="times of each, of which the median")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(options.config).config
    student = build_objective(config, options.vocab_size, {})
    for parameter in student.parameters():
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    optimizers = {
        name: build_optimizer(dataclasses.replace(config.optimizer, **values), student)
        for name, values in {
            "adamw": {"name": "adamw"},
            "scaled_adam": {"name": "scaled_adam"},
            "muon": {"name": "muon", "muon_interval": 1},
            f"muon, interval {STEPS}": {"name": "muon", "muon_interval": STEPS},
        }.items()
    }
    if hasattr(torch.optim, "Muon"):
        optimizers["torch's Muon"] = with_torch_muon(student)
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for repeat in range(options.repeats + 1):
        for name, optimizer in optimizers.items():
            begin = time.process_time()
            for _ in range(STEPS):
                optimizer.step()
            if repeat:  # the first makes the state
                times[name].append(1000 * (time.process_time() - begin) / STEPS)
    medians = {name: statistics.median(values) for name, values in times.items()}
    peer = medians.get("torch's Muon")
    print("| optimizer | CPU ms | / torch's Muon |\n| --- | ---: | ---: |")
    for name, value in medians.items():
        print(f"| {name} | {value:.1f} | {f'{value / peer:.2f}' if peer else ''} |")


if __name__ == "__main__":
    main()
