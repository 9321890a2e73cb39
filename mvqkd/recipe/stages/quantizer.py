"""Stage 6: the multi-codebook quantizer, trained on embeddings or brought from elsewhere, and its
report."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mvqkd.data.loading.feature_reader import FeatureReader
from mvqkd.data.loading.labelled import SPEED
from mvqkd.data.targets.embeddings import EmbeddingFrames, EmbeddingStore
from mvqkd.data.targets.store import stated
from mvqkd.errors import UserError
from mvqkd.quantization import Quantizer, load_quantizer, measure
from mvqkd.quantization.predictability.code_predictor import CodePredictor
from mvqkd.quantization.predictability.measure import predictability
from mvqkd.quantization.predictability.rate_distortion import encode_with_rate
from mvqkd.quantization.weights import Weighting
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.quantizer_report import describe
from mvqkd.recipe.teacher_files import uses
from mvqkd.storage.files import file_digest, read_json, write_json, write_text

_ENOUGH_FRAMES = 100_000
_PROBED = 1000
"""Utterances, at most, that the predictor is trained on: their features are held in memory."""
_RATE_WEIGHTS = (0.0, 0.001, 0.003, 0.01, 0.03)
"""Of the codes that the report compares."""


@dataclass(frozen=True)
class QuantizerTraining:
    """How a quantizer is trained and measured."""

    num_codebooks: int = 8
    """Bytes of a frame."""
    codebook_size: int = 256
    """Entries of a codebook."""
    num_steps: int | None = None
    """Of training; None: the quantizer's own default."""
    source: Path | None = None
    """A quantizer to take instead of training one: a quantizer.pt, or a state dict of
    multi_quantization."""
    held_out: float = 0.05
    """Fraction of the utterances that the error is measured on."""
    predictor_steps: int = 300
    """Of training the network that predicts codes from features."""
    seed: int = 0
    """Of the training and of the held-out utterances."""
    device: str = "cpu"
    """Where to compute."""
    weighting: Weighting = "none"
    """Of dimensions, see `mvqkd.quantization.weights`."""


def train_for_experiment(inputs: ExperimentInputs, device: str) -> None:
    """The quantizers whose codes are the targets of an experiment's losses.

    Raises:
        UserError: no embeddings, or too few, or a quantizer of others is there.
    """
    for name, loss in inputs.frame_losses.items():
        if uses(loss) != "codes" or loss.targets:
            logging.info("%s: no quantizer is trained", name)
            continue
        files, wanted = inputs.teacher_files(loss), loss.quantizer
        training = QuantizerTraining(
            num_codebooks=wanted.num_codebooks,
            num_steps=wanted.num_steps or None,
            source=Path(wanted.file) if wanted.file else None,
            device=device,
            weighting=wanted.weighting,
        )
        train_quantizer(files.sample, files.quantizer, training, cuts_paths=inputs.cuts("train"))


