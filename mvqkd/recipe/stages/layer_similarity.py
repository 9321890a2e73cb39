"""How near the layers of streaming students are to those of a teacher with full context, with
branches and without."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvqkd.checkpoints.files import load_checkpoint, step_path, steps
from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.batch import Batch
from mvqkd.data.loading.batch_loader import eval_loader
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.distillation import AuxiliaryLayers, EncoderTeacher
from mvqkd.distillation.encoder_teacher import PARTS
from mvqkd.distillation.similarity import LinearMap, cosine_sum, frames_of, relation_sum
from mvqkd.errors import UserError
from mvqkd.evaluation.layer_pictures import draw_layers
from mvqkd.evaluation.report import markdown_table
from mvqkd.models import Taps
from mvqkd.recipe import build
from mvqkd.recipe.config.load import load_config
from mvqkd.recipe.full_context_teacher import load_full_context
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.layer_distillation import Pairs, quarters
from mvqkd.recipe.opened_losses import open_losses
from mvqkd.recipe.run_folder import check_features_of, features_of, lang_name
from mvqkd.recipe.teacher_files import resolve_teacher
from mvqkd.storage.files import write_json
from mvqkd.training.objective import Objective

_SECONDS = 100.0  # of a batch


def compare_layers(
    exp_dirs: Sequence[Path],
    teacher: str,
    data_dir: Path,
    picture: Path,
    *,
    device: str | None = None,
) -> str:
    """Measure some experiments on the dev splits, write the figures beside the picture as JSON.

    Of each pair of layers, at the quarters of both depths: the mean cosine between frames of the
    teacher and of the student's layer, through the linear map that least squares find on every
    other batch, and of the branch where there is one; and the mean divergence between the relations
    of attention, which recurrent students have not.

    Args:
        exp_dirs: folders of trained experiments, with a `checkpoint-<step>.pt`.
        teacher: URI; `mvqkd:NAME` is beside the first experiment.
        data_dir: prepared data, with the features of all of them.
        picture: PNG file.
        device: `cpu` or `cuda`; None: `cuda` where there is a GPU.

    Returns:
        Markdown: the figures.

    Raises:
        UserError: an experiment without a checkpoint, a teacher that is none, or one of them
            receives other features.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    uri = resolve_teacher(teacher, exp_dirs[0].parent)
    data = DataFolder(data_dir)
    cuts = [data.cuts(split) for split in data.splits()["dev"]]
    num_bins = features_of(cuts)["bins"]
    encoder = load_full_context("teacher", uri, None, device=place, num_bins=num_bins)[0]
    found = {}
    for folder in exp_dirs:
        objective, pairs = _objective(folder, data, cuts, encoder.num_layers, place)
        frozen = EncoderTeacher(encoder, dict.fromkeys(theirs for theirs, _ in pairs))
        loaders = [eval_loader(path, max_duration=_SECONDS) for path in cuts]
        batches = [batch.to(place) for loader in loaders for batch in loader]
        found[folder.name] = similarities(objective, frozen, pairs, batches)
        logging.info("%s: %d pairs of layers", folder.name, len(pairs))
    write_json(picture.with_suffix(".json"), found)
    draw_layers(picture, found)
    rows = [
        [name, f"{row['teacher_layer']} → {row['layer']}", row["of"], *map(_number, row["values"])]
        for name, rows in found.items()
        for row in rows
    ]
    return markdown_table(["experiment", "layers", "of", "cosine", "relations, nats"], rows)


