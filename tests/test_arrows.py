"""Which packages may import which: read from the source, imports inside functions included.

`mvqkd/` is a house of rooms. An arrow that is forbidden here would let a library module know the
recipes, or a student know how it is trained.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mvqkd"
MODEL_CODE = [
    "models",
    "losses",
    "distillation",
    "training",
    "quantization",
    "teachers",
    "decoding",
]
FORBIDDEN = [
    *[
        (source, ["data", "training"])
        for source in ("models", "losses", "quantization", "features")
    ],
    ("losses", ["models"]),
    ("data", ["teachers", "distillation", "training", "models"]),
    ("data.loading", ["data.prepare"]),
    ("data.targets", ["data.loading", "data.prepare"]),
    *[(room, ["training"]) for room in ("teachers", "decoding", "export", "distillation")],
    ("recognizer", ["training", "recipe"]),
    *[(room, ["recipe", "training", "distillation"]) for room in ("transcription", "serving")],
    ("transcription", ["serving", "recognizer"]),
    ("serving", ["recognizer"]),
    ("checkpoints", ["training", "data"]),
    ("evaluation", [*MODEL_CODE, "data", "checkpoints"]),
    ("storage", ["data", "runtime", *MODEL_CODE]),
    ("runtime", ["data", *MODEL_CODE]),
    ("errors", [""]),
    ("geometry", [""]),
]


def module_name(path: Path) -> str:
    """`data.loading.index`, without the name of the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, without the name of the package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: imports are absolute"
            # A name that is imported from a package may be a module of it.
            names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if is_module(name) else node.module for name in names.values()}
        elif (  # `import_module` takes names of modules as texts
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"mvqkd(\.\w+)+", node.value)
            and is_module(node.value)
        ):
            found.add(node.value)
    return {name.partition(".")[2] for name in found if name.partition(".")[0] == "mvqkd"}


def within(module: str, room: str) -> bool:
    return room == "" or module == room or module.startswith(f"{room}.")


def every_import() -> dict[str, set[str]]:
    return {module_name(path): imports(path) for path in sorted(PACKAGE.rglob("*.py"))}


def test_only_programs_and_recipes_know_recipes() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, names in every_import().items()
        for name in names
        if within(name, "recipe") and not within(module, "recipe")
    ]
    assert not wrong


@pytest.mark.parametrize(("source", "targets"), FORBIDDEN, ids=lambda x: str(x))
def test_arrows_that_must_never_be(source: str, targets: list[str]) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, names in every_import().items()
        if within(module, source)
        for name in names
        for target in targets
        if within(name, target) and not within(name, source)
    ]
    assert not wrong


def test_no_two_rooms_need_each_other() -> None:
    """`data` has rooms of its own."""

    def room(module: str) -> str:
        parts = module.split(".")
        return ".".join(parts[:2]) if parts[0] == "data" else parts[0]

    graph: dict[str, set[str]] = defaultdict(set)
    for module, names in every_import().items():
        if module:
            graph[room(module)] |= {room(name) for name in names if name} - {room(module)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"rooms that need each other: {' -> '.join(error.args[1])}") from None


def test_the_library_knows_neither_options_nor_stages() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if within(module_name(path), "recipe") or module_name(path) == "__main__":
            continue  # __main__ is the command line of the package
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
                option = re.search(r"(?<!\S)--[a-z]", text) and "pip install" not in text
                if "run.sh" in text or option:
                    wrong.append(f"{path.relative_to(ROOT)}: {text[:80]!r}")
    assert not wrong


def test_lazy_imports_are_read(tmp_path: Path) -> None:
    source = tmp_path / "lazy.py"
    source.write_text(
        "def f():\n    from mvqkd.recipe import build\n    import mvqkd.training.sums\n"
    )
    assert imports(source) == {"recipe.build", "training.sums"}


def test_files_are_short() -> None:
    lengths = {
        path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("mvqkd", "local", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }
    limit = {path: 100 if path.parts[0] == "local" else 400 for path in lengths}
    assert not {str(path): n for path, n in lengths.items() if n > limit[path]}
