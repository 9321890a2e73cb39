"""Options that programs of a recipe share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mvqkd.data.folder import DataFolder
from mvqkd.data.splits import ROLES
from mvqkd.errors import UserError
from mvqkd.recipe.config.load import LoadedConfig
from mvqkd.recipe.config.rules import check_rules
from mvqkd.recipe.inputs import ExperimentInputs


class Renamed(argparse.Action):
    """Action of an option that had other names: the first name is today's, with the others it is
    taken with a message."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value."""
        if option_string != self.option_strings[0]:
            print(f"{option_string} is now {self.option_strings[0]}", file=sys.stderr)
        setattr(namespace, self.dest, values)


class Unneeded(argparse.Action):
    """Action of an option that is taken with a message, and not needed any more."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Say so."""
        print(f"{option_string} is not needed any more: the data folder knows it", file=sys.stderr)


def at_least(low: int) -> Callable[[str], int]:
    """Type of an option that is a whole number of at least `low`."""

    def number(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"{value} is less than {low}")
        return value

    return number


def list_option(value: str) -> list[str]:
    """Type of an option with names separated by commas or spaces; use with `nargs="+"`."""
    return value.replace(",", " ").split()


def flatten(lists: Iterable[list[str]]) -> list[str]:
    """The value of such an option."""
    return [name for names in lists for name in names]


def add_data_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """`--data-dir`, and splits other than those that were prepared."""
    parser.add_argument("--data-dir", type=Path, required=required, help="prepared data")
    parser.add_argument("--prefix", action=Unneeded, help=argparse.SUPPRESS)
    add_split_options(parser, default="those that were prepared")


def add_split_options(parser: argparse.ArgumentParser, *, default: str) -> None:
    """`--train-splits` and those of the other roles, which `split_patterns` reads."""
    for role in ROLES:
        parser.add_argument(
            f"--{role}-splits",
            *[f"--{role}-parts", *(["--parts"] if role == "dev" else [])],
            action=Renamed,
            type=list_option,
            nargs="*",
            default=[],
            help=f"names or patterns of splits (default: {default})",
        )


def split_patterns(options: argparse.Namespace) -> dict[str, list[str]]:
    """Names or patterns by role, as `add_split_options` asks for them."""
    return {role: flatten(getattr(options, f"{role}_splits")) for role in ROLES}


def add_experiment_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """What `experiment_inputs` reads, beside `--config`."""
    add_data_options(parser, required=required)
    parser.add_argument(
        "--exp-root", type=Path, required=required, help="folder of the recipe's experiments"
    )


def experiment_inputs(loaded: LoadedConfig, options: argparse.Namespace) -> ExperimentInputs:
    """The experiment and its data, as the options of `add_experiment_options` say; its values are
    checked.

    Raises:
        UserError: values that do not go together, or an option is missing.
    """
    for name in ("config", "data_dir", "exp_root"):
        if getattr(options, name) is None:
            raise UserError(
                f"--config needs --data-dir and --exp-root: --{name.replace('_', '-')} is missing"
            )
    check_rules(loaded)
    return ExperimentInputs(
        loaded, DataFolder(options.data_dir), options.exp_root, split_patterns(options)
    )


def add_teacher_options(parser: argparse.ArgumentParser, *, shard_hours: float) -> None:
    """How a teacher runs over audio, see `TeacherPass`."""
    add = parser.add_argument
    add("--precision", choices=["float32", "bfloat16", "float16"], default="float32")
    add("--max-duration", type=float, default=100.0, help="seconds in a batch (%(default)s)")
    add("--shard-hours", type=float, default=shard_hours, help="of audio in a file (%(default)s)")
    add("--num-workers", type=at_least(0), default=2, help="processes reading audio (%(default)s)")


def require_options(
    parser: argparse.ArgumentParser, options: argparse.Namespace, *names: str
) -> None:
    """End with a message when an option that is needed without `--config` is missing."""
    missing = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is None]
    if missing:
        parser.error(f"without --config, {', '.join(missing)} must be given")
