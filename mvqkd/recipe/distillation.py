"""From the sections of `distillation` to losses and the sources of their targets.

Refuses here, before training starts, targets that are not those of the configuration.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.data.loading.index import open_index
from mvqkd.data.targets.codes import CodeStore
from mvqkd.data.targets.embeddings import EmbeddingStore
from mvqkd.data.targets.frame_targets import TargetSource
from mvqkd.data.targets.sources import StoredAudio, StoredCodes, StoredEmbeddings
from mvqkd.data.targets.teacher_frames import Pairing, check_lengths
from mvqkd.distillation import (
    CodebookHead,
    DecodedCodes,
    JointCodebookHead,
    LayerDistillation,
    OnlineTeacher,
    RegressionHead,
    SoftCodebookHead,
    StoredTargets,
    TiedCodebookHead,
)
from mvqkd.distillation.layer import TeacherTargets
from mvqkd.errors import UserError
from mvqkd.geometry import ENCODER_GRID, encoder_frames
from mvqkd.quantization import Quantizer, load_quantizer
from mvqkd.recipe.config.schema import CodesConfig, EmbeddingsConfig, FrameSection
from mvqkd.recipe.delays import check_delay
from mvqkd.recipe.teacher_files import TeacherFiles
from mvqkd.teachers import load_teacher

_STATISTICS_FRAMES = 50_000


@dataclass(frozen=True)
class Utterances:
    """Encoder frames by utterance id."""

    train: Mapping[str, int]
    """Every one must have targets."""
    dev: Mapping[str, int]
    """A loss is validated if all of these have targets."""


@dataclass(frozen=True)
class OpenedLoss:
    """A distillation loss whose files were opened and found to be those of the configuration."""

    source: TargetSource | None
    """Where the loaders of training batches take the teacher's side from; None: not from files."""
    validates: bool
    """Whether validation batches have it too."""
    description: dict[str, Any]
    """What the targets are and take on disk (`bytes_per_hour`, of audio); JSON-able."""
    build: Callable[[int], nn.Module]
    """The loss, given the width of the student's layers; its initial weights are random."""
    clean_features: bool = False
    """Whether it reads features without noise."""


def open_loss(
    name: str,
    loss: FrameSection,
    files: TeacherFiles,
    *,
    utterances: Utterances,
    cuts: Sequence[Path],
    device: torch.device,
) -> OpenedLoss:
    """Open and check the targets of a distillation loss.

    Args:
        name: of the loss, under which its targets lie in batches.
        loss: its section of the configuration, which is on.
        files: see `teacher_files`.
        utterances: of the training and of the validation.
        cuts: manifests of all of them, for the audio of an online teacher.
        device: of the training.

    Raises:
        UserError: targets are missing, damaged, or of another teacher, layer or quantizer; or a
            delay that leaves none.
    """
    check_delay(f"distillation.{name}.target_delay", loss.target_delay, utterances.train)
    if isinstance(loss, CodesConfig):
        return _open_codes(name, loss, files, utterances)
    if loss.source == "online":
        return _open_online(name, loss, files, cuts, device)
    return _open_embeddings(name, loss, files, utterances)


def count_frames(paths: Sequence[Path]) -> dict[str, int]:
    """Utterance id -> encoder frames, of manifests of cuts."""
    lens: dict[str, int] = {}
    for index in (open_index(path, None) for path in paths):
        frames = encoder_frames(np.array(index.num_frames))
        lens.update(zip((raw.decode() for raw in index.ids.tolist()), frames.tolist(), strict=True))
    return lens


def _open_codes(
    name: str, loss: CodesConfig, files: TeacherFiles, utterances: Utterances
) -> OpenedLoss:
    quantizer = None
    # Codes from elsewhere may come without a quantizer, if nothing but the codes is used; one that
    # is named is theirs in any case.
    if loss.prediction in ("soft", "tied") or loss.quantizer.file or not loss.targets:
        quantizer = _quantizer_of(loss, files)
    store = _code_store(loss, files, quantizer, utterances)
    source = StoredCodes(store, delay=loss.target_delay)
    num_indexes = source.pairing.ratio * store.info.num_codebooks

    def head(dim: int) -> nn.Module:
        if loss.prediction in ("soft", "tied"):
            assert quantizer is not None
            near = SoftCodebookHead if loss.prediction == "soft" else TiedCodebookHead
            return near(dim, source.pairing.ratio, quantizer.scaled_centers)
        kind = JointCodebookHead if loss.prediction == "joint" else CodebookHead
        return kind(dim, num_indexes, store.info.codebook_size)

    return _opened(loss, source, utterances, StoredTargets(name), head)


