"""What the stages of an experiment work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mvqkd.data.folder import DataFolder
from mvqkd.recipe.config.load import LoadedConfig
from mvqkd.recipe.config.schema import ExperimentConfig
from mvqkd.recipe.teacher_files import LossConfig, TeacherFiles, teacher_files


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
    def losses(self) -> dict[str, LossConfig]:
        """The distillation losses that are on, by name."""
        return self.config.distillation.losses

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """By role."""
        return self.data.splits(self.patterns)

    def cuts(self, *roles: str) -> list[Path]:
        """Manifests of the cuts of these roles."""
        return [self.data.cuts(split) for role in roles for split in self.splits[role]]

    def teacher_files(self, loss: LossConfig) -> TeacherFiles:
        """Where the files of a distillation loss are.

        Raises:
            UserError: a teacher of our own is not trained.
        """
        return teacher_files(loss, self.data.root, self.experiments)
