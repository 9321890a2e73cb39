"""What README.md says can be run, runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.mark.slow
def test_python_examples_run():
    """All but that of a trained student, which tests/recipes has."""
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    own = [example for example in examples if "exp/mini" not in example]
    assert len(own) == 2
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(own)],
        cwd=README.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "torch.Size([2, 100, 144])" in result.stdout


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert local
    assert [link for link in local if not (README.parent / link).exists()] == []


def test_the_environment_is_named_before_it_is_needed():
    text = README.read_text(encoding="utf-8")
    needed = [text.index(command) for command in ("\npython ", "\ntorchrun ", "```python")]
    assert text.index(". .venv/bin/activate") < min(needed)
