"""Decoding of an experiment's test sets into its result files.

For each method and test set, in `<exp>/<method>/`: `recogs-<set>-<suffix>.txt`, `errs-...`,
`wer-summary-...`, `times-...jsonl` (the frame of each token), `nbest-...jsonl` if wanted, and last
`result-<set>-<suffix>.json`, which holds settings, counts, intervals and speed, and means that all
are complete.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from mvqkd.checkpoints.files import epoch_path, epochs, last_epoch
from mvqkd.checkpoints.load import load_model, read_description
from mvqkd.data.loading.batch_loader import eval_loader
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.decoding.split import Recognized, Timing, recognize
from mvqkd.errors import UserError
from mvqkd.evaluation.bootstrap import ConfidenceInterval, speakers, wer_interval
from mvqkd.evaluation.result_files import write_errors, write_recogs, write_summary
from mvqkd.evaluation.token_times import TimedTokens, write_times
from mvqkd.evaluation.wer import ErrorCounts, Score, Transcript, log_line, score, spelled
from mvqkd.models import AsrModel
from mvqkd.recipe.build_decoding import Chunks, build_decoder, choose_chunks, search_of
from mvqkd.recipe.config.schema import DecodingConfig
from mvqkd.recipe.program import this_command
from mvqkd.recipe.run_folder import check_features_of, check_tokens_of, code_version
from mvqkd.recipe.stages.same_set import check_same_set
from mvqkd.storage.files import file_digest, read_json, write_json, write_text


class Weights:
    """The student of an experiment at an epoch, loaded when it is first needed.

    Args:
        exp_dir: the experiment.
        config: section `decoding`.

    Raises:
        UserError: the epochs are missing.
    """

    def __init__(self, exp_dir: Path, config: DecodingConfig) -> None:
        available = epochs(exp_dir)
        self.exp_dir = exp_dir
        self.epoch = config.epoch
        if config.epoch == -1 or not available:
            self.epoch = last_epoch(exp_dir)
        self.avg = config.avg
        self.use_averaged_model = config.use_averaged_model
        first = self.epoch - self.avg + (0 if self.use_averaged_model else 1)
        self.files = [epoch_path(exp_dir, n) for n in available if first <= n <= self.epoch]
        # load_model reports missing epochs.
        self.description = read_description(epoch_path(exp_dir, self.epoch))
        self._model: AsrModel | None = None

    @property
    def suffix(self) -> str:
        """For names of files."""
        averaged = "-use-averaged-model" if self.use_averaged_model else ""
        return f"epoch-{self.epoch}-avg-{self.avg}{averaged}"

    def model(self, device: torch.device) -> AsrModel:
        """The student in evaluation mode."""
        if self._model is None:
            self._model = load_model(
                self.exp_dir,
                self.epoch,
                self.avg,
                use_averaged_model=self.use_averaged_model,
                device=device,
            )
        return self._model


def decode_experiment(
    exp_dir: Path,
    config: DecodingConfig,
    sets: dict[str, Path],
    lang_dir: Path,
    *,
    device: str | None = None,
    num_workers: int = 1,
    force: bool = False,
    left_out: Mapping[str, Mapping[str, int]] | None = None,
) -> None:
    """Decode each set with each chunk size and method; what is there with equal settings is kept.

    Args:
        exp_dir: the experiment.
        config: section `decoding`.
        sets: name and manifest of cuts of each test set.
        lang_dir: folder of the tokenizer.
        device: `cpu` or `cuda`; None: `cuda` where there is a GPU.
        num_workers: processes that read features.
        force: decode again whatever is there.
        left_out: for each set, how many utterances of the corpus are not in it, by reason.

    Raises:
        UserError: weights, manifests or settings that do not go together, or results of other
            utterances are there under the same name.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    weights = Weights(exp_dir, config)
    choices = choose_chunks(config, weights.description["model"])
    check_tokens_of(exp_dir, lang_dir)
    check_features_of(str(exp_dir), weights.description, list(sets.values()))
    for chunks, method in itertools.product(choices, config.methods):
        suffix = weights.suffix + chunks.suffix + _search_suffix(config, method)
        for name, cuts in sets.items():
            title = f"{name}-{method}" + (chunks.suffix if len(choices) > 1 else "")
            settings = _settings(config, method, chunks, weights, cuts, lang_dir)
            missing = dict((left_out or {}).get(name, {}))
            path = exp_dir / method / f"result-{name}-{suffix}.json"
            saved = {}
            if path.is_file():
                needs = ("settings", "counts")
                saved = read_json(path, needs=needs, remedy="delete it", step="decoding")
            if saved.get("settings") == settings and not force and _is_whole(path, saved):
                logging.info("%s", log_line(title, ErrorCounts(**saved["counts"])))
                logging.info("kept %s; local/decode.py --force decodes again", path)
                if left_out is not None and saved.get("left_out") != missing:
                    write_json(path, saved | {"left_out": missing})
                continue
            tokenizer = Tokenizer.load(lang_dir)
            if not force:
                check_same_set(exp_dir, name, cuts, tokenizer.normalize)
            path.unlink(missing_ok=True)
            model = weights.model(place)
            if tokenizer.vocab_size != model.vocab_size:
                raise UserError(
                    f"{exp_dir} was trained with {model.vocab_size} tokens, {lang_dir} has "
                    f"{tokenizer.vocab_size}",
                    remedy="give --vocab-size and --data-dir of the training",
                )
            search = search_of(config, method, model)
            decode = build_decoder(config, chunks, search, model.encoder)
            loader = eval_loader(cuts, max_duration=config.max_duration, num_workers=num_workers)
            found, timing = recognize(loader, decode, place, name=title)
            scored = _write_files(path, found, tokenizer, name, method, config.nbest)
            if not scored.total.words:
                raise UserError(
                    f"{cuts} has no reference words, so there is no error rate; what was "
                    f"recognized is in {path.parent}",
                    remedy="give splits with transcripts; if this one should have some, prepare it "
                    "again",
                    step="manifests",
                )
            characters = score(spelled(scored.transcripts)).total
            write_json(
                path,
                {
                    "set": name,
                    "method": method,
                    "suffix": suffix,
                    "settings": settings,
                    "left_out": missing,
                    "references_changed": sum(
                        tokenizer.normalize(utterance.text).split() != utterance.text.split()
                        for utterance in found
                    ),
                    "recogs_sha256": file_digest(_beside(path, "recogs")),
                    "times_sha256": file_digest(_beside(path, "times", ".jsonl")),
                    **_measures(scored, characters, timing),
                    **_unfinished(found, title),
                    **_circumstances(model, place),
                },
            )
            logging.info(
                "%s, %%CER %.2f, RTF %.4f",
                log_line(title, scored.total),
                characters.wer,
                timing.real_time_factor,
            )


