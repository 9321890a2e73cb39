#!/usr/bin/env python3
"""List every `--section.field` of an experiment, or check options before anything is installed.

    list_options.py                      print sections, fields, defaults and what they mean
    list_options.py --check --a.b 1 ...  exit 2 when a name is no field of the configuration, or a
                                         value none that its field takes

Needs only the standard library.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mvqkd.recipe.config.fields import all_fields, find_field
from mvqkd.recipe.config.renamed import is_old


def main(argv: list[str]) -> int:
    if argv[:1] != ["--check"]:
        sections: dict[str, list[str]] = {}
        for name, field in all_fields().items():
            if "." not in name:  # no option: it is of the file alone
                continue
            default = "''" if field.default == "" else field.default
            lines = sections.setdefault(name.rpartition(".")[0], [])
            lines.append(f"  --{name} (default {default})\n      {field.help}")
        for section, lines in sections.items():
            print(f"\n{section}", *lines, sep="\n")
        return 0
    for option, value in zip(argv[1::2], argv[2::2], strict=True):
        name = option.removeprefix("--")
        if is_old(name):  # checked when the experiment is known
            continue
        try:
            find_field(name).parse(value)
        except KeyError as error:
            return refuse(error.args[0], "./run.sh --help-config lists them all")
        except ValueError as error:
            return refuse(
                f"{name} is {value!r}; allowed: {error}",
                "./run.sh --help-config says what it means",
            )
    return 0


def refuse(problem: str, remedy: str) -> int:
    print(f"run.sh: {problem}\n  remedy: {remedy}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
