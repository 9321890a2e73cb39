"""Data of other folders than an experiment's own: what it replays, and what it is validated on
too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvqkd.data.folder import DataFolder
from mvqkd.errors import UserError
from mvqkd.recipe.config.load import load_config
from mvqkd.recipe.config.schema import DataConfig
from mvqkd.storage.files import atomic_path
from mvqkd.storage.jsonl import stem


@dataclass(frozen=True)
class OtherCuts:
    """A split of other data, with the tokens of the experiment."""

    name: str
    """`<data folder>/<split>`, such as `mini/dev-mini`."""
    path: Path
    """Manifest of its cuts."""

    def lang(self, lang_dir: Path) -> Path:
        """Where its index and its list of excluded cuts are: `<lang_dir>/other/<data folder>`,
        since manifests of two data folders may have one name."""
        return lang_dir / "other" / self.name.partition("/")[0]

    def prepare_lang(self, lang_dir: Path) -> Path:
        """Make that folder, with a copy of `bpe.model`."""
        folder, model = self.lang(lang_dir), (lang_dir / "bpe.model").read_bytes()
        copy = folder / "bpe.model"
        if not (copy.is_file() and copy.read_bytes() == model):
            with atomic_path(copy) as partial:
                partial.write_bytes(model)
        return folder

    def checked_lang(self, lang_dir: Path) -> Path:
        """That folder.

        Raises:
            UserError: it is missing, or has other tokens.
        """
        copy = self.lang(lang_dir) / "bpe.model"
        if not copy.is_file() or copy.read_bytes() != (lang_dir / "bpe.model").read_bytes():
            raise UserError(
                f"{copy} is not that of {lang_dir}: the tokens were not checked against "
                f"{self.path}",
                step="tokens",
            )
        return copy.parent


def replayed_cuts(data: DataConfig) -> list[OtherCuts]:
    """What `data.replay` names.

    Raises:
        UserError: as of `find_cuts`.
    """
    return find_cuts(data.replay, role="train", option="data.replay")


def extra_dev_cuts(data: DataConfig) -> list[OtherCuts]:
    """What `data.extra_dev` names.

    Raises:
        UserError: as of `find_cuts`.
    """
    return find_cuts(data.extra_dev, role="dev", option="data.extra_dev")


def other_cuts(
    configs: Sequence[Path], overrides: Sequence[tuple[str, str]] = ()
) -> list[OtherCuts]:
    """Those of several experiments, each once.

    Args:
        configs: YAML files of the experiments.
        overrides: (`section.field`, text) of the command line.

    Raises:
        UserError: a value is not of the configuration, or as of `find_cuts`.
    """
    found: dict[OtherCuts, None] = {}
    for path in configs:
        data = load_config(path, overrides).config.data
        found |= dict.fromkeys([*replayed_cuts(data), *extra_dev_cuts(data)])
    _refuse_same_names(list(found))
    return list(found)


def find_cuts(values: Sequence[str], *, role: str, option: str) -> list[OtherCuts]:
    """The manifests that an option names.

    Args:
        values: folders of prepared data, or manifests.
        role: `train` or `dev`: which splits of a folder are meant.
        option: for messages.

    Raises:
        UserError: there is no such folder or manifest, or two of them have the same name.
    """
    found: list[OtherCuts] = []
    for value in values:
        path = Path(value)
        cuts = [path]
        if path.is_dir():
            if not (path / "data.json").is_file():
                raise UserError(
                    f"{path}, of {option}, is no folder of prepared data: it has no data.json",
                    remedy="name a folder that --data-dir had, or a manifest "
                    "(fbank/*_cuts_*.jsonl.gz)",
                )
            folder = DataFolder(path)
            cuts = [folder.cuts(split) for split in folder.splits()[role]]
        for manifest in cuts:
            if not manifest.is_file():
                raise UserError(
                    f"{manifest}, of {option}, is missing",
                    remedy="name a manifest of cuts (fbank/*_cuts_*.jsonl.gz), or a folder of data "
                    "that is prepared up to stage 2",
                )
            found.append(OtherCuts(_name(manifest), manifest))
    found = list(dict.fromkeys(found))
    _refuse_same_names(found)
    return found


def _name(manifest: Path) -> str:
    folder = manifest.resolve().parent
    root = folder.parent if folder.name == "fbank" else folder
    return f"{root.name}/{stem(manifest).rpartition('_cuts_')[2]}"


def _refuse_same_names(cuts: Sequence[OtherCuts]) -> None:
    known: dict[str, OtherCuts] = {}
    for one in cuts:
        other = known.setdefault(one.name, one)
        if other.path.resolve() != one.path.resolve():
            raise UserError(
                f"{other.path} and {one.path} are both called {one.name}",
                remedy="rename one of their data folders",
            )
