#!/usr/bin/env python3
"""A picture of how near the layers of students are to a teacher's, with branches and without.

python local/compare_layers.py --teacher mvqkd:teacher --data-dir data/mini \\
    --picture exp/mini/layers.png exp/mini/streaming exp/mini/streaming_layers
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mvqkd.recipe.program import run_program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("exp_dirs", nargs="+", type=Path, help="folders of trained experiments")
    add("--teacher", required=True, help="mvqkd:EXPERIMENT, with full context")
    add("--data-dir", type=Path, required=True, help="prepared data; the dev splits are used")
    add("--picture", type=Path, required=True, help="PNG file; figures go into a .json beside it")
    add("--device", help="cpu or cuda (default: cuda where there is a GPU)")
    options = parser.parse_args()

    # Imported late: wrong options are reported without waiting for torch.
    from mvqkd.recipe.stages.layer_similarity import compare_layers

    table = compare_layers(
        options.exp_dirs,
        options.teacher,
        options.data_dir,
        options.picture,
        device=options.device,
    )
    print(table, end="")


if __name__ == "__main__":
    run_program(main)
