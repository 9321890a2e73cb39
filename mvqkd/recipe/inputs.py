"""What the stages of an experiment work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mvqkd.data.folder import DataFolder
from mvqkd.data.prepare.preparation_report import read_report
from mvqkd.errors import UserError
from mvqkd.recipe.config.load import LoadedConfig, load_config
from mvqkd.recipe.config.schema import ExperimentConfig, FrameSection, LossSection, Section
from mvqkd.recipe.teacher_files import (
    TeacherFiles,
    hypotheses_folder,
    own_experiment,
    resolve_teacher,
    teacher_files,
)


@dataclass(frozen=True)
class ExperimentInputs:
    """An experiment of a recipe, and the data that it is run on."""

    loaded: LoadedConfig
    """The experiment, and where its values came from."""
    data: DataFolder
    """Prepared data."""
    experiments: Path
    """Folder of the recipe's experiments."""
    patterns: Mapping[str, list[str]] = field(default_factory=dict)
    """Names or patterns of splits by role, where others than those that were prepared are
    wanted."""

    @property
    def config(self) -> ExperimentConfig:
        """The experiment."""
        return self.loaded.config

    @property
    def losses(self) -> dict[str, LossSection]:
        """The distillation losses that are on, by name."""
        return self.config.distillation.losses

    @property
    def sections(self) -> dict[str, Section]:
        """Those, and the hypotheses of a teacher."""
        return self.config.distillation.sections

    @property
    def frame_losses(self) -> dict[str, FrameSection]:
        """Those of them whose targets the stages before training make."""
        return self.config.distillation.frame_losses

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """By role."""
        return self.data.splits(self.patterns)

    def cuts(self, *roles: str) -> list[Path]:
        """Manifests of the cuts of these roles."""
        return [self.data.cuts(split) for role in roles for split in self.splits[role]]

    def lang(self, vocab_size: int | None = None) -> Path:
        """Folder of the tokens, made of the transcripts that the experiment knows: its
        `data.labelled_hours`.

        Args:
            vocab_size: number of tokens; None: as many as were prepared last.

        Raises:
            UserError: none were prepared, or some were of labelled hours of other splits, which
                are other utterances.
        """
        hours = self.config.data.labelled_hours
        lang_dir = self.data.lang(vocab_size, hours)
        known = read_report(lang_dir / "bpe.report.json").get("splits") or self.splits["train"]
        if hours and set(known) != set(self.splits["train"]):
            raise UserError(
                f"{lang_dir} was made of {hours:g} labelled hours of {', '.join(known)}, the "
                f"training splits are {', '.join(self.splits['train'])}",
                remedy="take the same splits, or other data",
                step="tokens",
            )
        return lang_dir

    @property
    def hypotheses(self) -> Path:
        """Folder of the N-best texts that are trained on."""
        section = self.config.distillation.hypotheses
        if section.targets:
            return Path(section.targets)
        return hypotheses_folder(section, self.data.root)

    def teacher(self, loss: Section) -> str:
        """URI of the teacher of a section of `distillation`, see `resolve_teacher`.

        Raises:
            UserError: a teacher of our own is not trained.
        """
        return resolve_teacher(loss.teacher, self.experiments)

    def teacher_files(self, loss: FrameSection) -> TeacherFiles:
        """Where the files of a distillation loss are.

        Raises:
            UserError: a teacher of our own is not trained.
        """
        return teacher_files(loss, self.data.root, self.experiments)


def labelled_hours(
    configs: Sequence[Path], overrides: Sequence[tuple[str, str]] = ()
) -> list[float]:
    """The values of `data.labelled_hours` for which experiments of a recipe need tokens: their own,
    and those of their teachers in the same folder.

    Args:
        configs: YAML files of the experiments.
        overrides: (`section.field`, text) of the command line; they do not concern teachers.

    Raises:
        UserError: a value is not of the configuration.
    """
    found = set()
    for path in configs:
        config = load_config(path, overrides).config
        found.add(config.data.labelled_hours)
        for loss in config.distillation.sections.values():
            teacher = path.parent / f"{own_experiment(loss)}.yaml"
            if teacher.is_file():
                found.add(load_config(teacher).config.data.labelled_hours)
    return sorted(found)
