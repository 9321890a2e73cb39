"""Experiment configurations to and from YAML files and command lines."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, set_parsing_settings

from mvqkd.errors import UserError
from mvqkd.experiment.check import check_values
from mvqkd.experiment.config import ExperimentConfig
from mvqkd.files import write_text

# The docstring under each field of the dataclasses becomes the help of its option.
set_parsing_settings(docstring_parse_attribute_docstrings=True)


class ExperimentParser:
    """A program's command line: `--config <experiment>.yaml`, `--section.field value`, and options
    of its own.

    Options of the program are added to `.options`, an `argparse`-like parser. Later values win:
    defaults, the YAML file, the command line.
    """

    def __init__(self, description: str | None) -> None:
        self.options = ArgumentParser(description=description)
        self.options.add_argument(
            "--config", action=ActionConfigFile, help="YAML file of the experiment"
        )
        self.options.add_class_arguments(ExperimentConfig)

    def parse(self, argv: list[str] | None = None) -> tuple[ExperimentConfig, Namespace]:
        """Return the experiment, and all options as a namespace (`argv`: the process's own by
        default).

        Raises:
            UserError: a value is out of its range.
        """
        namespace = self.options.parse_args(argv)
        return _experiment(self.options, namespace), namespace


def save_experiment(experiment: ExperimentConfig, path: str | Path) -> None:
    """Write every field of `experiment`, defaults included, as YAML."""
    write_text(path, yaml.safe_dump(asdict(experiment), sort_keys=False))


def load_experiment(path: str | Path) -> ExperimentConfig:
    """Read what `save_experiment` wrote, or an `egs/*/conf/*.yaml`.

    Raises:
        UserError: the file is missing, or has a key or a value that no field of the configuration
            takes.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path} is missing", remedy="train the experiment first: ./run.sh --exp NAME"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ExperimentConfig)
    try:
        return _experiment(parser, parser.parse_path(path))
    except UserError as error:
        raise UserError(f"{path}: {error.problem}", remedy=error.remedy) from error
    except Exception as error:  # jsonargparse raises several kinds; all mean a bad file here
        raise UserError(f"{path} is not an experiment: {error}") from error


def differences(saved: ExperimentConfig, wanted: ExperimentConfig) -> list[str]:
    """Lines `section.field: saved -> wanted` for every field in which two experiments differ."""
    old, new = _flatten(asdict(saved)), _flatten(asdict(wanted))
    return [f"{key}: {old[key]!r} -> {new[key]!r}" for key in new if old[key] != new[key]]


def _experiment(parser: ArgumentParser, namespace: Namespace) -> ExperimentConfig:
    built = parser.instantiate(namespace)
    experiment = ExperimentConfig(
        **{field.name: built[field.name] for field in fields(ExperimentConfig)}
    )
    check_values(experiment)
    return experiment


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