@torch.inference_mode()
def similarities(
    objective: Objective, teacher: EncoderTeacher, pairs: Pairs, batches: Sequence[Batch]
) -> list[dict[str, Any]]:
    """Rows with `teacher_layer`, `layer`, `of` (`layer` or `branch`) and `values`: cosine and
    divergence, None where there is none.

    Args:
        objective: a student, and perhaps its branches.
        teacher: with the layers of `pairs` and their relations.
        pairs: of layers.
        batches: two at least; maps are found on every other one, the others are measured.
    """
    objective.eval()
    loss = dict(objective.distillation).get("layers")
    branches = {}
    if isinstance(loss, AuxiliaryLayers):
        branches = dict(zip(loss.pairs, loss.branches, strict=True))
    maps = [LinearMap() for _ in pairs]
    kinds = [(i, "layer") for i in range(len(pairs))]
    kinds += [(i, "branch") for i, pair in enumerate(pairs) if pair in branches]
    cosines, divergences = (dict.fromkeys(kinds, 0.0) for _ in range(2))
    missing, count = set(), 0
    for number, batch in enumerate(batches):
        student, lens = _student(objective, pairs, batch)
        theirs = _teacher(teacher, batch)
        count += int(lens.sum()) * (number % 2)
        for i, (upper, own) in enumerate(pairs):
            x, y = student[f"layers.{own}"], frames_of(theirs[f"layers.{upper}"], lens)
            if number % 2 == 0:
                maps[i].add(frames_of(x, lens), y)
                continue
            cosines[i, "layer"] += cosine_sum(maps[i](frames_of(x, lens)), y)
            sides = {"layer": (student, f"layers.{own}")}
            if (upper, own) in branches:
                made = branches[upper, own](x, lens)
                cosines[i, "branch"] += cosine_sum(frames_of(made.out, lens), y)
                sides["branch"] = (made.taps, "attention")
            for of, (taps, name) in sides.items():
                total = relation_sum(taps, theirs, lens, (name, f"layers.{upper}"))
                if total is None:
                    missing.add((i, of))
                else:
                    divergences[i, of] += total
    return [
        {
            "teacher_layer": pairs[i][0],
            "layer": pairs[i][1],
            "of": of,
            "values": [
                cosines[i, of] / max(1, count),
                None if (i, of) in missing else divergences[i, of] / max(1, count),
            ],
        }
        for i, of in kinds
    ]


def _student(objective: Objective, pairs: Pairs, batch: Batch) -> tuple[Taps, Tensor]:
    names = [f"layers.{own}" for _, own in pairs]
    relations = {f"{name}.{part}" for name in names for part in PARTS}
    taps = Taps([*names, *relations.intersection(objective.model.encoder.tap_names())])
    streaming = objective.streaming(objective.validation_chunk_size)
    _, lens = objective.model.encoder(
        batch.features,
        batch.feature_lens,
        chunk_size=streaming.chunk_size,
        left_context=streaming.left_context,
        taps=taps,
    )
    return taps, lens


def _teacher(teacher: EncoderTeacher, batch: Batch) -> Taps:
    taps = Taps(teacher.names)
    teacher.encoder(batch.features, batch.feature_lens, taps=taps, num_layers=taps.num_layers)
    return taps


def _objective(
    folder: Path, data: DataFolder, cuts: list[Path], teacher_layers: int, device: torch.device
) -> tuple[Objective, Pairs]:
    """The student and its losses at the last checkpoint, and the pairs of layers."""
    if not (saved := steps(folder)):
        raise UserError(
            f"{folder} has no checkpoint-<step>.pt, which holds the branches",
            remedy="train with training.keep_checkpoints 1 or more",
        )
    checkpoint = load_checkpoint(step_path(folder, saved[-1]), needs=["objective", "description"])
    check_features_of(str(folder), checkpoint["description"], cuts)
    loaded = load_config(folder / "config.yaml")
    inputs = ExperimentInputs(loaded, data, folder.parent)
    config = inputs.config
    name = lang_name(folder)
    lang_dir = data.root / name if name else inputs.lang()
    only = replace(config.distillation, **_off(config.distillation))
    inputs = replace(inputs, loaded=replace(loaded, config=replace(config, distillation=only)))
    opened = open_losses(inputs, inputs.cuts("train"), inputs.cuts("dev"), device, lang_dir)
    objective = build.build_objective(
        inputs.config, Tokenizer.load(lang_dir).vocab_size, opened, features_of(cuts)["bins"]
    ).to(device)
    state, wanted = checkpoint["objective"], objective.state_dict()
    objective.load_state_dict({key: value for key, value in state.items() if key in wanted})
    loss = dict(objective.distillation).get("layers")
    pairs = loss.pairs if isinstance(loss, AuxiliaryLayers) else None
    return objective, pairs or quarters(teacher_layers, config.model.num_layers)


def _off(distillation: Any) -> dict[str, Any]:
    """The sections without branches, off: their teachers are not needed."""
    names = ("codes", "embeddings", "outputs", "dual_mode", "tokens")
    return {name: replace(getattr(distillation, name), weight=0.0) for name in names}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
