"""Errors of the library in the words of a recipe."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvqkd.data.splits import ROLES
from mvqkd.errors import STEPS, UserError
from mvqkd.recipe.config.fields import all_fields
from mvqkd.recipe.remedies import OF_PROGRAMS, OPTIONS, STAGES, tell

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MVQKD_RUN", raising=False)


def test_a_step_is_its_stage_with_the_options_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    error = UserError("x is missing", step="tokens")
    assert str(error) == "x is missing\n  remedy: prepare the tokens"
    wanted = "prepare the tokens: {} --stage 3 --stop-stage 3"
    assert tell(error).splitlines()[1] == "  remedy: " + wanted.format("./run.sh --recipe RECIPE")
    monkeypatch.setenv("MVQKD_RUN", r"./run.sh --recipe egs/x --data-dir a\ b")
    told = tell(UserError("x is damaged", remedy="delete it", step="tokens"))
    command = wanted.format(r"./run.sh --recipe egs/x --data-dir a\ b")
    assert told == f"x is damaged\n  remedy: delete it; {command}"


def test_parameters_are_options() -> None:
    error = UserError("too long", remedy="40 takes all", parameters=("step_duration", "num_jobs"))
    assert tell(error) == "too long\n  remedy: 40 takes all (--data.step_duration, --nj)"
    assert str(error) == "too long\n  remedy: 40 takes all"
    assert tell(UserError("that is it")) == "that is it"


def test_errors_of_worker_processes_arrive_whole() -> None:
    error = UserError("a", remedy="b", step="codes", parameters=("avg",))
    assert tell(pickle.loads(pickle.dumps(error))) == tell(error)


def test_every_step_has_the_stage_that_does_it() -> None:
    assert STAGES.keys() == STEPS.keys()
    helped = subprocess.run(
        ["bash", str(ROOT / "run.sh"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    titles = dict(
        reversed(line.split()[:2]) for line in helped.splitlines() if line.strip()[:1].isdigit()
    )
    same = {"training": "train", "decoding": "decode"}
    for step, stage in STAGES.items():
        assert titles[same.get(step, step)] == str(stage)


def test_every_option_exists() -> None:
    programs = "".join(
        path.read_text(encoding="utf-8")
        for path in [*ROOT.glob("local/*.py"), ROOT / "mvqkd/recipe/options.py", ROOT / "run.sh"]
    )
    for option in OPTIONS.values():
        if "SECTION" in option:
            for section in ("codes", "embeddings"):
                assert option.removeprefix("--").replace("SECTION", section) in all_fields()
        elif "." in option:
            assert option.removeprefix("--") in all_fields()
        else:
            assert option in programs or option.replace("unlabelled", "{role}") in programs


def _of_run_sh() -> set[str]:
    """Options that the driver takes."""
    text = (ROOT / "run.sh").read_text(encoding="utf-8")
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text[text.index("while [ $# -gt 0 ]") :]))


def _of_programs() -> set[str]:
    """Options that programs define."""
    files = [*ROOT.glob("local/*.py"), *ROOT.glob("mvqkd/recipe/**/*.py")]
    defined = r"(?:add|add_argument)\(\s*((?:\s*f?\"--[\w{}-]+\",?)+)"
    found = {
        option
        for path in files
        for group in re.findall(defined, path.read_text(encoding="utf-8"))
        for option in re.findall(r"--[\w{}-]+", group)
    }
    return found | {option.format(role=role) for option in found for role in ROLES}


def test_options_that_words_name_exist() -> None:
    known = _of_run_sh() | _of_programs() | {f"--{name}" for name in all_fields()}
    known |= {"--help", "--help-config", "--check", "--section.field", "--decoding."}
    known |= {"--porcelain", "--untracked-files"}  # of git
    unknown = []
    for path in [*ROOT.glob("local/*.py"), *ROOT.glob("mvqkd/recipe/**/*.py")]:
        if path.name == "program.py":  # names options of torchrun
            continue
        for text in _texts(ast.parse(path.read_text(encoding="utf-8"))):
            for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*[\w.]", text):
                spelled = {option.replace("SECTION", kind) for kind in ("codes", "embeddings")}
                if not spelled & known:
                    unknown.append(f"{path.relative_to(ROOT)}: {option}")
    assert not unknown


def _texts(tree: ast.AST) -> Iterator[str]:
    """Of a module, without docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    described = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in described:
            yield from [node.value] if isinstance(node.value, str) else []


def test_the_driver_is_advised_of_no_option_that_it_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = _of_run_sh()
    for option in OPTIONS.values():
        assert ("." in option or option in taken) == (option not in OF_PROGRAMS)
    error = UserError("x is of another run", remedy="name another", parameters=("output", "nj"))
    assert tell(error) == "x is of another run\n  remedy: name another (--output)"
    monkeypatch.setenv("MVQKD_RUN", "./run.sh")
    assert tell(error) == "x is of another run\n  remedy: name another"


def test_every_parameter_of_an_error_has_an_option() -> None:
    found = set()
    for path in (ROOT / "mvqkd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "parameters":
                found |= {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)}
    names = {name for name in found if isinstance(name, str) and name.isidentifier()}
    prefixes = {"step_", "batch_"}
    assert names - prefixes and not names - prefixes - OPTIONS.keys()


def test_programs_print_two_lines() -> None:
    program = (
        "from mvqkd.errors import UserError\n"
        "from mvqkd.recipe.program import run_program\n"
        "def main():\n"
        "    raise UserError('no codes', step='codes')\n"
        "run_program(main)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    command = "./run.sh --recipe RECIPE --stage 7 --stop-stage 7"
    assert done.stderr == f"error: no codes\n  remedy: dump the codes: {command}\n"
