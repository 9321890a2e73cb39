"""The results of a recipe as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mvqkd.evaluation.bootstrap import SAMPLES
from mvqkd.evaluation.gather import (
    Comparison,
    Experiment,
    Rates,
    by_time,
    context_of,
    interval_of,
    way_of,
)

# Budgets that differ by less are the same.
_SAME_BUDGET = 0.02


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns of numbers are aligned to the right. Vertical bars in cells are escaped."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    numeric = [
        all(row[i][:1] in "0123456789-+–" for row in cells if row[i]) for i in range(len(header))
    ]
    lines = [header, ["---:" if right else "---" for right in numeric], *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def results_table(experiments: Sequence[Experiment], *, by_speaker: bool) -> str:
    """A row for each experiment and way of decoding, a column for each test set.

    Args:
        experiments: of one recipe.
        by_speaker: intervals that resample speakers, where the ids tell them.
    """
    sets = sorted({result["set"] for e in experiments for result in e.results})
    distilled = any(experiment.distillation for experiment in experiments)
    header = ["experiment", "M parameters", "steps", "hours of audio", "hours of training"]
    header += ["teacher's MB an hour"] if distilled else []
    header += ["decoding"]
    delayed = {r["set"] for e in experiments for r in e.results if r.get("delays")}
    for name in sets:
        header += [f"{name} WER % (95 %)", "CER %"]
        header += ["delay, ms (90 %)", "last word"] if name in delayed else []
    header += ["RTF", "commit", "seed"]
    rows = []
    for experiment in experiments:
        ways: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        for result in experiment.results:
            way = (result["method"], result["suffix"])
            ways.setdefault(way, {})[result["set"]] = result
        for (method, suffix), found in ways.items():
            factors = [result["rtf"] for result in found.values()]
            measures: list[str] = []
            for name in sets:
                measures += _error_rates(found.get(name), by_speaker)
                measures += _delays(found.get(name)) if name in delayed else ()
            rows.append(
                [
                    experiment.name,
                    f"{experiment.parameters / 1e6:.2f}" if experiment.parameters else "",
                    *_effort(experiment),
                    *([_storage(experiment)] if distilled else []),
                    f"{method} ({suffix})",
                    *measures,
                    f"{max(factors):.4f}",
                    _commit(experiment),
                    str(experiment.config.get("training", {}).get("seed", "")),
                ]
            )
    return markdown_table(header, rows)


def differences_table(baseline: str, compared: dict[str, list[Comparison]]) -> str:
    """Each experiment's error rates minus the baseline's, of words and of characters.

    Args:
        baseline: its name.
        compared: for each experiment what `gather.compare` gave.
    """
    rows = [
        [
            name,
            found.result["set"],
            _ways(found, baseline),
            *_difference(found.words),
            f"{100 * found.words.difference.better:.1f} %",
            *_difference(found.characters),
        ]
        for name, comparisons in compared.items()
        for found in comparisons
    ]
    header = ["experiment", "set", "decoding", f"WER minus {baseline}", "95 %", "relative"]
    header += ["better in", f"CER minus {baseline}", "95 %", "relative"]
    return markdown_table(header, rows)


def budgets(baseline: Experiment, experiments: Sequence[Experiment]) -> str:
    """In words, where an experiment had more or less training than the baseline: a part of the
    difference may be due to that. Empty if all had the same."""
    lines = []
    for experiment in experiments:
        if experiment is baseline or not (experiment.metrics and baseline.metrics):
            continue
        steps, hours = experiment.steps or 0, experiment.audio_hours or 0.0
        their_steps, their_hours = baseline.steps or 0, baseline.audio_hours or 0.0
        parts = []
        if abs(steps - their_steps) > _SAME_BUDGET * their_steps:
            parts.append(f"{steps} steps, not {their_steps}")
        if abs(hours - their_hours) > _SAME_BUDGET * their_hours:
            parts.append(f"{hours:.1f} hours of audio, not {their_hours:.1f}")
        if parts:
            lines.append(f"- {experiment.name} was trained with {' and '.join(parts)}.\n")
    if not lines:
        return ""
    return (
        f"Not all budgets are those of {baseline.name}; a part of a difference may be due to "
        f"that:\n\n{''.join(lines)}"
    )


def test_sets(experiments: Sequence[Experiment]) -> str:
    """In words, which utterances of the corpus the test sets do not have, and where references are
    not compared as the corpus spells them. Empty if there is nothing to say."""
    results = by_time([result for experiment in experiments for result in experiment.results])
    last = {result["set"]: result for result in results}
    lines = []
    for name, result in sorted(last.items()):
        # Not in results of older versions.
        if left_out := result.get("left_out"):
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
            lines.append(f"- {name}: {reasons} ({result['utterances']} utterances are decoded).\n")
    paragraphs = [f"Left out of the test sets:\n\n{''.join(lines)}"] if lines else []
    changed = sorted({result["set"] for result in results if result.get("references_changed")})
    if changed:
        sets = ", ".join(changed)
        paragraphs.append(f"References of {sets} are compared as `bpe.model` normalizes them.\n")
    return "\n".join(paragraphs)


def results_page(
    recipe: str,
    experiments: Sequence[Experiment],
    baseline: str | None,
    compared: dict[str, list[Comparison]],
    *,
    by_speaker: bool,
    pictures: Sequence[str],
    delays: str = "",
) -> str:
    """The whole page: table, differences, pictures, commands and hardware; `delays` is the section
    that `mvqkd.evaluation.delays` wrote."""
    unit = "speakers" if by_speaker else "utterances"
    parts = [
        f"# Results of {recipe}\n",
        f"Intervals: 95 %, bootstrap over {unit} ({SAMPLES} samples). Hours of audio are those of "
        "all epochs together, with and without transcripts; hours of training are wall-clock time; "
        "the real-time factor (RTF) is seconds of decoding for a second of audio, the slowest "
        "set's. A teacher's MB an hour: what is stored of it for an hour of training audio. A `+` "
        "after a commit: with changes that were not committed.\n",
        results_table(experiments, by_speaker=by_speaker),
    ]
    if notes := test_sets(experiments):
        parts.append(notes)
    if any(compared.values()):
        assert baseline is not None
        parts += [
            f"## Differences from {baseline}\n",
            "Paired bootstrap on the same utterances; negative is better. `better in` is the "
            "fraction of resampled test sets on which the experiment's WER is better. Error rates "
            "of characters (CER) count the spaces between words.\n",
            differences_table(baseline, compared),
        ]
        reference = next(e for e in experiments if e.name == baseline)
        if unequal := budgets(reference, [e for e in experiments if compared.get(e.name)]):
            parts.append(unequal)
    if delays:
        parts.append(delays)
    parts += [f"![{name}]({name})\n" for name in pictures]
    parts.append("## Commands\n")
    for experiment in experiments:
        parts.append(f"### {experiment.name}\n")
        if description := experiment.config.get("description"):
            parts.append(f"{description}\n")
        commands = [start["command"] for start in experiment.starts]
        commands += [result["command"] for result in experiment.results]
        parts.append("```\n" + "\n".join(dict.fromkeys(commands)) + "\n```\n")
        if experiment.starts:
            parts.append(f"Trained by {_hardware(experiment.starts[-1])}.\n")
        places = [
            f"{result['device']}, {result['threads']} threads" for result in experiment.results
        ]
        parts.append(f"Decoded on {'; '.join(dict.fromkeys(places))}.\n")
    return "\n".join(parts)


def _effort(experiment: Experiment) -> tuple[str, str, str]:
    """Steps, hours of audio trained on, and hours that it took."""
    if not experiment.metrics:
        return "", "", ""
    hours = f"{experiment.audio_hours:.1f}", f"{experiment.training_hours:.2f}"
    return str(experiment.steps), *hours


def _ways(found: Comparison, baseline: str) -> str:
    """How the experiment was decoded, and where that differs, the baseline."""
    other = context_of(found.other)
    if other == context_of(found.result):
        return way_of(found.result)
    return f"{way_of(found.result)} ({baseline}: {other})"


def _difference(rates: Rates) -> list[str]:
    """The difference from the baseline, its interval, and the relative difference."""
    difference, (low, high), _ = rates.difference
    relative = rates.relative
    return [
        f"{difference:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        "" if relative is None else f"{relative:+.1f} %",
    ]


def _storage(experiment: Experiment) -> str:
    """Megabytes of stored targets for an hour of audio."""
    return f"{experiment.stored_bytes / 1e6:.2f}" if experiment.distillation else ""


def _error_rates(result: dict[str, Any] | None, by_speaker: bool) -> tuple[str, str]:
    """Of words, with its interval, and of characters."""
    if result is None:
        return "", ""
    interval = interval_of(result, by_speaker=by_speaker)
    rate = math.inf if result["wer"] is None else result["wer"]
    characters = result.get("cer")  # not in results of older versions
    bounds = "" if interval is None else f" ({interval[0]:.2f}–{interval[1]:.2f})"
    return f"{rate:.2f}{bounds}", "" if characters is None else f"{characters:.2f}"


def _delays(result: dict[str, Any] | None) -> tuple[str, str]:
    """Median and 90th percentile, of words and of the last words of utterances."""
    delays = (result or {}).get("delays") or {}
    of_words, of_last = (delays.get(kind) for kind in ("words", "end"))
    return _median(of_words), _median(of_last)


def _median(delays: dict[str, Any] | None) -> str:
    return f"{round(delays['median'])} ({round(delays['p90'])})" if delays else ""


def _commit(experiment: Experiment) -> str:
    commits: dict[str, bool] = {}
    for start in experiment.starts:
        if commit := start["commit"]:
            commits[commit] = commits.get(commit, False) or start["dirty"]
    return ", ".join(f"{commit[:9]}{'+' if dirty else ''}" for commit, dirty in commits.items())


def _hardware(start: dict[str, Any]) -> str:
    gpus = start.get("gpus") or []
    device = f"{len(gpus)} x {gpus[0]}" if gpus else f"{start.get('cores')} cores, {start['cpu']}"
    versions = start.get("versions", {})
    return (
        f"{start.get('processes', 1)} process(es) on {device}; Python {start.get('python')}, torch "
        f"{versions.get('torch')}; {start['time'][:10]}"
    )