def _is_whole(path: Path, saved: dict[str, Any]) -> bool:
    """Whether the files that a result is of are there; of earlier versions, it is assumed."""
    files = {"recogs_sha256": _beside(path, "recogs")}
    files["times_sha256"] = _beside(path, "times", ".jsonl")
    return all(
        file.is_file() and file_digest(file) == saved[name]
        for name, file in files.items()
        if name in saved
    )


def _search_suffix(config: DecodingConfig, method: str) -> str:
    parts = []
    if method.endswith("beam_search"):
        parts.append(f"-beam-size-{config.beam_size}")
    if method == "greedy_search" and config.max_symbols_per_frame != 1:
        parts.append(f"-max-sym-per-frame-{config.max_symbols_per_frame}")
    if config.blank_penalty:
        parts.append(f"-blank-penalty-{config.blank_penalty:g}")
    if method == "attention_beam_search":
        if config.length_exponent != 1:
            parts.append(f"-length-exponent-{config.length_exponent:g}")
        if config.ctc_weight:
            parts.append(f"-ctc-weight-{config.ctc_weight:g}")
    if method.startswith("attention_") and config.max_tokens_per_frame != 1:
        parts.append(f"-max-tokens-per-frame-{config.max_tokens_per_frame:g}")
    if config.tail_padding:
        parts.append(f"-tail-{config.tail_padding}")
    return "".join(parts)


def _settings(
    config: DecodingConfig,
    method: str,
    chunks: Chunks,
    weights: Weights,
    cuts: Path,
    lang_dir: Path,
) -> dict[str, Any]:
    """All that the results depend on."""
    inputs = [*weights.files, cuts, lang_dir / "bpe.model"]
    missing = [str(path) for path in inputs if not path.is_file()]
    if missing:
        raise UserError(f"{', '.join(missing)} is missing", step="training")
    return {
        "epoch": weights.epoch,
        "avg": weights.avg,
        "use_averaged_model": weights.use_averaged_model,
        "method": method,
        "beam_size": config.beam_size if method.endswith("beam_search") else None,
        "max_symbols_per_frame": (
            config.max_symbols_per_frame if method == "greedy_search" else None
        ),
        "blank_penalty": config.blank_penalty,
        **_attention_settings(config, method),
        "nbest": config.nbest,
        "chunk_size": chunks.size,
        "left_context": chunks.left_context,
        "chunked": chunks.with_states,
        "tail_padding": config.tail_padding,
        "inputs": {
            path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(inputs)
        },
    }


