#!/usr/bin/env python3
"""Train a multi-codebook quantizer on embeddings of local/extract_embeddings.py.

    python local/train_quantizer.py --embeddings data/x/sample/layer-36 \\
        --output data/x/quantizer.pt

Writes quantizer.pt, and its report quantizer.json and quantizer.md: the error on utterances that it
was not trained on, how evenly each codebook is used and, with --cuts, how much of its codes a small
network can tell from the utterances' features, as a student has to. That network is kept as
quantizer.probe.pt, with which local/dump_codes.py can choose codes that it finds likely; the report
tells what they would cost. A quantizer that is there, trained on the same embeddings with the same
options, is kept. With --import nothing is trained: a quantizer that was made elsewhere, by this
package or by multi_quantization, is measured on the same utterances.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mvqkd.data.embeddings import EmbeddingFrames, EmbeddingStore
from mvqkd.data.feature_reader import FeatureReader
from mvqkd.data.labelled import SPEED
from mvqkd.errors import UserError
from mvqkd.experiment.program import run_program
from mvqkd.files import write_json, write_text
from mvqkd.quantization import Quantizer, load_quantizer, measure
from mvqkd.quantization.predictability import predictability
from mvqkd.quantization.predictable import encode_predictably
from mvqkd.quantization.probe import CodeProbe

_ENOUGH_FRAMES = 100_000
_PROBED = 1000
"""Utterances, at most, that the probe is trained on: their features are held in memory."""
_RATE_WEIGHTS = (0.0, 0.001, 0.003, 0.01, 0.03)
"""Of the codes that the report compares."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--embeddings", type=Path, required=True, help="folder or file of one layer's embeddings")
    add("--output", type=Path, required=True, help="quantizer.pt")
    add("--num-codebooks", type=int, default=8, help="bytes of a frame (%(default)s)")
    add("--codebook-size", type=int, default=256, help="entries of a codebook (%(default)s)")
    add("--num-steps", type=int, help="of training (default: the quantizer's own)")
    add(
        "--import",
        type=Path,
        dest="source",
        help="take this quantizer instead of training one: a quantizer.pt, or a state dict of "
        "multi_quantization",
    )
    add(
        "--held-out",
        type=float,
        default=0.05,
        help="part of the utterances that the error is measured on (%(default)s)",
    )
    add("--cuts", type=Path, nargs="*", default=[], help="manifests that have their features")
    add("--probe-steps", type=int, default=300, help="of training that network (%(default)s)")
    add("--seed", type=int, default=0, help="of the training and of the held-out utterances")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    options = parser.parse_args()

    if options.source is not None and options.num_steps is not None:
        raise UserError(
            "--import trains nothing, but --num-steps is given", remedy="leave one of them out"
        )
    store = EmbeddingStore(options.embeddings)
    if options.cuts and (100 / store.info.frame_rate) % 1:
        logging.info("features tell nothing of codes at %g Hz: no probe", store.info.frame_rate)
        options.cuts = []
    train_ids, held_out_ids = split(list(store), options.held_out, options.seed)
    if not train_ids or not held_out_ids:
        raise UserError(
            f"{options.embeddings} has {len(store)} utterances: too few to hold out "
            f"{options.held_out:g} of them",
            remedy="extract embeddings of more, or give another --held-out between 0 and 1",
        )
    metadata = {
        **asdict(store.info),
        "utterances": hashlib.sha256(" ".join(sorted(store)).encode()).hexdigest()[:16],
        "num_codebooks": options.num_codebooks,
        "codebook_size": options.codebook_size,
        "num_steps": options.num_steps,
        "held_out": options.held_out,
        "seed": options.seed,
    }
    if options.source is not None:
        metadata["imported"] = _digest(options.source)
    report_path = options.output.with_suffix(".json")
    probe_path = options.output.with_suffix(".probe.pt")
    if options.output.is_file():
        quantizer = Quantizer.load(options.output, device=options.device)
        if quantizer.metadata != metadata:
            raise UserError(
                f"{options.output} was trained on other embeddings, or with other options",
                remedy="remove it and the codes made with it, or give another --output",
            )
        logging.info("%s is trained already", options.output)
    if options.output.is_file() and report_path.is_file():
        report = json.loads(report_path.read_text())
    else:
        store.require_finite()  # not after the training
        facts: dict = {"frames": None, "seconds": None}
        if not options.output.is_file():
            quantizer, facts = _make(EmbeddingFrames(store, train_ids), options, metadata)
        report = _report(quantizer, store, held_out_ids, options, facts)
        # One that is there stays, whatever became of its report: codes and students know its id.
        if not options.output.is_file():
            quantizer.save(options.output)
        _write(report, report_path)
    if options.cuts and report.get("probe_steps", options.probe_steps) != options.probe_steps:
        raise UserError(
            f"{probe_path} was trained for {report['probe_steps']} steps, not "
            f"{options.probe_steps}",
            remedy="remove it, the quantizer and the codes made with them, or give another "
            "--output",
        )
    if options.cuts and not ("predictability" in report and probe_path.is_file()):
        # Files are in order of parts, speakers and lengths: some of all of these.
        some = train_ids[:: -(-len(train_ids) // _PROBED)]
        probe, found = _probe(quantizer, store, some, held_out_ids[:_PROBED], options)
        probe.save(probe_path)
        _write(report | found, report_path)
    error = report["held_out"]["relative_error"]
    logging.info("%s: id %s, error %.4f", options.output, quantizer.id, error)


def _write(report: dict, path: Path) -> None:
    write_text(path.with_suffix(".md"), describe(report))
    write_json(path, report)


def _make(
    train: EmbeddingFrames, options: argparse.Namespace, metadata: dict
) -> tuple[Quantizer, dict]:
    """A quantizer, trained or imported, and on how many frames in how many seconds."""
    begin = time.monotonic()
    if options.source is None:
        quantizer, frames = _fit(train, options, metadata), train.num_frames
    else:
        quantizer, frames = _import(options.source, options, metadata), 0
    return quantizer, {"frames": frames, "seconds": round(time.monotonic() - begin, 1)}


def _report(
    quantizer: Quantizer,
    store: EmbeddingStore,
    held_out_ids: list[str],
    options: argparse.Namespace,
    training: dict,
) -> dict:
    """What is to be said of a quantizer.

    Raises:
        UserError: it was imported, and is of other embeddings.
    """
    result = measure(quantizer, EmbeddingFrames(store, held_out_ids))
    if options.source is not None and result.relative_error >= 1:
        raise UserError(
            f"{options.source} describes {options.embeddings} worse than their mean alone does: "
            f"relative error {result.relative_error:.2f}",
            remedy="give the quantizer of this teacher and layer",
        )
    return {
        "id": quantizer.id,
        "metadata": quantizer.metadata,
        "training": training,
        "held_out": {"utterances": len(held_out_ids), **asdict(result)},
    }


def _fit(train: EmbeddingFrames, options: argparse.Namespace, metadata: dict) -> Quantizer:
    logging.info("%d frames of %d dimensions", train.num_frames, train.dim)
    if train.num_frames < _ENOUGH_FRAMES:
        logging.warning("a good quantizer needs %d frames or more", _ENOUGH_FRAMES)
    with tqdm(desc="training", unit="step") as bar:

        def progress(step: int, total: int) -> None:
            bar.total = total
            bar.update(step - bar.n)

        try:
            return Quantizer.fit(
                train,
                num_codebooks=options.num_codebooks,
                codebook_size=options.codebook_size,
                num_steps=options.num_steps,
                seed=options.seed,
                device=options.device,
                progress=progress,
                metadata=metadata,
            )
        except ValueError as error:  # of options and frames; it names them
            raise UserError(str(error), remedy="see --help") from error


def _probe(
    quantizer: Quantizer,
    store: EmbeddingStore,
    train_ids: list[str],
    held_out_ids: list[str],
    options: argparse.Namespace,
) -> tuple[CodeProbe, dict]:
    """A network that tells codes from features, and what it knows of those of held-out
    utterances."""
    reader = FeatureReader(options.cuts)

    def features(ids: list[str]) -> list[Tensor]:
        return [torch.from_numpy(reader[utterance]) for utterance in ids]

    def embeddings(ids: list[str]) -> list[Tensor]:
        x = (torch.from_numpy(np.array(store[utterance])) for utterance in ids)
        return [rows.float().to(options.device) for rows in x]

    x, heard = embeddings(held_out_ids), features(held_out_ids)
    rows = torch.cat(x)
    energy = float((rows - rows.mean(dim=0)).square().sum(dim=1).mean())
    with tqdm(desc="probing", unit="step") as bar:

        def progress(step: int, total: int) -> None:
            bar.total = total
            bar.update(step - bar.n)

        probe = CodeProbe.fit(
            features(train_ids),
            [quantizer.encode(utterance).cpu() for utterance in embeddings(train_ids)],
            codebook_size=quantizer.codebook_size,
            num_steps=options.probe_steps,
            seed=options.seed,
            device=options.device,
            quantizer_id=quantizer.id,
            energy=energy,
            progress=progress,
        )
    # Of the nearest codes alone, as it takes longer than all the rest.
    reconstruction: dict = {
        "centers": quantizer.centers,
        "mean": quantizer.mean,
        "embeddings": [utterance.cpu() for utterance in x],
    }
    report: dict = {"probe_steps": options.probe_steps, "tradeoff": []}
    for weight in _RATE_WEIGHTS:
        codes = [
            encode_predictably(quantizer, probe, *utterance, rate_weight=weight)
            for utterance in zip(x, heard, strict=True)
        ]
        found = predictability(
            probe,
            heard,
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
    return probe, report


def _import(source: Path, options: argparse.Namespace, metadata: dict) -> Quantizer:
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
                f"{source} is a quantizer of {name} {value}, {options.embeddings} and the options "
                f"of {metadata[name]}",
                remedy="give the quantizer of this teacher and layer, and its --num-codebooks "
                "(in a recipe: --distillation.num_codebooks)",
            )
    if (teacher := quantizer.metadata.get("teacher")) not in (None, metadata["teacher"]):
        logging.warning("%s: a quantizer of %s, taken for %s", source, teacher, metadata["teacher"])
    quantizer.metadata = metadata
    return quantizer.to(options.device)


def _digest(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} is missing", remedy="name the file of a quantizer")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


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


def describe(report: dict) -> str:
    """The report as Markdown."""
    metadata, held_out = report["metadata"], report["held_out"]
    probed = report.get("predictability")
    told = [f"{bits:.2f}" for bits in probed["captured"]] if probed else held_out["entropy"]
    rows = "\n".join(
        f"| {number} | {entropy:.2f} | {100 * used:.1f} % | {bits if probed else ''} |"
        for number, (entropy, used, bits) in enumerate(
            zip(held_out["entropy"], held_out["utilization"], told, strict=True), start=1
        )
    )
    from_features = f"{probed['reconstruction_error']:.4f}" if probed else ""
    training = report["training"]
    if "imported" in metadata:
        origin = f"from a file with SHA-256 {metadata['imported']}..."
    elif training["seconds"] is None:
        origin = "before this report was lost and made again"
    else:
        origin = f"on {training['frames']} frames, in {training['seconds']} s"
    return f"""# Quantizer {report["id"]}

| | |
|---|---|
| teacher | `{metadata["teacher"]}`, layer {metadata["layer"]} |
| embeddings | {metadata["dim"]} dimensions, {metadata["frame_rate"]:g} Hz |
| codebooks | {metadata["num_codebooks"]} of {metadata["codebook_size"]} entries |
| {"imported" if "imported" in metadata else "trained"} | {origin} |
| held out | {held_out["num_frames"]} frames of {held_out["utterances"]} other utterances |
| relative error on these | {held_out["relative_error"]:.4f} |
| ... of the direct sum alone | {held_out["direct_sum_error"]:.4f} |
| ... of what features tell of the codes | {from_features} |

The relative error is the energy of the reconstruction's error, as a part of the energy of the
embeddings around their mean. "Told by features": bits of a code that a small network knows from the
utterance's filterbank features, at most the entropy; a lower bound of what a student can learn.

| codebook | entropy (bits) | entries used | told by features (bits) |
|---|---|---|---|
{rows}
{_describe_tradeoff(report.get("tradeoff", []))}"""


def _describe_tradeoff(rows: list[dict]) -> str:
    if not rows:
        return ""
    lines = "\n".join(
        f"| {row['rate_weight']:g} | {row['relative_error']:.4f} | {row['captured']:.2f} |"
        for row in rows
    )
    return f"""
Codes that are chosen for what the features tell of them as well (`distillation.rate_weight`,
`local/dump_codes.py --rate-weight`):

| rate weight | relative error | told by features (bits for a codebook) |
|---|---|---|
{lines}
"""


if __name__ == "__main__":
    run_program(main)
