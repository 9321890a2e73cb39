"""Emission delays of experiments against the alignments of a reference, one with full context.

The reference aligns the transcripts of the test sets twice: by the most probable path of its
transducer, and by that of its CTC head. Its alignments are kept in `<reference>/alignments/`,
delays in `<exp>/<method>/delays-<set>-<suffix>.json`; what is there of the same files is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.checkpoints.files import epochs
from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.batch_loader import eval_loader
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.errors import UserError
from mvqkd.evaluation.delays import KINDS, delay_row, delays_table, emission_delays
from mvqkd.evaluation.gather import Experiment, chunk_of, file_of, read_experiment
from mvqkd.evaluation.token_times import TimedTokens, read_times, write_times
from mvqkd.losses.best_path import best_path, lattice_log_probs
from mvqkd.losses.cell_divergence import JoinerInput
from mvqkd.losses.ctc_alignment import ctc_alignment
from mvqkd.losses.pruned_transducer import blank_padding
from mvqkd.models import AsrModel
from mvqkd.recipe.run_folder import check_features_of
from mvqkd.recipe.stages.decode import Weights
from mvqkd.recipe.stages.decode_options import decoding_inputs
from mvqkd.storage.files import file_digest, make_folder, read_json, write_json, write_text


@dataclass(frozen=True)
class Alignment:
    """Of a test set by a reference."""

    utterances: dict[str, dict[str, TimedTokens]]
    """By kind (see `KINDS`) and id; a reference without a CTC head has one kind."""
    digests: dict[str, str]
    """SHA-256 of the file of each kind."""


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
        (experiment.name, result)
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
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, result in found:
        measured = measure_result(result, alignments[result["set"]], reference)
        for kind, delays in measured.items():
            rows.setdefault(kind, []).append(delay_row(name, result, delays))
    page = "".join(
        f"Delays against {KINDS[kind]} of `{reference.name}`\n\n{delays_table(rows[kind])}\n"
        for kind in KINDS
        if kind in rows
    )
    if output is not None:
        write_text(output, page)
    return page


def add_delays(
    experiments: Iterable[Experiment],
    reference: Path,
    data_dir: Path,
    *,
    device: str | None = None,
) -> str | None:
    """Give each result of streaming its `delays` (`UtteranceDelays.as_dict`).

    Args:
        experiments: whose results may be of streaming.
        reference: folder of an experiment with full context.
        data_dir: prepared data; only its dev and test splits are measured. While it or weights of
            the reference are not there, nothing is.
        device: see `measure_delays`.

    Returns:
        the kind of alignment, CTC's where the reference has it; None: nothing was measured.

    Raises:
        UserError: damaged files, or a reference that attends to chunks.
    """
    found = [r for e in experiments for r in e.results if chunk_of(r)]
    if not found:
        return None
    if not epochs(reference) or not data_dir.is_dir():
        what = f"{data_dir} is not there" if epochs(reference) else f"{reference} is not trained"
        logging.warning("%s: emission delays are not measured", what)
        return None
    splits = DataFolder(data_dir).splits()
    known = {*splits["dev"], *splits["test"]}  # to align the training data would take long
    found = [result for result in found if result["set"] in known]
    measurable = [r for r in found if file_of(r, "times", ".jsonl").is_file()]
    if old := [str(result["path"]) for result in found if result not in measurable]:
        logging.warning(
            "%d results have no delays, because earlier versions wrote no times-*.jsonl; "
            "local/decode.py --force decodes again: %s",
            len(old),
            ", ".join(old[:3]) + (", ..." if len(old) > 3 else ""),
        )
    if not measurable:
        return None
    sets = sorted({result["set"] for result in measurable})
    alignments = align_sets(reference, data_dir, sets, device=device)
    chosen = next(kind for kind in KINDS if kind in alignments[sets[0]].utterances)
    for result in measurable:
        alignment = alignments[result["set"]]
        result["delays"] = measure_result(result, alignment, reference)[chosen]
    return chosen


def measure_result(
    result: Mapping[str, Any], alignment: Alignment, reference: Path
) -> dict[str, dict[str, Any]]:
    """Delays of a result by kind of alignment, in `delays-*.json` too; kept if they are there.

    Args:
        result: of a decoding, with its `path`.
        alignment: of its test set.
        reference: that aligned it.

    Raises:
        UserError: the token times are missing or damaged.
    """
    path: Path = result["path"]
    times = file_of(dict(result), "times", ".jsonl")
    hypotheses = read_times(times)
    output = path.with_name(f"delays{path.stem.removeprefix('result')}.json")
    inputs = {"alignments": alignment.digests, "times": file_digest(times)}
    saved = read_json(output, remedy="delete it") if output.is_file() else {}
    if saved.get("inputs") == inputs:
        return dict(saved["delays"])
    chunk_size = chunk_of(dict(result))
    delays = {
        kind: emission_delays(said, hypotheses, chunk_size=chunk_size).as_dict()
        for kind, said in alignment.utterances.items()
    }
    facts = {"reference": str(reference), "inputs": inputs, "wer": result["wer"]}
    write_json(output, facts | {"delays": delays})
    return delays


def align_sets(
    reference: Path, data_dir: Path, sets: Iterable[str], *, device: str | None = None
) -> dict[str, Alignment]:
    """Alignments of test sets.

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
    kinds = [kind for kind in KINDS if kind in weights.description["heads"]]
    if not kinds:
        raise UserError(
            f"{reference} has neither a transducer nor a CTC head, and cannot align",
            remedy="take a reference with one of them",
        )
    found = {}
    for name, path in cuts.items():
        stem = reference / "alignments" / f"{name}-{weights.suffix}"
        files = {kind: stem.with_name(f"{stem.name}-{kind}.jsonl") for kind in kinds}
        inputs = {
            item.name: [item.stat().st_size, item.stat().st_mtime_ns]
            for item in sorted([*weights.files, path, lang_dir / "bpe.model"])
        }
        about = stem.with_name(f"{stem.name}.json")
        saved = read_json(about, remedy="delete it") if about.is_file() else {}
        digests = {kind: file_digest(file) for kind, file in files.items() if file.is_file()}
        if saved != {"inputs": inputs, "digests": digests}:
            about.unlink(missing_ok=True)
            check_features_of(str(reference), weights.description, [path])
            aligned = _align(weights.model(place), path, lang_dir, config.max_duration, place)
            make_folder(stem.parent)
            for kind in kinds:
                write_times(files[kind], aligned[kind])
            digests = {kind: file_digest(file) for kind, file in files.items()}
            write_json(about, {"inputs": inputs, "digests": digests})  # last: the others are whole
        found[name] = Alignment({kind: read_times(files[kind]) for kind in kinds}, digests)
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
            columns = (rows.tolist(), tokens.tolist(), token_lens.tolist(), lens.tolist())
            for name, row, ids, count, num_frames in zip(batch.ids, *columns, strict=True):
                units = [tokenizer.tokens[token] for token in ids[:count]]
                if -1 not in row[:count]:  # there is a path
                    found[kind][name] = TimedTokens(units, row[:count], num_frames)
    logging.info("%s: aligned %d utterances", cuts, max(map(len, found.values())))
    return found


def align_batch(
    model: AsrModel, encoder_out: Tensor, lens: Tensor, tokens: Tensor, token_lens: Tensor
) -> dict[str, Tensor]:
    """(N, U) frames of the tokens by kind of alignment.

    Args:
        model: with a transducer or a CTC head.
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
