"""Stage 12: the student of an experiment as ONNX files for sherpa-onnx, in a model folder.

`<exp>/export/` is laid out as icefall's repositories on the Hugging Face Hub: `exp/` holds weights
and ONNX files, `data/lang_bpe_*/` tokens, then `test_wavs/`, `decoding_results/` and the model card
`README.md`. `export.json` is written last: with it, all is complete.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mvqkd.checkpoints.averaging import average_epochs
from mvqkd.checkpoints.files import PRETRAINED, save_checkpoint
from mvqkd.checkpoints.model_folder import SAFETENSORS, write_safetensors
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.errors import UserError
from mvqkd.evaluation.gather import read_experiment
from mvqkd.evaluation.wer import ErrorCounts
from mvqkd.export.files import Int8Policy, Written, write_files
from mvqkd.export.interface import EXPORT
from mvqkd.export.measuring import count_errors
from mvqkd.export.model_card import Folder, decoding_files, model_card, results_of
from mvqkd.export.targets import Head, Target
from mvqkd.export.test_wavs import first_utterances, write_test_wavs
from mvqkd.export.tokens import write_lang
from mvqkd.export.upload import upload
from mvqkd.export.writing import require_onnx
from mvqkd.features.extraction import extract
from mvqkd.features.kinds import kind_of_bins
from mvqkd.geometry import NUM_BINS
from mvqkd.models import AsrModel, StreamingConfig
from mvqkd.recipe.build_decoding import choose_chunks
from mvqkd.recipe.run_folder import check_features_of, check_tokens_of
from mvqkd.recipe.stages.decode import Weights
from mvqkd.recipe.stages.export_options import ExportInputs
from mvqkd.storage.files import atomic_path, file_digest, read_json, write_json, write_text

_VERIFIED = 3  # utterances that go through onnxruntime and torch


def export_experiment(
    exp_dir: Path, inputs: ExportInputs, *, num_workers: int = 0, force: bool = False
) -> Path:
    """Write the model folder of an experiment; what is there with the same settings is kept.

    Args:
        exp_dir: the experiment.
        inputs: settings, splits and tokens.
        num_workers: processes that read features.
        force: export again whatever is there.

    Returns:
        The model folder.

    Raises:
        UserError: onnx is not installed, settings that the student does not allow, weights or
            tokens that are missing, or a file fails its verification.
    """
    require_onnx()
    weights = Weights(exp_dir, inputs.decoding)
    check_tokens_of(exp_dir, inputs.lang_dir)
    cuts = [inputs.int8_cuts, inputs.test_cuts]
    check_features_of(str(exp_dir), weights.description, cuts)
    targets = choose_targets(inputs, weights.description, weights.epoch, weights.avg)
    folder = exp_dir / "export"
    settings = _settings(inputs, weights)
    saved = _saved(folder)
    if saved.get("settings") == settings and not force and _is_whole(folder, saved):
        written = [_from_json(item, folder, targets) for item in saved["files"]]
        logging.info("kept %s; local/export.py --force exports again", folder)
    else:
        (folder / EXPORT).unlink(missing_ok=True)
        written = _export(exp_dir, folder, inputs, weights, targets, num_workers)
    waves = sorted(f"test_wavs/{path.name}" for path in (folder / "test_wavs").glob("*.wav"))
    lang = next(path.parent for path in folder.glob("data/*/tokens.txt"))
    contents = Folder(f"data/{lang.name}/tokens.txt", waves, inputs.int8_split)
    _write_card(exp_dir, folder, written, contents, inputs.export.license, weights)
    write_json(
        folder / EXPORT,
        {
            "settings": settings,
            "files": [_to_json(item, folder) for item in written],
            "digests": {
                str(path.relative_to(folder)): file_digest(path)
                for part in ("exp/*", "data/*/*", "test_wavs/*")
                for path in sorted(folder.glob(part))
            },
        },
    )
    wave = str(folder / waves[0]) if waves else "speech.wav"
    for item in written:
        if item.precision == "float32":
            files = {name: str(path) for name, path in item.files.items()}
            command = item.target.command(files, str(folder / contents.tokens), wave)
            logging.info("%s, for %s:\n%s", item.target.name, item.target.recognizer, command)
    logging.info("with this package:\npython -m mvqkd transcribe %s %s", folder, wave)
    if inputs.export.upload:
        logging.info("%s is now at %s", folder, upload(folder, inputs.export.upload))
    return folder


def choose_targets(
    inputs: ExportInputs, description: Mapping[str, Any], epoch: int, avg: int
) -> list[Target]:
    """The recognizers that files are made for; none if sherpa-onnx has none for such a student and
    no head is named.

    Raises:
        UserError: the student does not allow one of them.
    """
    heads: list[Head] = list(inputs.export.heads)
    exportable: tuple[Head, ...] = ("transducer", "ctc")
    has = [head for head in exportable if head in description["heads"]]
    if description["model"].get("encoder", "conformer") != "conformer":
        has = []
    bins = description["model"].get("input_dim", NUM_BINS)
    if bins != NUM_BINS:
        if heads:
            raise UserError(
                f"export.heads names {', '.join(heads)}, but the student receives features of "
                f"{bins} bins: sherpa-onnx computes {NUM_BINS} mel bins on devices",
                remedy="--export.heads '[]' for a model folder without ONNX files, or a student "
                "that was trained on --features fbank",
            )
        has = []
    if not heads and not has:
        logging.warning(
            "sherpa-onnx has no recognizer for a student with %s encoder, features of %d bins and "
            "the heads %s: the model folder has no ONNX files",
            description["model"].get("encoder", "conformer"),
            bins,
            ", ".join(description["heads"]),
        )
        return []
    chunks = choose_chunks(inputs.decoding, description["model"])[0]
    config = StreamingConfig(chunks.size, chunks.left_context)
    heads = heads or has[:1]
    if missing := set(heads) - set(has):
        raise UserError(
            f"export.heads names {', '.join(sorted(missing))}, of which this student gives no ONNX "
            f"files: it has {', '.join(description['heads'])}",
            remedy="export another head, or train one (loss.ctc_scale)",
        )
    kinds = inputs.export.recognizers or ["offline" if chunks.size is None else "streaming"]
    if "streaming" in kinds:
        if chunks.size is None:
            raise UserError(
                "the student has full context: a streaming recognizer cannot use it",
                remedy="--export.recognizers offline, or train a streaming student: --model.causal "
                "true --model.chunk_size '[16]'",
            )
        if chunks.left_context is None:
            raise UserError(
                "a stream cannot keep an unlimited left context",
                remedy="--decoding.left_context 64, in decoding, too",
            )
    return [
        Target(head, kind == "streaming", config, epoch, avg) for kind in kinds for head in heads
    ]


def _export(
    exp_dir: Path,
    folder: Path,
    inputs: ExportInputs,
    weights: Weights,
    targets: list[Target],
    num_workers: int,
) -> list[Written]:
    """Everything but the card."""
    model = weights.model(torch.device("cpu"))
    tokenizer = Tokenizer.load(inputs.lang_dir)
    if tokenizer.vocab_size != model.vocab_size:
        raise UserError(
            f"{exp_dir} was trained with {model.vocab_size} tokens, {inputs.lang_dir} has "
            f"{tokenizer.vocab_size}",
            remedy="give --vocab-size and --data-dir of the training",
        )
    for name in ("exp", "data", "test_wavs", "decoding_results"):
        shutil.rmtree(folder / name, ignore_errors=True)
    write_lang(inputs.lang_dir, folder / "data" / inputs.lang_dir.name)
    wanted = max(inputs.export.test_wavs, _VERIFIED)
    utterances = first_utterances(inputs.test_cuts, wanted)
    write_test_wavs(utterances[: inputs.export.test_wavs], folder / "test_wavs")
    _write_weights(folder / "exp", model, weights)
    with atomic_path(folder / "exp" / "config.yaml") as partial:
        shutil.copyfile(exp_dir / "config.yaml", partial)
    kind = kind_of_bins(model.encoder.input_dim)
    features = [torch.from_numpy(extract(u.samples, kind)) for u in utterances[:_VERIFIED]]
    export = inputs.export
    written: list[Written] = []
    for target in targets:

        def measure(files: Mapping[str, Path], name: str, head: Head = target.head) -> ErrorCounts:
            return count_errors(
                head,
                files,
                inputs.int8_cuts,
                tokenizer,
                name=f"{inputs.int8_split}, {name}",
                max_duration=inputs.decoding.max_duration,
                num_workers=num_workers,
            )

        written += write_files(
            model,
            target,
            folder / "exp",
            precisions=export.precisions,
            features=features,
            measure=measure if "int8" in export.precisions else None,
            int8=Int8Policy(export.int8_more_errors, tuple(export.int8_exclude)),
        )
    return written


def _write_weights(folder: Path, model: AsrModel, weights: Weights) -> None:
    """`pretrained.pt` and `model.safetensors` of the exported average."""
    state = model.state_dict()
    averaging: dict[str, Any] = {
        "epoch": weights.epoch,
        "avg": weights.avg,
        "use_averaged_model": weights.use_averaged_model,
    }
    save_checkpoint(
        folder / PRETRAINED,
        {
            "model": state,
            "head_losses": average_epochs(weights.exp_dir, part="head_losses", **averaging),
            "description": weights.description,
            **averaging,
        },
    )
    write_safetensors(folder / SAFETENSORS, state, weights.description)


def _write_card(
    exp_dir: Path,
    folder: Path,
    written: list[Written],
    contents: Folder,
    licence: str,
    weights: Weights,
) -> None:
    """`README.md`, and copies of the results that it tells of."""
    experiment = read_experiment(exp_dir)
    results = results_of(experiment, epoch=weights.epoch, avg=weights.avg)
    for result in results:
        for source in decoding_files(result):
            place = folder / "decoding_results" / source.parent.name / source.name
            with atomic_path(place) as partial:
                shutil.copyfile(source, partial)
    data = exp_dir / "data.json"
    card = model_card(
        experiment,
        written,
        contents,
        results=results,
        licence=licence,
        data=read_json(data) if data.is_file() else {},
    )
    write_text(folder / "README.md", card)


def _settings(inputs: ExportInputs, weights: Weights) -> dict[str, Any]:
    """All that the files depend on."""
    read = [*weights.files, inputs.int8_cuts, inputs.test_cuts, inputs.lang_dir / "bpe.model"]
    export = asdict(inputs.export)
    del export["upload"], export["license"]
    decoding = asdict(inputs.decoding)
    chosen = ("avg", "use_averaged_model", "streaming", "chunk_size", "left_context")
    return {
        "export": export,
        "epoch": weights.epoch,
        "decoding": {name: decoding[name] for name in chosen},
        "inputs": {path.name: file_digest(path) for path in sorted(read)},
    }


def _saved(folder: Path) -> dict[str, Any]:
    path = folder / EXPORT
    if not path.is_file():
        return {}
    return read_json(
        path, needs=("settings", "files", "digests"), remedy="delete it", step="export"
    )


def _is_whole(folder: Path, saved: Mapping[str, Any]) -> bool:
    """Whether weights, ONNX files, tokens and audio are those that were written."""
    return all(
        (folder / name).is_file() and file_digest(folder / name) == digest
        for name, digest in saved["digests"].items()
    )


def _to_json(item: Written, folder: Path) -> dict[str, Any]:
    return {
        "head": item.target.head,
        "streaming": item.target.streaming,
        "recognizer": item.target.recognizer,
        "precision": item.precision,
        "files": {name: str(path.relative_to(folder)) for name, path in item.files.items()},
        "counts": None if item.counts is None else item.counts._asdict(),
        "kept_in_float32": list(item.kept),
    }


def _from_json(saved: Mapping[str, Any], folder: Path, targets: list[Target]) -> Written:
    (target,) = (t for t in targets if (t.head, t.streaming) == (saved["head"], saved["streaming"]))
    counts = saved["counts"]
    return Written(
        target,
        saved["precision"],
        {name: folder / file for name, file in saved["files"].items()},
        None if counts is None else ErrorCounts(**counts),
        tuple(saved["kept_in_float32"]),
    )
