"""Configurations from files and command lines, and which of them each value came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

from mvqkd.errors import UserError
from mvqkd.recipe.config.fields import all_fields, build, find_field, flatten, suggest
from mvqkd.recipe.config.renamed import translate
from mvqkd.recipe.config.schema import ExperimentConfig
from mvqkd.storage.files import read_commented, write_commented

COMMAND_LINE = "the command line"
_MOST_BASES = 10


class Item(NamedTuple):
    """A value as it is written down."""

    name: str
    """`section.field`, or deeper."""
    text: str | list[str]
    """A list has its items."""
    origin: str
    """`<file>, line <number>`, or the command line."""


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration, and where its values came from."""

    config: ExperimentConfig
    origins: dict[str, str]
    """By name of a field that was given: `<file>, line <number>`, or the command line."""

    def where(self, *names: str) -> str:
        """` (<name>: <origin>, ...)`, of those that were given; otherwise empty."""
        given = [f"{name}: {self.origins[name]}" for name in names if name in self.origins]
        return f" ({'; '.join(given)})" if given else ""


def load_config(path: str | Path | None, overrides: Sequence[tuple[str, str]] = ()) -> LoadedConfig:
    """The configuration of an experiment.

    Later values win: defaults, `base:` files (one, or a list, each with its own bases before it),
    the file, the command line.

    Args:
        path: YAML file `egs/*/conf/*.yaml`, or what `save_config` wrote; None: defaults.
        overrides: (`section.field`, text) of the command line.

    Raises:
        UserError: a file is missing or no YAML, or a name or value is not of the configuration;
            names the file and the line.
    """
    sources = [] if path is None else [_read(file) for file in _chain(Path(path))]
    sources.append([Item(name, text, COMMAND_LINE) for name, text in overrides])
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for items in sources:
        for item in translate(items, values):
            try:
                field = find_field(item.name)
                if isinstance(item.text, list):
                    values[item.name] = field.parse_list(item.text)
                else:
                    values[item.name] = field.parse(item.text)
            except KeyError as error:
                raise UserError(
                    f"{item.origin}: {error.args[0]}",
                    remedy="./run.sh --help-config lists the configuration values",
                ) from None
            except ValueError as error:
                raise UserError(
                    f"{item.origin}: {item.name} is {item.text!r}; allowed: {error}",
                    remedy="./run.sh --help-config says what it means",
                ) from None
            origins[item.name] = item.origin
    return LoadedConfig(build(values), origins)


def save_config(config: ExperimentConfig, path: str | Path) -> None:
    """Write every field, defaults included, as YAML."""
    write_commented(path, yaml.safe_dump(asdict(config), sort_keys=False))


def differences(saved: ExperimentConfig, wanted: ExperimentConfig) -> list[str]:
    """Lines `section.field: saved -> wanted` for every field in which two experiments differ."""
    old, new = flatten(saved), flatten(wanted)
    return [f"{key}: {old[key]!r} -> {new[key]!r}" for key in new if old[key] != new[key]]


def _chain(path: Path, below: tuple[Path, ...] = ()) -> list[Path]:
    """The files that a file is based on, each after its own bases, and the file itself."""
    if path in below or len(below) > _MOST_BASES:
        raise UserError(
            f"{below[0]}: its bases lead back to {path.name}",
            remedy="let no file be based on itself",
        )
    files = [file for base in _bases_of(path) for file in _chain(base, (*below, path))]
    return [*files, path]


def _bases_of(path: Path) -> list[Path]:
    for key, node in _mapping(_compose(path), path, ""):
        if key == "base":
            named = node.value if isinstance(node, yaml.SequenceNode) else [node]
            if not named or not all(isinstance(n, yaml.ScalarNode) and n.value for n in named):
                raise UserError(f"{_place(path, node)}: base is the name of a file, or a list")
            bases = [path.parent / name.value for name in named]
            for base in bases:
                if not base.is_file():
                    raise UserError(
                        f"{_place(path, node)}: the base {base} is missing",
                        remedy="name a file beside this one",
                    )
            return bases
    return []


def _read(path: Path) -> list[Item]:
    """Every value of a file, without those of its base."""
    items: list[Item] = []

    def walk(node: yaml.Node, prefix: str) -> None:
        for key, value in _mapping(node, path, prefix):
            name, place = f"{prefix}{key}", _place(path, value)
            if name == "base":
                continue
            if isinstance(value, yaml.MappingNode):
                walk(value, f"{name}.")
            elif isinstance(value, yaml.SequenceNode):
                if not all(isinstance(item, yaml.ScalarNode) for item in value.value):
                    raise UserError(f"{place}: {name} is a list of lists or sections")
                items.append(Item(name, [item.value for item in value.value], place))
            elif value.tag == "tag:yaml.org,2002:null":
                raise UserError(
                    f"{place}: {name} has no value", remedy="give it one, or leave the line out"
                )
            else:
                items.append(Item(name, value.value, place))

    walk(_compose(path), "")
    return items


def _compose(path: Path) -> yaml.Node:
    if not path.is_file():
        raise UserError(f"{path} is missing", remedy="name the YAML file of an experiment")
    try:
        node = yaml.compose(read_commented(path), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = str(path) if mark is None else f"{path}, line {mark.line + 1}"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{place}: no YAML: {problem}") from None
    if node is None:
        raise UserError(
            f"{path} has no values", remedy="write some, or put the file back from where it came"
        )
    return node


def _mapping(node: yaml.Node, path: Path, prefix: str) -> list[tuple[str, yaml.Node]]:
    """Keys and values of a section."""
    if not isinstance(node, yaml.MappingNode):
        sections = sorted({name.split(".")[0] for name in all_fields()})
        raise UserError(
            f"{_place(path, node)}: {prefix.rstrip('.') or 'the file'} is no section with values",
            remedy=f"sections are {', '.join(sections)}",
        )
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{_place(path, key)}: a name must be a word")
        if key.value in found:
            raise UserError(f"{_place(path, key)}: {prefix}{key.value} is there twice")
        found[key.value] = value
    return list(found.items())


def _place(path: Path, node: yaml.Node) -> str:
    return f"{path}, line {node.start_mark.line + 1}"


__all__ = [
    "COMMAND_LINE",
    "Item",
    "LoadedConfig",
    "differences",
    "load_config",
    "save_config",
    "suggest",
]
