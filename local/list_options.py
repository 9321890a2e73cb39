#!/usr/bin/env python3
"""List every `--section.field` of an experiment, or check options before anything is installed.

    list_options.py                      print sections, fields, defaults and what they mean
    list_options.py --check --a.b 1 ...  exit 2 when a name is no field of the configuration, or a
                                         value none that its field takes

Needs only the standard library: the fields are read from the source of
mvqkd/experiment/config.py.
"""

from __future__ import annotations

import ast
import difflib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mvqkd.experiment.check import check_option

SOURCE = Path(__file__).resolve().parents[1] / "mvqkd" / "experiment" / "config.py"


def read_fields() -> dict[str, tuple[str, str]]:
    """Map `section.field` to its default as written and its docstring."""
    classes = {
        node.name: node
        for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    fields: dict[str, tuple[str, str]] = {}
    for section, kind, _, _ in _fields(classes["ExperimentConfig"]):
        if kind not in classes:
            continue
        for name, _, default, text in _fields(classes[kind]):
            fields[f"{section}.{name}"] = (default, text)
    return fields


def _fields(node: ast.ClassDef) -> list[tuple[str, str, str, str]]:
    """(name, type, default, docstring) of a dataclass's fields."""
    found = []
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        default = ast.unparse(statement.value) if statement.value else ""
        default = default.removeprefix("field(default_factory=").removesuffix(")")
        default = default.removeprefix("lambda: ")
        text = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            text = " ".join(str(following.value.value).split())
        found.append((statement.target.id, ast.unparse(statement.annotation), default, text))
    return found


def main(argv: list[str]) -> int:
    fields = read_fields()
    if argv[:1] != ["--check"]:
        section = ""
        for name, (default, text) in fields.items():
            if name.split(".")[0] != section:
                section = name.split(".")[0]
                print(f"\n{section}")
            print(f"  --{name} (default {'[]' if default == 'list' else default})\n      {text}")
        return 0
    for option, value in zip(argv[1::2], argv[2::2], strict=True):
        name = option.removeprefix("--")
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 3)
            print(f"run.sh: unknown configuration value {option}", file=sys.stderr)
            hint = f"did you mean --{' or --'.join(close)}?" if close else ""
            print(f"  remedy: {hint or './run.sh --help-config lists them all'}", file=sys.stderr)
            return 2
        if problem := check_option(name, value):
            print(f"run.sh: {problem}", file=sys.stderr)
            print("  remedy: ./run.sh --help-config tells what it means", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
