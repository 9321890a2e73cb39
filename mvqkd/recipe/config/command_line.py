"""The command line of programs that take an experiment."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mvqkd.recipe.config.load import LoadedConfig, load_config


class ExperimentParser:
    """`--config <experiment>.yaml`, `--section.field value`, and options of the program.

    Options of the program are added to `.options`.
    """

    def __init__(self, description: str | None, *, many: bool = False) -> None:
        """Args:
        description: of the program.
        many: it takes several files of experiments.
        """
        self.options = argparse.ArgumentParser(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog="--section.field VALUE overrides a value of the configuration: "
            "./run.sh --help-config lists them.",
        )
        self.options.add_argument(
            "--config", type=Path, nargs="+" if many else None, help="YAML file of the experiment"
        )

    def parse(self, argv: list[str] | None = None) -> tuple[LoadedConfig, argparse.Namespace]:
        """The experiment, and the program's own options (`argv`: the process's own by default).

        Raises:
            UserError: a value is not of the configuration.
        """
        options, overrides = self.split(argv)
        return load_config(options.config, overrides), options

    def split(
        self, argv: list[str] | None = None
    ) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
        """The program's own options, and (`section.field`, text) of the others."""
        options, rest = self.options.parse_known_args(sys.argv[1:] if argv is None else argv)
        overrides: list[tuple[str, str]] = []
        following = iter(rest)
        for argument in following:
            name, equals, value = argument.partition("=")
            if not name.startswith("--") or "." not in name:
                self.options.error(f"unrecognized argument {argument}")
            if not equals:
                value = next(following, None)  # type: ignore[assignment]
                if value is None:
                    self.options.error(f"{name} needs a value")
            overrides.append((name.removeprefix("--").replace("-", "_"), value))
        return options, overrides
