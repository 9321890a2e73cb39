"""Stage 10, before anything is loaded: which settings, splits and tokens an experiment is decoded
with."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from mvqkd.data.folder import DataFolder
from mvqkd.data.prepare.preparation_report import read_report
from mvqkd.data.splits import expand_splits
from mvqkd.errors import UserError
from mvqkd.recipe.config.load import differences, load_config
from mvqkd.recipe.config.schema import DecodingConfig
from mvqkd.recipe.remedies import run_command
from mvqkd.recipe.run_folder import lang_name, tokens_of
from mvqkd.storage.jsonl import stem

Value = TypeVar("Value")


def decoding_inputs(
    exp_dir: Path,
    data_dir: Path,
    overrides: Sequence[tuple[str, str]],
    *,
    patterns: Sequence[str] = (),
    vocab_size: int | None = None,
) -> tuple[DecodingConfig, dict[str, Path], Path]:
    """Settings, manifests of cuts by split, and the folder of the tokens.

    Args:
        exp_dir: folder of the experiment.
        data_dir: prepared data.
        overrides: (`section.field`, text) of the command line.
        patterns: names or patterns of splits; none: the dev and test splits.
        vocab_size: of the tokens; None: those of the training.

    Raises:
        UserError: no such experiment, data or splits, or other values than in training in a
            section other than `decoding`.
    """
    trained = load_config(exp_dir / "config.yaml").config
    loaded = load_config(exp_dir / "config.yaml", overrides)
    # The same values as in training are fine: run.sh passes them to both.
    changed = [
        line
        for line in differences(trained, loaded.config)
        if not line.startswith(("decoding.", "export.", "description"))
    ]
    if changed:
        raise UserError(
            f"{exp_dir} is trained; decoding cannot change {'; '.join(changed)}",
            remedy="decode with values of section decoding only",
        )
    data = DataFolder(data_dir)
    splits = data.splits()
    if patterns:
        available = [name for name in {n for names in splits.values() for n in names}]
        chosen = expand_splits(
            patterns,
            available,
            data_dir,
            remedy=f"prepare others: {run_command('--stage 1 --stop-stage 2')}",
        )
    else:
        chosen = [*splits["dev"], *splits["test"]]
    name = None if vocab_size is not None else lang_name(exp_dir)
    hours = trained.data.labelled_hours
    if name is None:
        lang_dir = data.lang(vocab_size, hours)
    else:
        lang_dir = tokens_of(exp_dir, data.root / name)
    return loaded.config.decoding, {split: data.cuts(split) for split in chosen}, lang_dir


def left_out(data_dir: Path, splits: Iterable[str]) -> dict[str, dict[str, int]]:
    """For each split, how many utterances the corpus has that are not decoded, by reason.

    Args:
        data_dir: prepared data.
        splits: their names.
    """
    data = DataFolder(data_dir)
    found = {}
    for split in splits:
        cuts = data.cuts(split)
        reports = [data.report(split), cuts.with_name(f"{stem(cuts)}.report.json")]
        reasons: dict[str, int] = {}
        for report in map(read_report, reports):
            for kind, entry in report.get("left_out", {}).items():
                if kind == "too long" and report.get("max_seconds"):
                    kind = f"longer than {report['max_seconds']:g} s"
                reasons[kind] = reasons.get(kind, 0) + entry["count"]
        found[split] = reasons
    return found


def labelled(by_split: Mapping[str, Value], label: str) -> dict[str, Value]:
    """The same under names that begin with a label, which tells splits of two data folders apart;
    empty: as they are.

    Raises:
        UserError: a label that names of files cannot have.
    """
    if not label:
        return dict(by_split)
    if not re.fullmatch(r"\w[\w.-]*", label):
        raise UserError(
            f"{label} is no label for names of files",
            remedy="take letters, digits, hyphens, dots and underscores",
            parameters=("label",),
        )
    return {f"{label}-{split}": value for split, value in by_split.items()}


def complete_names(argv: Sequence[str] | None = None) -> list[str]:
    """`--epoch 30` -> `--decoding.epoch 30`, `--method a,b` -> `--decoding.methods ["a", "b"]`, in
    the command line (`argv`: the process's own by default)."""
    names = {field.name for field in fields(DecodingConfig)}
    completed: list[str] = []
    following = iter(sys.argv[1:] if argv is None else argv)
    for argument in following:
        option, equals, value = argument.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if option.startswith("--") and name in ("method", "methods"):
            methods = (value if equals else next(following, "")).replace(",", " ").split()
            completed += ["--decoding.methods", json.dumps(methods)]
        elif option.startswith("--") and name in names:
            completed.append(f"--decoding.{name}{equals}{value}")
        else:
            completed.append(argument)
    return completed
