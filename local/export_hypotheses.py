#!/usr/bin/env python3
"""Write a teacher's hypotheses as a lhotse manifest of cuts with alternative supervisions.

    python local/export_hypotheses.py --cuts data/x/fbank/librispeech_cuts_train-mini.jsonl.gz \\
        --hypotheses data/x/teachers/whisper-tiny.en/hypotheses-beam5-1a2b3c4d \\
        --output alternatives.jsonl.gz

See mvqkd.data.loading.alternatives.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mvqkd.data.loading.alternatives import write_alternatives
from mvqkd.recipe.program import run_program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cuts", type=Path, nargs="+", required=True, help="manifests of cuts")
    add("--hypotheses", type=Path, required=True, help="folder of local/dump_hypotheses.py")
    add("--output", type=Path, required=True, help="manifest to write, .jsonl.gz")
    options = parser.parse_args()
    count = write_alternatives(options.cuts, options.hypotheses, options.output)
    logging.info("%s: %d cuts", options.output, count)


if __name__ == "__main__":
    run_program(main)
