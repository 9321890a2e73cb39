"""Stage 12, before anything is loaded: which settings, splits and tokens an experiment is exported
with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from mvqkd.data.folder import DataFolder
from mvqkd.errors import UserError
from mvqkd.recipe.config.load import load_config
from mvqkd.recipe.config.schema import DecodingConfig, ExportConfig
from mvqkd.recipe.stages.decode_options import decoding_inputs


@dataclass(frozen=True)
class ExportInputs:
    """What an experiment is exported with."""

    export: ExportConfig
    decoding: DecodingConfig
    lang_dir: Path
    int8_split: str
    int8_cuts: Path
    test_cuts: Path
    """The first test split's, or where there is none those of int8_split."""


def export_inputs(
    exp_dir: Path,
    data_dir: Path,
    overrides: Sequence[tuple[str, str]],
    *,
    vocab_size: int | None = None,
) -> ExportInputs:
    """Settings, splits and tokens.

    Args:
        exp_dir: folder of the experiment.
        data_dir: prepared data.
        overrides: (`section.field`, text) of the command line.
        vocab_size: of the tokens; None: those of the training.

    Raises:
        UserError: no such experiment, data or split, or other values than in training in a section
            other than `decoding` and `export`.
    """
    export = load_config(exp_dir / "config.yaml", overrides).config.export
    splits = DataFolder(data_dir).splits()
    split = export.int8_split or splits["dev"][0]
    test = splits["test"][0] if splits["test"] else split
    decoding, cuts, lang_dir = decoding_inputs(
        exp_dir, data_dir, overrides, patterns=[split, test], vocab_size=vocab_size
    )
    if split not in cuts:
        raise UserError(
            f"export.int8_split {split} is a pattern, of {', '.join(cuts)}",
            remedy="name one split",
        )
    for path in (cuts[split], cuts[test]):
        if not path.is_file():
            raise UserError(f"{path} is missing", step="features")
    return ExportInputs(export, decoding, lang_dir, split, cuts[split], cuts[test])


def complete_names(argv: Sequence[str] | None = None) -> list[str]:
    """`--precisions int8` -> `--export.precisions int8`, `--epoch 30` -> `--decoding.epoch 30`, in
    the command line (`argv`: the process's own by default)."""
    sections = {field.name: "decoding" for field in fields(DecodingConfig)}
    sections |= {field.name: "export" for field in fields(ExportConfig)}
    completed: list[str] = []
    for argument in sys.argv[1:] if argv is None else argv:
        option, equals, value = argument.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        known = option.startswith("--") and name in sections
        completed.append(f"--{sections[name]}.{name}{equals}{value}" if known else argument)
    return completed
