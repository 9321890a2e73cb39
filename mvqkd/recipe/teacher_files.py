"""Where the stages between the features and a distilled student leave their files.

Only the standard library is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from mvqkd.errors import UserError
from mvqkd.recipe.config.schema import (
    CodesConfig,
    FrameSection,
    HypothesesConfig,
    Section,
)
from mvqkd.recipe.remedies import run_command
from mvqkd.storage.files import file_digest
from mvqkd.storage.tensors import verify_tensors


@dataclass(frozen=True)
class TeacherFiles:
    """Of one distillation loss; losses and experiments with the same teacher share what they
    can."""

    teacher: str
    """URI of the teacher."""
    layer: int
    """Of the teacher, 1-based."""
    folder: Path
    """Of everything below: one for each teacher."""
    sample: Path
    """Folder of the embeddings of some utterances (one layer)."""
    embeddings: Path
    """Folder of the embeddings of all utterances (one layer), for regression."""
    quantizer: Path
    """The quantizer, trained on the sample or imported."""
    codes: Path
    """Folder of the codebook indexes of all utterances."""

    @property
    def check(self) -> Path:
        """The report of stage 4 on a foreign teacher."""
        return self.folder / f"check-layer-{self.layer}.md"


def teacher_files(loss: FrameSection, data_dir: Path, experiments: Path) -> TeacherFiles:
    """Names of the files of a distillation loss.

    Args:
        loss: a section of the configuration that is on.
        data_dir: prepared data; the files are in `<data_dir>/teachers/<teacher>`.
        experiments: folder of the recipe's experiments, for teachers named `mvqkd:EXPERIMENT`.

    Raises:
        UserError: a teacher of our own is not trained.
    """
    folder = data_dir / "teachers" / _folder_name(loss.teacher)
    layer = f"layer-{loss.teacher_layer}"
    codebooks = f"{layer}-cb{loss.quantizer.num_codebooks}"
    if loss.quantizer.weighting != "none":
        codebooks += f"-{loss.quantizer.weighting}"
    if loss.quantizer.file:
        codebooks += "-" + re.sub(r"[^\w.-]+", "-", Path(loss.quantizer.file).stem)
    weight = loss.quantizer.rate_distortion_weight
    return TeacherFiles(
        teacher=resolve_teacher(loss.teacher, experiments),
        layer=loss.teacher_layer,
        folder=folder,
        sample=folder / "sample" / layer,
        embeddings=folder / "embeddings" / layer,
        quantizer=folder / f"quantizer-{codebooks}.pt",
        codes=folder / (f"codes-{codebooks}" + (f"-r{weight:g}" if weight else "")),
    )


def hypotheses_folder(section: HypothesesConfig, data_dir: Path) -> Path:
    """Folder of N-best texts, one for each search and normalization."""
    settings = json.dumps([asdict(section.normalization), asdict(section.limits)])
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    folder = data_dir / "teachers" / _folder_name(section.teacher)
    return folder / f"hypotheses-beam{section.beam_size}-{digest}"


def uses(loss: FrameSection) -> str:
    """The source of a loss's targets: `codes`, `embeddings` or `online`."""
    return "codes" if isinstance(loss, CodesConfig) else loss.source


def own_experiment(loss: Section) -> str:
    """The experiment of the same recipe that is the teacher; empty when it is another network."""
    scheme, _, rest = loss.teacher.partition(":")
    name = rest.partition("?")[0]
    return name if scheme == "mvqkd" and "/" not in name else ""


def resolve_teacher(uri: str, experiments: Path) -> str:
    """The URI with the folder and the weights of an experiment of ours.

    `mvqkd:NAME` becomes `mvqkd:<experiments>/NAME?weights=<8 hex digits>`: so files made with an
    experiment's weights are not taken for those of its later weights. The digits are of
    `pretrained.pt`, or of the epoch's file where an epoch is named. Others are returned unchanged.

    Raises:
        UserError: the experiment has no such file, or it is damaged.
    """
    scheme, _, rest = uri.partition(":")
    name, _, query = rest.partition("?")
    if scheme != "mvqkd" or re.search(r"(^|&)weights=", query):
        return uri
    folder = experiments / name if "/" not in name else Path(name)
    epoch = re.search(r"(?:^|&)epoch=(\d+)", query)
    weights = folder / (f"epoch-{epoch[1]}.pt" if epoch else "pretrained.pt")
    if not weights.is_file():
        raise UserError(
            f"the teacher {uri} is not trained: {weights} is missing",
            remedy=f"train it first: {run_command(f'--exp {folder.name}')}",
        )
    # A damaged file is not another teacher.
    verify_tensors(weights, remedy="put a copy of it back, or train the teacher again")
    options = "&".join(part for part in (query, f"weights={file_digest(weights)[:8]}") if part)
    return f"mvqkd:{_one_spelling(folder)}?{options}"


def _one_spelling(folder: Path) -> Path:
    """A folder as seen from here where it lies below, else from the root: files name their teacher,
    and `exp`, `./exp` and `/project/exp` are one."""
    path, here = Path(os.path.abspath(folder)), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _folder_name(uri: str) -> str:
    """A teacher's name as a folder: `hf:openai/whisper-tiny.en` -> `whisper-tiny.en`,
    `mvqkd:big?epoch=3` -> `big-epoch-3`."""
    path, _, options = uri.partition(":")[2].partition("?")
    name = path.rstrip("/").rpartition("/")[2] + (f"-{options}" if options else "")
    return re.sub(r"[^\w.-]+", "-", name) or "teacher"
