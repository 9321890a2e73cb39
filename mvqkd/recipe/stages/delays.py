"""Emission delays of experiments against the alignments of a reference, one with full context.

The reference aligns the transcripts of the test sets with each of the two heads that it has: by the
most probable path of its transducer, and by that of its CTC head. Its alignments are kept in
`<reference>/alignments/`, delays in `<exp>/<method>/delays-<set>-<suffix>.json`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.data.loading.batch_loader import eval_loader
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.errors import UserError
from mvqkd.evaluation.delays import delays_table, emission_delays
from mvqkd.evaluation.gather import Experiment, read_experiment
from mvqkd.evaluation.token_times import TimedTokens, read_times, write_times
from mvqkd.losses.best_path import best_path, lattice_log_probs
from mvqkd.losses.cell_divergence import JoinerInput
from mvqkd.losses.ctc_alignment import ctc_alignment
from mvqkd.losses.pruned_transducer import blank_padding
from mvqkd.models import AsrModel
from mvqkd.recipe.run_folder import check_features_of
from mvqkd.recipe.stages.decode import Weights
from mvqkd.recipe.stages.decode_options import decoding_inputs
from mvqkd.storage.files import read_json, write_json, write_text

KINDS = {"transducer": "the transducer's best path", "ctc": "CTC forced alignment"}
"""Alignments of a reference, and what they are called."""


def measure_delays(
    exp_dirs: Sequence[Path],
    reference: Path,
    data_dir: Path,
    *,
    sets: Sequence[str] = (),
    output: Path | None = None,
    device: str | None = None,
) -> str:
    """Compare the token times of every result of some experiments with a reference's alignments.

    Args:
        exp_dirs: folders of decoded experiments.
        reference: folder of an experiment with full context.
        data_dir: prepared data, with the test sets and the features of the reference; those of the
            experiments may be others.
        sets: test sets; empty: all that were decoded.
        output: file for the table.
        device: `cpu` or `cuda`; None: `cuda` where there is a GPU.

    Returns:
        Markdown: a table for each kind of alignment.

    Raises:
        UserError: nothing was decoded, results without token times, or a reference that attends to
            chunks, aligns nothing or receives other features.
    """
    experiments = [read_experiment(folder) for folder in exp_dirs]
    found = [
        (experiment, result)
        for experiment in experiments
        for result in experiment.results
        if not sets or result["set"] in sets
    ]
    if not found:
        raise UserError(
            f"there are no results of {', '.join(sets) or 'any test set'} in "
            f"{', '.join(map(str, exp_dirs))}",
            step="decoding",
        )
    names = sorted({result["set"] for _, result in found})
    alignments = align_sets(reference, data_dir, names, device=device)
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for experiment, result in found:
        path = result["path"]
        times = read_times(path.with_name(f"times{path.stem.removeprefix('result')}.jsonl"))
        measured = {}
        for kind, by_set in alignments.items():
            delays = emission_delays(by_set[result["set"]], times).as_dict()
            measured[kind] = delays
            rows[kind].append(_row(experiment, result, delays))
        facts = {"reference": str(reference), "wer": result["wer"], "delays": measured}
        write_json(path.with_name(f"delays{path.stem.removeprefix('result')}.json"), facts)
    page = "".join(
        f"Delays against {KINDS[kind]} of `{reference.name}`\n\n{delays_table(rows[kind])}\n"
        for kind in alignments
    )
    if output is not None:
        write_text(output, page)
    return page


def align_sets(
    reference: Path, data_dir: Path, sets: Iterable[str], *, device: str | None = None
) -> dict[str, dict[str, dict[str, TimedTokens]]]:
    """Alignments of test sets by kind, set and utterance; the kinds are those of `KINDS` that the
    reference has a head for.

    What is there of the same weights and manifests is kept.

    Args:
        reference: folder of an experiment with full context.
        data_dir: prepared data, with the features of the reference.
        sets: test sets.
        device: see `measure_delays`.

    Raises:
        UserError: no such experiment or sets, or the experiment attends to chunks, has neither
            head or receives other features.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    config, cuts, lang_dir = decoding_inputs(reference, data_dir, [], patterns=list(sets))
    weights = Weights(reference, config)
    chunks = weights.description["model"]["chunk_size"]
    if chunks and -1 not in chunks:
        raise UserError(
            f"{reference} attends to chunks of {chunks} frames, and emits late itself",
            remedy="take a reference with full context",
        )
    heads = weights.description["heads"]
    kinds = [kind for kind in KINDS if kind in heads]
    if not kinds:
        raise UserError(
            f"{reference} has no head that aligns transcripts, but {', '.join(heads)}",
            remedy="take a reference with a transducer or a CTC head",
        )
    found: dict[str, dict[str, dict[str, TimedTokens]]] = {kind: {} for kind in kinds}
    for name, path in cuts.items():
        stem = reference / "alignments" / f"{name}-{weights.suffix}"
        files = {kind: stem.with_name(f"{stem.name}-{kind}.jsonl") for kind in kinds}
        inputs = {
            item.name: [item.stat().st_size, item.stat().st_mtime_ns]
            for item in sorted([*weights.files, path, lang_dir / "bpe.model"])
        }
        about = stem.with_name(f"{stem.name}.json")
        if not (about.is_file() and read_json(about, remedy="delete it") == {"inputs": inputs}):
            about.unlink(missing_ok=True)
            check_features_of(str(reference), weights.description, [path])
            aligned = _align(weights.model(place), path, lang_dir, config.max_duration, place)
            stem.parent.mkdir(exist_ok=True)
            for kind in kinds:
                write_times(files[kind], aligned[kind])
            write_json(about, {"inputs": inputs})  # last: the others are complete
        for kind in kinds:
            found[kind][name] = read_times(files[kind])
    return found


