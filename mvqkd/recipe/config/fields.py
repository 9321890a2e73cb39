"""The fields of a configuration, whatever sections they are nested in: one walk for files, command
lines, help and checks.

Only the standard library is imported: `run.sh` checks options before anything is installed.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from mvqkd.recipe.config.ranges import Range
from mvqkd.recipe.config.schema import ExperimentConfig

_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Field:
    """A value of the configuration."""

    name: str
    """`section.field`, or deeper: `distillation.codes.quantizer.num_codebooks`."""
    kind: Any
    """Its type: int, float, bool, str, a `Literal` of strings, or a list of one of these."""
    range: Range | None
    """Numbers that it may be."""
    default: Any
    help: str
    """The docstring under it."""

    def parse(self, text: str) -> Any:
        """The value that a text denotes, in a file or on a command line.

        Raises:
            ValueError: says what is allowed.
        """
        value = _parse(text, self.kind)
        self.check(value)
        return value

    def parse_list(self, texts: list[str]) -> list[Any]:
        """The same of the items of a list.

        Raises:
            ValueError: says what is allowed.
        """
        if get_origin(self.kind) is not list:
            raise ValueError(f"{_describe(self.kind, self.range)}, not a list")
        value = [_parse(text, get_args(self.kind)[0]) for text in texts]
        self.check(value)
        return value

    def check(self, value: Any) -> None:
        """Refuse a number outside of its range.

        Raises:
            ValueError: says what is allowed.
        """
        if self.range is not None and value not in self.range:
            raise ValueError(str(self.range))


@cache
def all_fields() -> dict[str, Field]:
    """Every field by its name, in the order of the sections."""
    return {field.name: field for field in _walk(ExperimentConfig, "")}


def find_field(name: str) -> Field:
    """The field of a name.

    Raises:
        KeyError: there is none; says which names are near.
    """
    found = all_fields().get(name)
    if found is None:
        raise KeyError(f"there is no configuration value {name}{suggest(name, all_fields())}")
    return found


def suggest(name: str, known: Any) -> str:
    """`; did you mean ...?`, or nothing."""
    near = difflib.get_close_matches(name, known, 3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def build(values: dict[str, Any]) -> ExperimentConfig:
    """A configuration with these values by name, and defaults for the others."""
    return _build(ExperimentConfig, "", values)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every value of a configuration by name."""
    flat: dict[str, Any] = {}
    for field in fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        flat |= flatten(value, f"{name}.") if is_dataclass(value) else {name: value}
    return flat


def _walk(kind: type, prefix: str) -> Iterator[Field]:
    hints = get_type_hints(kind, include_extras=True)
    documented = _docstrings(kind)
    for field in fields(kind):
        hint, name = hints[field.name], f"{prefix}{field.name}"
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _walk(hint, f"{name}.")
            continue
        range_ = None
        if get_origin(hint) is Annotated:
            hint, range_ = get_args(hint)
        factory = field.default_factory
        default = field.default if factory is MISSING else factory()
        yield Field(name, hint, range_, default, documented.get(field.name, ""))


def _build(kind: type, prefix: str, values: dict[str, Any]) -> Any:
    hints = get_type_hints(kind)
    given = {}
    for field in fields(kind):
        name = f"{prefix}{field.name}"
        if is_dataclass(hints[field.name]):
            given[field.name] = _build(hints[field.name], f"{name}.", values)
        elif name in values:
            given[field.name] = values[name]
    return kind(**given)


@cache
def _docstrings(kind: type) -> dict[str, str]:
    """By name of a field, the docstring under it, in the class or in those it derives from."""
    found: dict[str, str] = {}
    for base in filter(is_dataclass, reversed(kind.__mro__)):
        (definition,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(definition, ast.ClassDef)
        body = definition.body
        for statement, following in itertools.zip_longest(body, body[1:]):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                text = ""
                if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                    text = " ".join(str(following.value.value).split())
                found[statement.target.id] = text
    return found


def _parse(text: str, kind: Any) -> Any:
    if get_origin(kind) is list:
        inner = text.strip()
        if inner.startswith("[") != inner.endswith("]"):
            raise ValueError("a list, such as [1, 2]")
        if not inner.startswith("["):  # one item needs no brackets
            inner = f"[{inner}]"
        items = [item.strip(" \"'") for item in inner[1:-1].split(",")]
        return [_parse(item, get_args(kind)[0]) for item in items if item]
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(_describe(kind, None))
        return text
    if kind is bool:
        if text.lower() not in _TRUTHS:
            raise ValueError("true, false")
        return _TRUTHS[text.lower()]
    if kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(_describe(kind, None)) from None
        if kind is int and abs(value) >= 2**63:
            raise ValueError("a whole number of at most 63 bits")
        if not math.isfinite(value):
            raise ValueError("a finite number")
        return value
    return text


def _describe(kind: Any, range_: Range | None) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    if range_ is not None:
        return str(range_)
    return {int: "a whole number", float: "a number", bool: "true, false"}.get(kind, "a text")
