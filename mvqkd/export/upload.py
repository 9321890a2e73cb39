"""Model folders to the Hugging Face Hub, or to another folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from mvqkd.checkpoints.model_folder import HUB
from mvqkd.errors import UserError
from mvqkd.storage.files import atomic_path

_PARTIAL = ".tmp-"  # begins the names of what a killed process was writing


def upload(folder: Path, destination: str) -> str:
    """Upload a model folder.

    Args:
        folder: of the model.
        destination: `hf:OWNER/NAME`, a repository of the Hub, which is made if it is not there; or
            a folder, to which the files are copied.

    Returns:
        Where it is now.

    Raises:
        UserError: `huggingface_hub` is not installed, or the Hub refuses.
    """
    if not destination.startswith(HUB):
        files = (path for path in folder.rglob("*") if path.is_file())
        for source in sorted(path for path in files if not path.name.startswith(_PARTIAL)):
            with atomic_path(Path(destination) / source.relative_to(folder)) as partial:
                shutil.copyfile(source, partial)
        return destination
    repository = destination.removeprefix(HUB)
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError(
            "huggingface_hub, which uploads, is not installed",
            remedy='install the extra `hf`: pip install "mvqkd[hf]"',
        ) from None
    try:
        hub = HfApi()
        hub.create_repo(repository, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, ignore_patterns=[f"*{_PARTIAL}*"])
    except Exception as error:  # of requests, of the hub, of names that are none
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{folder} cannot be uploaded to {repository}: {reason}",
            remedy="log in with `hf auth login`, and name a repository that you may write to, as "
            "hf:OWNER/NAME",
        ) from error
    return f"https://huggingface.co/{repository}"