@torch.inference_mode()
def _align(
    model: AsrModel, cuts: Path, lang_dir: Path, max_duration: float, device: torch.device
) -> dict[str, dict[str, TimedTokens]]:
    tokenizer = Tokenizer.load(lang_dir)
    # A full lattice is larger than what decoding needs.
    loader = eval_loader(cuts, lang_dir, max_duration=min(max_duration, 200.0))
    found: dict[str, dict[str, TimedTokens]] = {kind: {} for kind in KINDS}
    count = 0
    for batch in loader:
        batch = batch.to(device)
        assert batch.hypotheses is not None
        count += len(batch)
        token_lens = batch.hypotheses.lens
        tokens = blank_padding(batch.hypotheses.tokens, token_lens)
        encoder_out, lens = model.encoder(batch.features, batch.feature_lens)
        frames: Mapping[str, Tensor] = align_batch(model, encoder_out, lens, tokens, token_lens)
        for kind, rows in frames.items():
            for name, row, ids, count in zip(
                batch.ids, rows.tolist(), tokens.tolist(), token_lens.tolist(), strict=True
            ):
                units = [tokenizer.tokens[token] for token in ids[:count]]
                if -1 not in row[:count]:  # there is a path
                    found[kind][name] = TimedTokens(units, row[:count])
    logging.info("%s: aligned %d utterances", cuts, count)
    return found


def align_batch(
    model: AsrModel, encoder_out: Tensor, lens: Tensor, tokens: Tensor, token_lens: Tensor
) -> dict[str, Tensor]:
    """(N, U) frames of the tokens by kind of alignment.

    Args:
        model: with a transducer, a CTC head, or both.
        encoder_out: (N, T, D).
        lens: (N,) valid frames.
        tokens: (N, U) int64, 0 in padding.
        token_lens: (N,) valid tokens.
    """
    found = {}
    if (head := model.transducer) is not None:
        predicted = head.predictor(F.pad(tokens, (1, 0), value=head.blank))
        symbol, blank = lattice_log_probs(JoinerInput(encoder_out, predicted, head.joiner), tokens)
        frames = best_path(symbol, blank, lens, token_lens)
        found["transducer"] = frames.masked_fill(lens[:, None] == 0, -1)
    if model.ctc is not None:
        log_probs = model.ctc(encoder_out).float().log_softmax(-1)
        found["ctc"] = ctc_alignment(log_probs, tokens, lens, token_lens)
    return found


def _row(experiment: Experiment, result: dict[str, Any], delays: dict[str, Any]) -> dict[str, Any]:
    settings = result["settings"]
    chunk = settings.get("chunk_size")
    ways = [result["method"], f"{40 * chunk} ms" if chunk else "full context"]
    return {
        "experiment": experiment.name,
        "set": result["set"],
        "decoding": ", ".join(ways),
        "wer": result["wer"],
        "delays": delays,
    }
