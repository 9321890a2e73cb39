"""Rules of the sections `distillation.outputs` and `distillation.dual_mode`, see
`mvqkd.recipe.config.rules`."""

from __future__ import annotations

from collections.abc import Iterator

from mvqkd.recipe.config.schema import ExperimentConfig

Problem = tuple[tuple[str, ...], str, str]
"""Names of fields, text, remedy."""


def output_problems(experiment: ExperimentConfig) -> Iterator[Problem]:
    """What is wrong with the sections that are on."""
    distillation, chunks = experiment.distillation, experiment.model.chunk_size
    outputs, dual_mode = distillation.outputs, distillation.dual_mode
    if outputs.weight and not outputs.teacher.startswith("mvqkd:"):
        yield (
            ("distillation.outputs.weight", "distillation.outputs.teacher"),
            f"distillation.outputs is on, but its teacher is {outputs.teacher!r}: the tokens of a "
            "student are those of experiments of ours alone",
            "--distillation.outputs.teacher mvqkd:EXPERIMENT",
        )
    if dual_mode.weight and not any(size > 0 for size in chunks):
        yield (
            ("distillation.dual_mode.weight", "model.chunk_size"),
            f"distillation.dual_mode is on, but model.chunk_size is {chunks}: both passes have "
            "full context",
            "--model.causal true --model.chunk_size '[8]', or --distillation.dual_mode.weight 0",
        )
    if dual_mode.weight and dual_mode.kind == "lattice" and dual_mode.distribution != "full":
        yield (
            ("distillation.dual_mode.kind", "distillation.dual_mode.distribution"),
            f"distillation.dual_mode.distribution is {dual_mode.distribution}, but lattices are "
            "compared by their alignments",
            "--distillation.dual_mode.distribution full, or --distillation.dual_mode.kind cells",
        )