def _attention_settings(config: DecodingConfig, method: str) -> dict[str, Any]:
    """Absent from the settings of other methods, whose results from before they were there stay."""
    if not method.startswith("attention_"):
        return {}
    settings: dict[str, Any] = {"max_tokens_per_frame": config.max_tokens_per_frame}
    if method == "attention_beam_search":
        settings |= {"length_exponent": config.length_exponent, "ctc_weight": config.ctc_weight}
    return settings


def _beside(result: Path, kind: str, ending: str = ".txt") -> Path:
    """A file of another kind that goes with `result-*.json`."""
    return result.with_name(f"{kind}{result.stem.removeprefix('result')}{ending}")


def _write_files(
    result: Path,
    found: Sequence[Recognized],
    tokenizer: Tokenizer,
    name: str,
    method: str,
    nbest: int,
) -> Score:
    """Write everything but `result-*.json`, under names that go with it."""
    found = sorted(found, key=lambda utterance: utterance.id)
    scored = score(
        Transcript(
            utterance.id,
            tokenizer.normalize(utterance.text).split(),
            tokenizer.decode(utterance.hypotheses[0].tokens).split(),
        )
        for utterance in found
    )
    write_recogs(_beside(result, "recogs"), scored.transcripts)
    write_errors(_beside(result, "errs"), scored)
    write_summary(_beside(result, "wer-summary"), {f"{name}-{method}": scored.total.wer})
    write_times(
        _beside(result, "times", ".jsonl"),
        {
            utterance.id: TimedTokens(
                [tokenizer.tokens[token] for token in utterance.hypotheses[0].tokens],
                utterance.hypotheses[0].frames,
            )
            for utterance in found
        },
    )
    if nbest:
        lines = [
            json.dumps(
                {
                    "id": utterance.id,
                    "reference": utterance.text,
                    "nbest": [
                        {
                            "tokens": hypothesis.tokens,
                            "text": tokenizer.decode(hypothesis.tokens),
                            "score": hypothesis.score,
                            "frames": hypothesis.frames,
                        }
                        for hypothesis in utterance.hypotheses[:nbest]
                    ],
                },
                ensure_ascii=False,
            )
            for utterance in found
        ]
        write_text(_beside(result, "nbest", ".jsonl"), "".join(f"{line}\n" for line in lines))
    return scored


def _measures(scored: Score, characters: ErrorCounts, timing: Timing) -> dict[str, Any]:
    total = scored.total
    blocks = speakers([transcript.id for transcript in scored.transcripts])
    by_speaker = None if blocks is None else wer_interval(scored.utterances, blocks=blocks)
    return {
        "counts": total._asdict(),
        "utterances": len(scored.utterances),
        "wer": _number(total.wer),
        "interval": _bounds(wer_interval(scored.utterances)),
        "interval_by_speaker": None if by_speaker is None else _bounds(by_speaker),
        "cer": _number(characters.wer),
        "audio_seconds": timing.audio_seconds,
        "decoding_seconds": timing.seconds,
        "rtf": timing.real_time_factor,
    }


def _unfinished(found: Sequence[Recognized], name: str) -> dict[str, int]:
    """How many transcripts have no end, if any."""
    ids = [one.id for one in found if not one.hypotheses[0].finished]
    if not ids:
        return {}
    logging.warning(
        "[%s] %d of %d utterances reached decoding.max_tokens_per_frame before an end of the "
        "transcript: %s",
        name,
        len(ids),
        len(found),
        ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else ""),
    )
    return {"unfinished": len(ids)}


def _circumstances(model: AsrModel, device: torch.device) -> dict[str, Any]:
    commit, dirty = code_version()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "command": this_command(),
        "commit": commit,
        "dirty": dirty,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _bounds(interval: ConfidenceInterval) -> list[float | None]:
    return [_number(bound) for bound in interval]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no nan
