"""From the section `distillation` of an experiment to its auxiliary loss.

Refuses here, before training starts, targets that are not those of the configuration.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mvqkd.data.alignment import check_lengths
from mvqkd.data.audio_cuts import AudioCuts
from mvqkd.data.codes import CodeStore
from mvqkd.data.embeddings import EmbeddingStore
from mvqkd.data.frame_targets import TargetSource
from mvqkd.data.index import open_index
from mvqkd.data.target_sources import StoredAudio, StoredCodes, StoredEmbeddings
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
from mvqkd.experiment.config import DistillationConfig, ModelConfig
from mvqkd.experiment.teaching import TeachingFiles
from mvqkd.geometry import encoder_frames
from mvqkd.quantization import Quantizer, load_quantizer
from mvqkd.teachers import load_teacher

_STATISTICS_FRAMES = 50_000


class Distillation:
    """What a training needs to know of its teacher; opens and checks files, builds the loss.

    Args:
        config: its method is not `none`, and `check_training` had nothing against it.
        model: the student's.
        files: see `teaching_files`.
        train_cuts: every cut that is trained on must have targets.
        dev_cuts: the loss is validated if all of these have targets.
        device: of the training.
        share: rank and number of the processes that read all embeddings in search of damage.

    Raises:
        UserError: targets are missing, damaged, or of another teacher, layer or quantizer.
    """

    def __init__(
        self,
        config: DistillationConfig,
        model: ModelConfig,
        files: TeachingFiles,
        *,
        train_cuts: Sequence[Path],
        dev_cuts: Sequence[Path],
        device: torch.device,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self._config = config
        self._model = model
        self._share = share
        self._train_lens = _student_lens(train_cuts)
        self._dev_lens = _student_lens(dev_cuts)
        self.description: dict[str, Any]
        """What the targets are and take on disk (`bytes_per_hour`, of audio); JSON-able."""
        self._statistics: tuple[Tensor, float] | None = None
        self._quantizer: Quantizer | None = None
        self.name = "codes" if config.method == "mvq" else "embeddings"
        """Of the loss, in logs and batches."""
        self._source: TargetSource
        self._targets: TeacherTargets
        if config.learns_from == "codes":
            self._open_codes(files)
        elif config.learns_from == "embeddings":
            self._open_embeddings(files)
        else:
            self._load_teacher(files, [*train_cuts, *dev_cuts], device)

    def _open_codes(self, files: TeachingFiles) -> None:
        config = self._config
        store = CodeStore(config.targets or files.codes)
        quantizer = self._quantizer = self._open_quantizer(files)
        store.require(
            ids=self._train_lens,
            quantizer_id=quantizer.id if quantizer else None,
            num_codebooks=config.num_codebooks,
            # Codes from elsewhere may have any, unless one is asked for.
            rate_weight=config.rate_weight or (None if config.targets else 0.0),
            teacher=files.teacher,
            layer=config.teacher_layer,
        )
        source = StoredCodes(store, delay=config.delay)
        if config.method == "mvq":
            self._targets = StoredTargets(self.name)
            self._use(source, store, source.ratio * store.info.num_codebooks)
            return
        assert quantizer is not None
        self._statistics = embedding_statistics(
            lambda utterance: quantizer.decode(torch.from_numpy(store[utterance].copy())).numpy(),
            self._train_lens,
        )
        store.require(quantizer_id=quantizer.id)
        self._targets = DecodedCodes(self.name, quantizer, source.ratio)
        self._use(source, store, quantizer.dim)

    def _open_quantizer(self, files: TeachingFiles) -> Quantizer | None:
        """Of the codes. Those from elsewhere may come without, if nothing but the codes is used;
        one that is named is theirs in any case."""
        config = self._config
        if not config.targets:
            return Quantizer.load(files.quantizer)
        uses_centers = config.method != "mvq" or config.prediction in ("soft", "tied")
        if config.quantizer or uses_centers:
            return load_quantizer(config.quantizer or files.quantizer)
        return None

    def _open_embeddings(self, files: TeachingFiles) -> None:
        config = self._config
        store = EmbeddingStore(config.targets or files.embeddings)
        store.require(ids=self._train_lens, teacher=files.teacher, layer=config.teacher_layer)
        store.require_finite(*self._share)
        self._statistics = embedding_statistics(store.__getitem__, self._train_lens)
        self._targets = StoredTargets(self.name)
        self._use(StoredEmbeddings(store, delay=config.delay), store, store.info.dim)

    def _use(
        self,
        source: StoredCodes | StoredEmbeddings,
        store: CodeStore | EmbeddingStore,
        width: int,
    ) -> None:
        self._source, self._ratio, self._width = source, source.ratio, width
        self._validates = all(utterance in store for utterance in self._dev_lens)
        student_lens = {**self._train_lens, **(self._dev_lens if self._validates else {})}
        differences = check_lengths(
            {utterance: store.num_frames(utterance) for utterance in student_lens},
            student_lens,
            ratio=source.ratio,
            source=store.path,
        )
        logging.info(
            "%s: teacher frames - %d x student frames: %s utterances",
            store.path,
            source.ratio,
            ", ".join(f"{key:+d} in {count}" for key, count in sorted(differences.items())),
        )
        self.description = {**asdict(store.info), "bytes_per_hour": store.bytes_per_hour}

    def _load_teacher(
        self, files: TeachingFiles, cuts: Sequence[Path], device: torch.device
    ) -> None:
        config = self._config
        layer = config.teacher_layer
        teacher = load_teacher(files.teacher, [layer], device=device)
        # The sample that a quantizer would be trained on tells the embeddings' mean and scale.
        sample = EmbeddingStore(files.sample)
        sample.require(teacher=files.teacher, layer=layer)
        sample.require_finite(*self._share)
        self._statistics = embedding_statistics(sample.__getitem__, sample)
        online = OnlineTeacher(self.name, teacher, layer, delay=config.delay)
        self._targets, self._ratio = online, online.ratio
        self._source = StoredAudio(AudioCuts(cuts))
        self._width, self._validates = teacher.dim, True
        self.description = {**asdict(sample.info), "bytes_per_hour": 0.0}

    @property
    def sources(self) -> dict[str, TargetSource]:
        """Where the loaders of training batches take the teacher's side from."""
        return {self.name: self._source}

    @property
    def validation_sources(self) -> dict[str, TargetSource]:
        """The same of validation batches."""
        return self.sources if self._validates else {}

    def build(self) -> dict[str, nn.Module]:
        """The loss, by its name in logs."""
        config, dim = self._config, self._model.dim
        head: nn.Module
        if config.method == "mvq":
            head = self._codebook_head()
        else:
            assert config.method != "none" and self._statistics is not None
            mean, scale = self._statistics
            head = RegressionHead(
                dim, self._width, self._ratio, config.method, mean=mean, scale=scale
            )
        loss = LayerDistillation(
            config.layer,
            head,
            self._targets,
            weight=config.scale,
            masked_weight=config.masked_weight,
            unmasked_weight=config.unmasked_weight,
            validates=self._validates,
        )
        return {self.name: loss}

    def _codebook_head(self) -> nn.Module:
        config, dim = self._config, self._model.dim
        if config.prediction in ("soft", "tied"):
            assert self._quantizer is not None
            near = SoftCodebookHead if config.prediction == "soft" else TiedCodebookHead
            return near(dim, self._ratio, self._quantizer.centers)
        kind = JointCodebookHead if config.prediction == "joint" else CodebookHead
        return kind(dim, self._width, self.description["codebook_size"])


def embedding_statistics(
    embeddings: Callable[[str], np.ndarray], ids: Iterable[str]
) -> tuple[Tensor, float]:
    """Mean (D,) of some 50 000 frames of these utterances, and root mean square of their dimensions
    around it; `embeddings` are (frames, D) of an utterance.

    Utterances are taken in an order of their own: files have those of a part, a speaker or a length
    together.
    """
    frames, rows = 0, []
    for utterance in sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest()):
        rows.append(np.asarray(embeddings(utterance), dtype=np.float64))
        frames += len(rows[-1])
        if frames >= _STATISTICS_FRAMES:
            break
    x = torch.from_numpy(np.concatenate(rows))
    mean = x.mean(0)
    return mean.float(), float((x - mean).square().mean().sqrt())


def _student_lens(paths: Sequence[Path]) -> dict[str, int]:
    """Utterance id -> frames of the student."""
    lens: dict[str, int] = {}
    for index in (open_index(path, None) for path in paths):
        frames = encoder_frames(np.array(index.num_frames))
        lens.update(zip((raw.decode() for raw in index.ids.tolist()), frames.tolist(), strict=True))
    return lens
