#!/usr/bin/env python3
"""Decode parts of the corpus with an experiment's student, and count its errors.

    python local/decode.py --exp-dir exp/mini/baseline --data-dir data/mini --prefix mini \\
        --vocab-size 40 --test-parts dev-mini test-mini --epoch 12 --avg 3 \\
        --use-averaged-model true --method modified_beam_search --beam-size 4
    python local/decode.py ... --streaming chunked --chunk-size 16 --left-context 64
    python local/decode.py ... --test-parts train-mini --method modified_beam_search --nbest 4

Writes recogs-*, errs-*, wer-summary-*, nbest-*.jsonl and result-*.json in <exp-dir>/<method>/.
What the command line does not say is as in section `decoding` of the experiment; fields of that
section need no `decoding.` before their names. Run again with the same settings, it costs nothing.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

from mvqkd.errors import UserError
from mvqkd.experiment.config import DecodingConfig
from mvqkd.experiment.parser import ExperimentParser, differences, load_experiment
from mvqkd.experiment.program import at_least, flatten, list_option, run_program


def main() -> None:
    parser = ExperimentParser(__doc__)
    add = parser.options.add_argument
    add("--exp-dir", type=Path, required=True, help="folder of the experiment")
    add("--data-dir", type=Path, required=True, help="prepared data")
    add("--prefix", default="librispeech", help="of the names of the data's files")
    add(
        "--test-parts",
        type=list_option,
        nargs="+",
        required=True,
        help="names or patterns of the parts to decode",
    )
    add("--vocab-size", type=int, default=500, help="tokens are <data-dir>/lang_bpe_<vocab-size>")
    add("--device", default="", help="cpu or cuda (default: cuda where there is a GPU)")
    add("--num-workers", type=at_least(0), default=1, help="processes that read features")
    add("--force", action="store_true", help="decode again what is there with the same settings")
    argv = complete_names(sys.argv[1:])
    _, options = parser.parse(argv)
    saved_path = options.exp_dir / "config.yaml"
    saved = load_experiment(saved_path)
    # Once more, now that the experiment is known: its values are the defaults.
    experiment, _ = parser.parse(["--config", str(saved_path), *argv])
    different = [line for line in differences(saved, experiment) if line.startswith("model.")]
    if different:
        raise UserError(
            f"{options.exp_dir} holds another model:\n    " + "\n    ".join(different),
            remedy="decode with options of section decoding only",
        )

    import torch  # not before: wrong options are told without waiting for it

    from mvqkd.data.parts import expand_parts
    from mvqkd.experiment.decode import decode_experiment

    fbank = options.data_dir / "fbank"
    begin, end = f"{options.prefix}_cuts_", ".jsonl.gz"
    available = [
        path.name.removeprefix(begin).removesuffix(end) for path in fbank.glob(f"{begin}*{end}")
    ]
    parts = expand_parts(
        flatten(options.test_parts), available, fbank, remedy="./run.sh --stage 2 --stop-stage 2"
    )
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    decode_experiment(
        options.exp_dir,
        experiment.decoding,
        {part: fbank / f"{begin}{part}{end}" for part in parts},
        options.data_dir / f"lang_bpe_{options.vocab_size}",
        device=torch.device(device),
        num_workers=options.num_workers,
        force=options.force,
    )


def complete_names(argv: list[str]) -> list[str]:
    """`--epoch 30` -> `--decoding.epoch 30`, `--method a,b` -> `--decoding.methods ["a", "b"]`."""
    names = {field.name for field in fields(DecodingConfig)}
    completed: list[str] = []
    following = iter(argv)
    for argument in following:
        option, equals, value = argument.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if option.startswith("--") and name in ("method", "methods"):
            methods = list_option(value if equals else next(following, ""))
            completed += ["--decoding.methods", json.dumps(methods)]
        elif option.startswith("--") and name in names:
            completed.append(f"--decoding.{name}{equals}{value}")
        else:
            completed.append(argument)
    return completed


if __name__ == "__main__":
    run_program(main)
