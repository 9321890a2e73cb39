#!/usr/bin/env python3
"""Check that a teacher is used rightly, and where in it the speech is, before hours of extraction.

    python local/check_teacher.py --teacher hf:facebook/hubert-large-ll60k --layers 6 12 18 24 \\
        --train-cuts data/x/fbank/librispeech_cuts_train-clean-5.jsonl.gz \\
        --test-cuts data/x/fbank/librispeech_cuts_dev-clean-2.jsonl.gz

See mvqkd.recipe.stages.teacher.check_teacher for what the table shows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mvqkd.recipe.program import run_program
from mvqkd.recipe.stages.teacher import TeacherCheck, check_teacher
from mvqkd.storage.files import write_text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, default = parser.add_argument, TeacherCheck()
    add("--teacher", required=True, help="torchaudio:NAME, hf:ID, ...: see mvqkd.teachers.load")
    add("--layers", type=int, nargs="+", help="1-based (default: four, evenly spaced)")
    add("--train-cuts", type=Path, nargs="+", required=True, help="manifests; with transcripts")
    add("--test-cuts", type=Path, nargs="+", required=True, help="of other speakers")
    add("--num-train", type=int, default=default.num_train, help="for the probes (%(default)s)")
    add("--num-test", type=int, default=default.num_test, help="to test on (%(default)s)")
    add("--steps", type=int, default=default.steps, help="of training a probe (%(default)s)")
    add("--seed", type=int, default=default.seed, help="of the utterances and of the probes")
    add("--max-duration", type=float, default=default.max_duration, help="seconds in a batch")
    add("--output", type=Path, help="write the table there too")
    options = parser.parse_args()
    how = TeacherCheck(
        num_train=options.num_train,
        num_test=options.num_test,
        steps=options.steps,
        seed=options.seed,
        max_duration=options.max_duration,
    )
    page = check_teacher(
        options.teacher, options.layers, options.train_cuts, options.test_cuts, how
    )
    print(page, end="")
    if options.output:
        write_text(options.output, page)


if __name__ == "__main__":
    run_program(main)