def train_quantizer(
    embeddings: Path, output: Path, how: QuantizerTraining, *, cuts_paths: Sequence[Path] = ()
) -> None:
    """Write a quantizer and its report (`.json`, `.md`): the error on utterances that it was not
    trained on, how evenly each codebook is used and, with cuts, how well a small network predicts
    its codes from the utterances' features, as a student has to; that network is kept as
    `.code_predictor.pt`.

    A quantizer that is there, trained on the same embeddings with the same options, is kept.

    Args:
        embeddings: folder or file of one layer.
        output: `quantizer.pt`.
        how: options.
        cuts_paths: manifests that have the utterances' features.

    Raises:
        UserError: too few embeddings, options that do not go together, or another quantizer there.
    """
    if how.source is not None and how.num_steps is not None:
        raise UserError(
            "a quantizer that is brought is not trained, but a number of steps is given",
            remedy="leave one of them out",
            parameters=("source", "num_steps"),
        )
    store = EmbeddingStore(embeddings)
    if cuts_paths and (100 / store.info.frame_rate) % 1:
        logging.info("codes at %g Hz cannot be predicted: no code predictor", store.info.frame_rate)
        cuts_paths = ()
    train_ids, held_out_ids = split(list(store), how.held_out, how.seed)
    if not train_ids or not held_out_ids:
        raise UserError(
            f"{embeddings} has {len(store)} utterances: too few to hold out {how.held_out:g} of "
            "them",
            remedy="extract embeddings of more, or hold out another part, between 0 and 1",
            parameters=("held_out",),
        )
    metadata = _metadata(store, how)
    report_path = output.with_suffix(".json")
    predictor_path = CodePredictor.path_beside(output)
    if output.is_file():
        quantizer = Quantizer.load(output, device=how.device)
        if quantizer.metadata != metadata:
            raise UserError(
                f"{output} was trained on other embeddings, or with other options",
                remedy="move it and the codes made with it away, or name another file",
                parameters=("output",),
            )
        logging.info("%s is trained already", output)
    if output.is_file() and report_path.is_file():
        report = read_json(report_path, remedy="delete it", step="quantizer")
    else:
        store.require_finite()  # not after the training
        facts: dict[str, Any] = {"frames": None, "seconds": None}
        if not output.is_file():
            quantizer, facts = _make(EmbeddingFrames(store, train_ids), how, metadata)
        report = _report(quantizer, store, held_out_ids, how, facts)
        # One that is there stays, whatever became of its report: codes and students know its id.
        if not output.is_file():
            quantizer.save(output)
        _write(report, report_path)
    # `probe_steps` is its name in version 0.1.0.
    steps = report.get("predictor_steps", report.get("probe_steps", how.predictor_steps))
    if cuts_paths and steps != how.predictor_steps:
        raise UserError(
            f"{predictor_path} was trained for {steps} steps, not {how.predictor_steps}",
            remedy="move it, the quantizer and the codes made with them away, or name another file",
            parameters=("output",),
        )
    if cuts_paths and not ("predictability" in report and predictor_path.is_file()):
        # Files are in order of splits, speakers and lengths: sample across all of these.
        some = train_ids[:: -(-len(train_ids) // _PROBED)]
        predictor, found = _fit_predictor(
            quantizer, store, some, held_out_ids[:_PROBED], FeatureReader(cuts_paths), how
        )
        predictor.save(predictor_path)
        _write(report | found, report_path)
    held_out = report["held_out"]
    logging.info("%s: id %s, error %.4f", output, quantizer.id, held_out["relative_error"])
    if how.weighting == "none" and held_out.get("dominant_share", 0.0) > 0.5:
        logging.warning(
            "%d of the %d dimensions of the embeddings have %.0f %% of their variance: the codes "
            "say little of the others, whose relative errors have the median %.2f. The weighting "
            "`deviation` makes all count alike (--distillation.SECTION.quantizer.weighting)",
            held_out["dominant_dimensions"],
            quantizer.dim,
            100 * held_out["dominant_share"],
            held_out["median_error"],
        )


def split(ids: list[str], held_out: float, seed: int) -> tuple[list[str], list[str]]:
    """Ids to train on, and to hold out in an order that the seed decides; a speed-perturbed copy
    goes with its original."""

    def key(utterance: str) -> str:
        return hashlib.sha256(f"{seed} {SPEED.sub('', utterance)}".encode()).hexdigest()

    ordered = sorted(ids, key=key)
    count = max(1, round(held_out * len(ids)))
    while count < len(ordered) and key(ordered[count]) == key(ordered[count - 1]):
        count += 1
    held = set(ordered[:count])
    return [name for name in ids if name not in held], ordered[:count]


def _metadata(store: EmbeddingStore, how: QuantizerTraining) -> dict[str, Any]:
    """What the quantizer is of, kept with it."""
    metadata = {
        **stated(asdict(store.info)),
        "utterances": hashlib.sha256(" ".join(sorted(store)).encode()).hexdigest()[:16],
        "num_codebooks": how.num_codebooks,
        "codebook_size": how.codebook_size,
        "num_steps": how.num_steps,
        "held_out": how.held_out,
        "seed": how.seed,
        **({} if how.weighting == "none" else {"weighting": how.weighting}),
    }
    if how.source is not None:
        if not how.source.is_file():
            raise UserError(f"{how.source} is missing", remedy="name the file of a quantizer")
        metadata["imported"] = file_digest(how.source)[:16]
    return metadata


def _write(report: dict[str, Any], path: Path) -> None:
    write_text(path.with_suffix(".md"), describe(report))
    write_json(path, report)


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for (steps done, steps)."""
    with tqdm(desc=name, unit="step") as bar:

        def progress(step: int, total: int) -> None:
            bar.total = total
            bar.update(step - bar.n)

        yield progress


def _make(
    train: EmbeddingFrames, how: QuantizerTraining, metadata: dict[str, Any]
) -> tuple[Quantizer, dict[str, Any]]:
    """A quantizer, trained or imported, and on how many frames in how many seconds."""
    begin = time.monotonic()
    if how.source is None:
        quantizer, frames = _fit(train, how, metadata), train.num_frames
    else:
        quantizer, frames = _import(how.source, how, metadata), 0
    return quantizer, {"frames": frames, "seconds": round(time.monotonic() - begin, 1)}


def _fit(train: EmbeddingFrames, how: QuantizerTraining, metadata: dict[str, Any]) -> Quantizer:
    logging.info("%d frames of %d dimensions", train.num_frames, train.dim)
    if train.num_frames < _ENOUGH_FRAMES:
        logging.warning("a good quantizer needs %d frames or more", _ENOUGH_FRAMES)
    with _progress("training") as progress:
        try:
            return Quantizer.fit(
                train,
                num_codebooks=how.num_codebooks,
                codebook_size=how.codebook_size,
                num_steps=how.num_steps,
                seed=how.seed,
                device=how.device,
                progress=progress,
                metadata=metadata,
                weighting=how.weighting,
            )
        except ValueError as error:  # of options and frames; it names them
            raise UserError(str(error), remedy="see local/train_quantizer.py --help") from error


def _import(source: Path, how: QuantizerTraining, metadata: dict[str, Any]) -> Quantizer:
    """The quantizer in a file, if it is one of such embeddings."""
    quantizer = load_quantizer(source)
    found = {
        "num_codebooks": quantizer.num_codebooks,
        "codebook_size": quantizer.codebook_size,
        "dim": quantizer.dim,
        **{name: quantizer.metadata.get(name) for name in ("layer", "frame_rate")},
    }
    for name, value in found.items():
        # A state dict of multi_quantization knows neither layer nor frame rate.
        if value is not None and value != metadata[name]:
            raise UserError(
                f"{source} is a quantizer of {name} {value}, the embeddings and the options are of "
                f"{metadata[name]}",
                remedy="give the quantizer of this teacher and layer, and its num_codebooks",
            )
    if (teacher := quantizer.metadata.get("teacher")) not in (None, metadata["teacher"]):
        logging.warning("%s: a quantizer of %s, taken for %s", source, teacher, metadata["teacher"])
    quantizer.metadata = metadata
    return quantizer.to(how.device)


def _report(
    quantizer: Quantizer,
    store: EmbeddingStore,
    held_out_ids: list[str],
    how: QuantizerTraining,
    training: dict[str, Any],
) -> dict[str, Any]:
    """What is to be said of a quantizer.

    Raises:
        UserError: it was imported, and is of other embeddings.
    """
    result = measure(quantizer, EmbeddingFrames(store, held_out_ids))
    if how.source is not None and result.relative_error >= 1:
        raise UserError(
            f"{how.source} describes {store.path} worse than their mean alone does: relative error "
            f"{result.relative_error:.2f}",
            remedy="give the quantizer of this teacher and layer",
        )
    return {
        "id": quantizer.id,
        "metadata": quantizer.metadata,
        "training": training,
        "held_out": {"utterances": len(held_out_ids), **asdict(result)},
    }


def _fit_predictor(
    quantizer: Quantizer,
    store: EmbeddingStore,
    train_ids: list[str],
    held_out_ids: list[str],
    reader: FeatureReader,
    how: QuantizerTraining,
) -> tuple[CodePredictor, dict[str, Any]]:
    """A network that predicts codes from features, and how well it does on held-out utterances."""

    def features(ids: list[str]) -> list[Tensor]:
        return [torch.from_numpy(reader[utterance]) for utterance in ids]

    def embeddings(ids: list[str]) -> list[Tensor]:
        x = (torch.from_numpy(np.array(store[utterance])) for utterance in ids)
        return [rows.float().to(how.device) for rows in x]

    x, inputs = embeddings(held_out_ids), features(held_out_ids)
    rows = torch.cat(x)
    energy = float((rows - rows.mean(dim=0)).square().sum(dim=1).mean())
    with _progress("probing") as progress:
        predictor = CodePredictor.fit(
            features(train_ids),
            [quantizer.encode(utterance).cpu() for utterance in embeddings(train_ids)],
            codebook_size=quantizer.codebook_size,
            num_steps=how.predictor_steps,
            seed=how.seed,
            device=how.device,
            quantizer_id=quantizer.id,
            energy=energy,
            progress=progress,
        )
    # Of the nearest codes alone, as it takes longer than all the rest.
    reconstruction: dict[str, Any] = {
        "centers": quantizer.centers,
        "mean": quantizer.mean,
        "embeddings": [utterance.cpu() for utterance in x],
    }
    report: dict[str, Any] = {"predictor_steps": how.predictor_steps, "tradeoff": []}
    for weight in _RATE_WEIGHTS:
        codes = [
            encode_with_rate(quantizer, predictor, *utterance, rate_weight=weight)
            for utterance in zip(x, inputs, strict=True)
        ]
        found = predictability(
            predictor,
            inputs,
            [utterance.cpu() for utterance in codes],
            **({} if weight else reconstruction),
        )
        report.setdefault("predictability", asdict(found) | {"captured": found.captured})
        error = float((rows - quantizer.decode(torch.cat(codes))).square().sum(dim=1).mean())
        report["tradeoff"].append(
            {
                "rate_weight": weight,
                "relative_error": error / energy,
                "captured": float(np.mean(found.captured)),
            }
        )
    return predictor, report
