"""Codes and embeddings of a tiny corpus, as the stages before training leave them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.data.targets.codes import CodesInfo, write_codes
from mvqkd.data.targets.embeddings import EmbeddingsInfo, write_embeddings
from mvqkd.quantization import Quantizer
from mvqkd.recipe.teacher_files import TeacherFiles


def teacher_lens(cuts: Path) -> dict[str, int]:
    """Frames of each utterance at 50 Hz."""
    audio = AudioCuts([cuts])
    return {name: n // 320 for name, n in zip(audio.ids, audio.num_samples.tolist(), strict=True)}


def make_codes(
    files: TeacherFiles,
    cuts: Path,
    *,
    ids: list[str] | None = None,
    changed: dict[str, int] | None = None,
    **fields: object,
) -> Path:
    """Codes of all cuts, and the quantizer that they are declared to be of."""
    files.folder.mkdir(parents=True, exist_ok=True)
    quantizer = Quantizer(torch.zeros(12), torch.randn(2, 4, 12), metadata={})
    quantizer.save(files.quantizer)
    info = CodesInfo(
        teacher=files.teacher,
        layer=2,
        frame_rate=50.0,
        quantizer_id=quantizer.id,
        num_codebooks=2,
        codebook_size=4,
    )
    lens = teacher_lens(cuts) | (changed or {})
    names = list(lens) if ids is None else ids
    files.codes.mkdir()
    path = files.codes / "codes-0-of-1.h5"
    total = sum(lens[name] for name in names)
    with write_codes(path, info=replace(info, **fields), total_frames=total) as writer:  # type: ignore[arg-type]
        for name in names:
            codes = np.full((lens[name], 2), name == names[-1], dtype=np.uint8)  # must vary
            writer.write(name, codes)
    return path


def make_embeddings(
    files: TeacherFiles,
    cuts: Path,
    *,
    source: str = "embeddings",
    spread: float = 3.0,
    **fields: object,
) -> Path:
    """Embeddings of all cuts: the targets of a loss, or the sample of an online teacher."""
    random = np.random.default_rng(0)
    folder = files.sample if source == "online" else files.embeddings
    folder.mkdir(parents=True)
    path = folder / "embeddings-0-of-1.h5"
    lens = teacher_lens(cuts)
    info = replace(EmbeddingsInfo(files.teacher, 2, 50.0, 12), **fields)  # type: ignore[arg-type]
    with write_embeddings(
        path, info=info, total_frames=sum(lens.values()), dtype="float32"
    ) as writer:
        for name, frames in lens.items():
            writer.write(name, 5 + spread * random.standard_normal((frames, 12)).astype(np.float32))
    return path
