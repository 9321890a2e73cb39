"""Running programs of local/ in this process."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from tests.teachers.corpus import URI

LOCAL = Path(__file__).parents[2] / "local"


def run(program: str, *options: object) -> None:
    """Run a program with these options."""
    main = runpy.run_path(str(LOCAL / f"{program}.py"))["main"]
    saved, sys.argv = sys.argv, [program, *map(str, options)]
    try:
        main()
    finally:
        sys.argv = saved


def extract(cuts: Path, output: Path, *options: object, teacher: str = URI) -> None:
    run(
        "extract_embeddings",
        *("--cuts", cuts, "--teacher", teacher, "--output", output, "--num-workers", 0),
        *("--layers", 1, 3, "--shard-hours", 0.001, *options),
    )


def dump(cuts: Path, quantizer: Path, output: Path, *options: object) -> None:
    run(
        "dump_codes",
        *("--cuts", cuts, "--quantizer", quantizer, "--output", output, "--num-workers", 0),
        *("--shard-hours", 0.0005, *options),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}
