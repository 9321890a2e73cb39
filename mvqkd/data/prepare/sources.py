"""Finding the splits of a corpus: trees of folders, and folders of lhotse manifests."""

from __future__ import annotations

import re
from pathlib import Path

from mvqkd.data.prepare.lhotse_manifests import Manifests
from mvqkd.data.prepare.listing import SplitLister
from mvqkd.data.prepare.trees import Tree, is_split
from mvqkd.errors import UserError

_MANIFEST = re.compile(
    r"^(?:.*_)?(?P<kind>recordings|supervisions|cuts)_(?P<split>.+)\.jsonl(?:\.gz)?$"
)
# As `lhotse kaldi import` names them: the split is the folder.
_UNNAMED = re.compile(r"^(?P<kind>recordings|supervisions|cuts)\.jsonl(?:\.gz)?$")


def list_splits(corpus_dir: Path, audio_root: Path | None = None) -> dict[str, SplitLister]:
    """How to list each split, by its name.

    Args:
        corpus_dir: `<dir>[/LibriSpeech]/<split>/**/*.trans.txt`, or a folder of lhotse manifests
            (`recordings` and `supervisions`, or `cuts`; `recordings` alone without transcripts),
            named after splits or, without that, in folders named after splits. A folder of audio
            beside the splits of a tree is a split without transcripts.
        audio_root: folder that relative paths in manifests begin in; None: the current one.

    Raises:
        UserError: it is neither.
    """
    if not corpus_dir.is_dir():
        raise UserError(
            f"the corpus folder {corpus_dir} does not exist",
            step="corpus",
            parameters=("corpus_dir",),
        )
    root = (audio_root or Path()).absolute()
    if manifests := _manifests(corpus_dir):
        return {split: Manifests(files, root) for split, files in manifests.items()}
    home = corpus_dir / "LibriSpeech"
    if not home.is_dir():
        home = corpus_dir
    folders: dict[str, SplitLister] = {}
    for path in sorted(home.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        if files := _manifests(path).get(path.name):
            folders[path.name] = Manifests(files, root)
        elif is_split(path):
            folders[path.name] = Tree(path.absolute())
    if not folders:
        raise UserError(
            f"{corpus_dir} has neither <split>/<speaker>/<chapter>/*.trans.txt nor lhotse "
            "manifests",
            remedy="name a LibriSpeech tree or a folder of lhotse manifests",
            parameters=("corpus_dir",),
        )
    return folders


def _manifests(folder: Path) -> dict[str, dict[str, Path]]:
    """The manifests in a folder, by split and kind; the split of those without one in their names
    has the folder's."""
    found: dict[str, dict[str, Path]] = {}
    own = folder.name if folder.name not in ("", "..") else folder.resolve().name
    for path in sorted(folder.iterdir()):
        if match := _MANIFEST.match(path.name) or _UNNAMED.match(path.name):
            split = match.groupdict().get("split") or own
            files = found.setdefault(split, {})
            if match["kind"] in files:
                raise UserError(
                    f"{folder} has two manifests of {match['kind']} of the split {split}: "
                    f"{files[match['kind']].name} and {path.name}",
                    remedy="one folder for each corpus, or another name for the split",
                )
            files[match["kind"]] = path
    return found