def _open_embeddings(
    name: str, loss: EmbeddingsConfig, files: TeacherFiles, utterances: Utterances
) -> OpenedLoss:
    frames = stored_frames(name, loss, files, utterances)
    ratio = frames.source.pairing.ratio
    head = _regression(loss, frames.read, utterances.train, frames.dim, ratio)
    return _opened(loss, frames.source, utterances, frames.targets, head)


@dataclass(frozen=True)
class StoredEmbeddingFrames:
    """Stored embeddings, or codes that are decoded to them."""

    source: StoredCodes | StoredEmbeddings
    targets: TeacherTargets
    """(M, ratio D)."""
    dim: int
    """D."""
    read: Callable[[str], np.ndarray]
    """(frames, D) of an utterance."""


def stored_frames(
    name: str, loss: EmbeddingsConfig, files: TeacherFiles, utterances: Utterances
) -> StoredEmbeddingFrames:
    """Open the stored embeddings or codes of a loss.

    Args:
        name: of the loss, under which its targets lie in batches.
        loss: with the source `embeddings` or `codes`.
        files: see `teacher_files`.
        utterances: of the training.

    Raises:
        UserError: targets are missing, damaged, or of another teacher, layer or quantizer.
    """
    if loss.source == "embeddings":
        store = EmbeddingStore(loss.targets or files.embeddings)
        store.require(ids=utterances.train, teacher=files.teacher, layer=loss.teacher_layer)
        source = StoredEmbeddings(store, delay=loss.target_delay)
        return StoredEmbeddingFrames(source, StoredTargets(name), store.info.dim, store.finite)
    quantizer = _quantizer_of(loss, files)
    codes = _code_store(loss, files, quantizer, utterances)
    stored = StoredCodes(codes, delay=loss.target_delay)

    def decoded(utterance: str) -> np.ndarray:
        return quantizer.decode(torch.from_numpy(codes[utterance].copy())).numpy()

    targets = DecodedCodes(name, quantizer, stored.pairing.ratio)
    return StoredEmbeddingFrames(stored, targets, quantizer.dim, decoded)


def _open_online(
    name: str,
    loss: EmbeddingsConfig,
    files: TeacherFiles,
    cuts: Sequence[Path],
    device: torch.device,
) -> OpenedLoss:
    teacher = load_teacher(files.teacher, [loss.teacher_layer], device=device)
    # Mean and scale of the embeddings are those of the sample that a quantizer would be trained on.
    sample = EmbeddingStore(files.sample)
    sample.require(teacher=files.teacher, layer=loss.teacher_layer)
    targets = OnlineTeacher(name, teacher, loss.teacher_layer, delay=loss.target_delay)
    head = _regression(loss, sample.finite, sample, teacher.dim, targets.pairing.ratio)
    return OpenedLoss(
        source=StoredAudio(AudioCuts(cuts)),
        validates=True,
        description={**asdict(sample.info), "bytes_per_hour": 0.0},
        build=lambda dim: _layer_loss(loss, dim, head, targets, validates=True),
    )


def _quantizer_of(loss: FrameSection, files: TeacherFiles) -> Quantizer:
    if not loss.targets:
        return Quantizer.load(files.quantizer)
    return load_quantizer(loss.quantizer.file or files.quantizer)


def _code_store(
    loss: FrameSection, files: TeacherFiles, quantizer: Quantizer | None, utterances: Utterances
) -> CodeStore:
    store = CodeStore(loss.targets or files.codes)
    weight = loss.quantizer.rate_distortion_weight
    store.require(
        ids=utterances.train,
        quantizer_id=quantizer.id if quantizer else None,
        num_codebooks=loss.quantizer.num_codebooks,
        # Codes from elsewhere may have any, unless one is asked for.
        rate_weight=weight or (None if loss.targets else 0.0),
        teacher=files.teacher,
        layer=loss.teacher_layer,
    )
    return store


