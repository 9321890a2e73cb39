"""Model folders, laid out as icefall's repositories on the Hugging Face Hub: `exp/` holds weights,
`data/lang_bpe_*/` tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvqkd.checkpoints.files import PRETRAINED, load_checkpoint
from mvqkd.errors import UserError
from mvqkd.storage.files import atomic_path

HUB = "hf:"
SAFETENSORS = "model.safetensors"
_PLACES = (PRETRAINED, f"exp/{PRETRAINED}", SAFETENSORS, f"exp/{SAFETENSORS}")
_WANTED = ("*.safetensors", "*.json", "*.yaml", "*.md", "data/*")
_INSTALL = 'pip install "mvqkd[hf]"'


def local_path(path: str | Path) -> Path:
    """A path on this machine.

    Args:
        path: one already; or `hf:OWNER/NAME`, or `hf:OWNER/NAME@REVISION`, of the Hugging Face Hub,
            whose weights and tokens are downloaded to its cache; or `hf:FOLDER`.

    Raises:
        UserError: the repository cannot be downloaded.
    """
    name = str(path)
    if not name.startswith(HUB):
        return Path(path)
    name = name.removeprefix(HUB)
    if Path(name).exists():
        return Path(name)
    repository, _, revision = name.partition("@")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(f"{path} cannot be downloaded", remedy=f"install {_INSTALL}") from None
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=list(_WANTED))
        )
    except Exception as error:  # of requests, of the hub, of names that are none
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{path} cannot be downloaded: {reason}",
            remedy="name a repository as hf:OWNER/NAME, or the folder of a copy",
        ) from error


def weights_file(folder: Path) -> Path:
    """The file of weights in the folder of an experiment or a model.

    Raises:
        UserError: there is none.
    """
    for place in _PLACES:
        if (folder / place).is_file():
            return folder / place
    if not folder.is_dir() or any(folder.glob("epoch-*.pt")):  # an experiment's, not yet finished
        return folder / PRETRAINED
    raise UserError(
        f"{folder} has no weights of a model: none of {', '.join(_PLACES)}",
        remedy="name the folder of an experiment, or a model folder that this package wrote",
    )


def lang_folder(folder: Path) -> Path:
    """Where the tokens of the folder of an experiment or a model are."""
    if not (folder / "bpe.model").is_file():
        for model in sorted(folder.glob("data/lang_*/bpe.model")):
            return model.parent
    return folder


def read_weights(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """The contents of any file of weights; `mmap` as for `load_checkpoint`.

    Raises:
        UserError: it is missing, damaged or of something else.
    """
    return (
        read_safetensors(path)
        if path.suffix == ".safetensors"
        else load_checkpoint(path, mmap=mmap)
    )


def write_safetensors(
    path: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]
) -> None:
    """Write the weights of a model, with what it is built from and a digest in the metadata."""
    save = _safetensors().save
    # Tensors of a file must not share memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    metadata = {
        "format": "pt",
        "description": json.dumps(description),
        "digest": _digest(tensors),
    }
    with atomic_path(path) as partial:
        # Not save_file, whose files (0.8) nobody but their owner can read.
        partial.write_bytes(save(tensors, metadata=metadata))


def read_safetensors(path: Path) -> dict[str, Any]:
    """`model`, the weights, and `description` of what `write_safetensors` wrote.

    Raises:
        UserError: the file is missing or damaged, or of another package.
    """
    _safetensors()
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path} is missing", step="training")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}", remedy="put a copy of it back") from error
    if "description" not in metadata:
        raise UserError(
            f"{path} does not say what model its weights are of",
            remedy="name a file that this package wrote",
        )
    if metadata.get("digest") != _digest(tensors):
        raise UserError(
            f"{path} is damaged: its weights are not those that were written",
            remedy="put a copy of it back",
        )
    return {"model": tensors, "description": json.loads(metadata["description"])}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        # As bytes, since numpy has no bfloat16.
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise UserError(
            "safetensors, which reads and writes .safetensors, is not installed",
            remedy=f"install {_INSTALL}",
        ) from None
    return safetensors.torch
