"""Errors in the words of a recipe: the stage that does a step, the options of parameters.

Only the standard library is imported.
"""

from __future__ import annotations

import os

from mvqkd.errors import STEPS, UserError

STAGES = {
    "corpus": 0,
    "manifests": 1,
    "features": 2,
    "tokens": 3,
    "embeddings": 5,
    "quantizer": 6,
    "codes": 7,
    "hypotheses": 8,
    "training": 9,
    "decoding": 10,
    "export": 12,
}
"""Stages of `run.sh` by what they do, see `mvqkd.errors.STEPS`."""

OPTIONS = {
    "avg": "--decoding.avg",
    "batch_duration": "--data.batch_duration",
    "batch_tokens": "--data.batch_tokens",
    "corpus_dir": "--corpus-dir",
    "data_dir": "--data-dir",
    "device": "--device",
    "dev_splits": "--dev-splits",
    "dtype": "--dtype",
    "epoch": "--decoding.epoch",
    "exp_dir": "--exp-dir",
    "features": "--features",
    "held_out": "--held-out",
    "init_other_features": "--training.init_other_features",
    "keep_epochs": "--training.keep_epochs",
    "label": "--label",
    "labelled_hours": "--data.labelled_hours",
    "layer": "--distillation.SECTION.teacher_layer",
    "learning_rate": "--optimizer.learning_rate",
    "min_seconds": "--min-seconds",
    "musan_dir": "--musan-dir",
    "num_codebooks": "--distillation.SECTION.quantizer.num_codebooks",
    "num_jobs": "--nj",
    "num_steps": "--num-steps",
    "num_workers": "--data.num_workers",
    "output": "--output",
    "precision": "--training.precision",
    "rate_weight": "--distillation.SECTION.quantizer.rate_distortion_weight",
    "replay": "--data.replay",
    "source": "--import",
    "step_duration": "--data.step_duration",
    "step_tokens": "--data.step_tokens",
    "strict": "--strict",
    "relation_weight": "--distillation.layers.relation_weight",
    "teacher": "--distillation.SECTION.teacher",
    "test_splits": "--test-splits",
    "text_normalization": "--text-normalization",
    "train_splits": "--train-splits",
    "units": "--units",
    "unlabelled_cuts": "--unlabelled-splits",
    "unlabelled_ratio": "--data.unlabelled_ratio",
    "unlabelled_splits": "--unlabelled-splits",
    "vocab_size": "--vocab-size",
    "world_size": "--world-size",
}
"""Options of programs by the names of parameters in the library."""

OF_PROGRAMS = (
    *("--device", "--dtype", "--held-out", "--import", "--label", "--min-seconds"),
    *("--num-steps", "--output"),
)
"""Those that programs have and `run.sh` has not, which passes none of them on."""


def run_command(options: str) -> str:
    """`run.sh` with the options of this run, which it passes to its programs as `MVQKD_RUN`, and
    more of them."""
    return f"{os.environ.get('MVQKD_RUN', './run.sh --recipe RECIPE')} {options}"


def stage_command(step: str) -> str:
    """The command of one step's stage."""
    return run_command(f"--stage {STAGES[step]} --stop-stage {STAGES[step]}")


def tell(error: UserError) -> str:
    """Problem and remedy, with commands that can be pasted and the options of parameters."""
    remedy = error.advice or ""
    known = [OPTIONS[name] for name in error.parameters if name in OPTIONS]
    if "MVQKD_RUN" in os.environ:
        known = [option for option in known if option not in OF_PROGRAMS]
    if options := ", ".join(known):
        remedy += f" ({options})"
    if error.step:
        remedy += f"{'; ' if remedy else ''}{STEPS[error.step]}: {stage_command(error.step)}"
    return error.problem + (f"\n  remedy: {remedy}" if remedy else "")