def _opened(
    loss: FrameSection,
    source: StoredCodes | StoredEmbeddings,
    utterances: Utterances,
    targets: TeacherTargets,
    head: Callable[[int], nn.Module],
) -> OpenedLoss:
    return open_stored(
        source,
        utterances,
        lambda dim, validates: _layer_loss(loss, dim, head, targets, validates=validates),
    )


def open_stored(
    source: StoredCodes | StoredEmbeddings,
    utterances: Utterances,
    build: Callable[[int, bool], nn.Module],
) -> OpenedLoss:
    """A loss of stored targets, after a look at their lengths.

    Args:
        source: of the targets.
        utterances: of the training and of the validation.
        build: from the width of the student's layers, and whether it validates, to the loss.

    Raises:
        UserError: lengths of teacher and student differ.
    """
    store: Any = source.store
    validates = all(utterance in store for utterance in utterances.dev)
    student_lens = {**utterances.train, **(utterances.dev if validates else {})}
    differences = check_lengths(
        {utterance: store.num_frames(utterance) for utterance in student_lens},
        student_lens,
        ratio=source.pairing.ratio,
        source=store.path,
    )
    logging.info("%s: %s", store.path, describe_pairing(store, source.pairing))
    logging.info(
        "%s: teacher frames - %d x student frames: %s utterances",
        store.path,
        source.pairing.ratio,
        ", ".join(f"{key:+d} in {count}" for key, count in sorted(differences.items())),
    )
    return OpenedLoss(
        source=source,
        validates=validates,
        description={**asdict(store.info), "bytes_per_hour": store.bytes_per_hour},
        build=lambda dim: build(dim, validates),
    )


def describe_pairing(store: CodeStore | EmbeddingStore, pairing: Pairing) -> str:
    """One line for the log."""
    if store.first_frame is None:
        return "says not where the teacher's frames lie: paired from the first on, as in icefall"
    hop = 1 / store.frame_rate
    group = store.first_frame + (pairing.offset + (pairing.ratio - 1) / 2) * hop
    return (
        f"student frame t belongs to teacher frames {pairing.ratio} t {pairing.offset:+d} ..., "
        f"whose centre is {1000 * (group - ENCODER_GRID.first):+.1f} ms from its own"
    )


def _layer_loss(
    loss: FrameSection,
    dim: int,
    head: Callable[[int], nn.Module],
    targets: TeacherTargets,
    *,
    validates: bool,
) -> LayerDistillation:
    return LayerDistillation(
        loss.layer,
        [head(dim) for _ in loss.layer],
        targets,
        weight=loss.weight,
        final_weight_fraction=loss.final_weight_fraction,
        masked_weight=loss.masked_weight,
        unmasked_weight=loss.unmasked_weight,
        validates=validates,
    )


def _regression(
    loss: EmbeddingsConfig,
    embeddings: Callable[[str], np.ndarray],
    ids: Iterable[str],
    teacher_dim: int,
    ratio: int,
) -> Callable[[int], nn.Module]:
    mean, scale = embedding_statistics(embeddings, ids)
    return lambda dim: RegressionHead(
        dim, teacher_dim, ratio, loss.distance, mean=mean, scale=scale
    )


def embedding_statistics(
    embeddings: Callable[[str], np.ndarray], ids: Iterable[str]
) -> tuple[Tensor, float]:
    """Mean (D,) of some 50 000 frames of these utterances, and root mean square of their dimensions
    around it; `embeddings` are (frames, D) of an utterance.

    Utterances are taken in an order of their own: files have those of a split, a speaker or a
    length together.
    """
    frames, rows = 0, []
    for utterance in sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest()):
        rows.append(np.asarray(embeddings(utterance), dtype=np.float64))
        frames += len(rows[-1])
        if frames >= _STATISTICS_FRAMES:
            break
    x = torch.from_numpy(np.concatenate(rows))
    mean = x.mean(0)
    scale = float((x - mean).square().mean().sqrt())
    if not 0 < scale < math.inf:
        raise UserError(
            f"the teacher's embeddings have the deviation {scale}, in {frames} frames: there is "
            "nothing to learn from them",
            remedy="look at the teacher and its layer, which stage 4 checks on the corpus",
        )
    return mean.float(), scale
