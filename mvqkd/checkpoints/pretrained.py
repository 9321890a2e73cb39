"""`pretrained.pt`: the averaged student, with what is needed to build it; and students that begin
with such weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mvqkd.checkpoints.averaging import average_epochs
from mvqkd.checkpoints.files import (
    HEAD_LOSSES,
    PRETRAINED,
    epoch_path,
    last_epoch,
    load_checkpoint,
    part_of,
    save_checkpoint,
)
from mvqkd.checkpoints.fitting import Fitted, fit_weights, summary
from mvqkd.checkpoints.load import check_finite, weights_of
from mvqkd.checkpoints.model_folder import lang_folder, local_path, read_weights, weights_file
from mvqkd.errors import UserError
from mvqkd.geometry import NUM_BINS
from mvqkd.models.asr_model import AsrModel


def write_pretrained(exp_dir: Path, *, epoch: int, avg: int, use_averaged_model: bool) -> Path:
    """Write `pretrained.pt`; arguments as those of `average_epochs`.

    The file is a dictionary: `model` and `head_losses`, float32 state dicts; `description`, the
    training's; and the arguments.
    """
    epoch = last_epoch(exp_dir) if epoch == -1 else epoch
    averaging: dict[str, Any] = {"avg": avg, "use_averaged_model": use_averaged_model}
    path = exp_dir / PRETRAINED
    save_checkpoint(
        path,
        {
            "model": average_epochs(exp_dir, epoch=epoch, **averaging),
            "head_losses": average_epochs(exp_dir, epoch=epoch, part="head_losses", **averaging),
            "description": load_checkpoint(epoch_path(exp_dir, epoch), mmap=True)["description"],
            "epoch": epoch,
            **averaging,
        },
    )
    logging.info("%s: epoch %d, average of %d", path, epoch, avg)
    return path


def head_losses_of(state: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of the head losses in the contents of any file that a training wrote; empty where
    there are none, as in exported weights and in those of earlier versions."""
    return state.get("head_losses") or part_of(state.get("objective", {}), HEAD_LOSSES)


def begin_with(
    student: AsrModel,
    path: str | Path,
    *,
    tokens: Sequence[str] | None = None,
    head_losses: nn.Module | None = None,
    other_features: bool = False,
) -> None:
    """Give a student the weights that another training came to. What fits is taken over, also of a
    student of another depth, with other heads or another vocabulary; what does not is told.

    Args:
        student: with layers of the same sizes.
        path: `pretrained.pt`, `epoch-N.pt`, `best-valid-loss.pt`, `checkpoint-<step>.pt` or
            `model.safetensors`; the folder of an experiment or of a model; or `hf:OWNER/NAME`.
        tokens: of the student. Where those of `path` are known, the rows of tokens that both have
            are taken over; otherwise vocabularies of the same size count as the same.
        head_losses: of the student; they begin with those of the other training, by the same rules.
        other_features: the student may receive features of another number of bins than the other
            one did; the weights that receive them begin at random.

    Raises:
        UserError: the weights are missing or damaged, or of a model of other features, or no layer
            of the encoder fits: the tensors that differ are named.
    """
    local = local_path(path)
    file = weights_file(local) if local.is_dir() else local
    if not file.is_file():
        raise UserError(
            f"{file}, to begin with, is missing",
            remedy="name a pretrained.pt, a checkpoint, or the folder of a model",
        )
    state = read_weights(file, mmap=True)
    weights = weights_of(state, file)
    if not other_features:
        _check_features(student, state, file)
    known = _tokens_beside(local, file)
    fitted = fit_weights(student.state_dict(), weights, tokens=tokens, given_tokens=known)
    if not any(name.startswith("encoder.layers.") for name in fitted.taken):
        raise UserError(
            f"{file}, to begin with, holds another student:\n    "
            + "\n    ".join([*fitted.different, *(f"{name}: none" for name in fitted.lacking)]),
            remedy="take the same sizes of layers as there, or another file",
        )
    check_finite(weights, file)
    check_finite(head_losses_of(state), file)
    student.load_state_dict(fitted.weights)
    logging.info("the student begins with the weights of %s", file)
    if fitted.shared_tokens is not None:
        logging.warning(
            "its vocabulary is another one: of %d tokens, %d are known there, the others begin at "
            "random",
            len(tokens or ()),
            fitted.shared_tokens,
        )
    _tell(fitted)
    if fitted.unused:
        logging.warning("%s: in the file, but of no use here", summary(fitted.unused))
    if head_losses is not None:
        losses = fit_weights(
            head_losses.state_dict(), head_losses_of(state), tokens=tokens, given_tokens=known
        )
        head_losses.load_state_dict(losses.weights)
        _tell(losses, " (of the training loss: its first values are high)")


def _check_features(student: AsrModel, state: dict[str, Any], file: Path) -> None:
    """Refuse weights of other features, if the file says what they are of: with layers that never
    saw such input, and an input layer at random, it would be a worse beginning than it seems."""
    model = (state.get("description") or {}).get("model")
    if not isinstance(model, dict):
        return
    there, here = model.get("input_dim", NUM_BINS), student.encoder.input_dim
    if there != here:
        raise UserError(
            f"{file}, to begin with, receives features of {there} bins, the student of {here}",
            remedy="give data with features of its kind, or another file; or declare that the "
            "student learns to receive other features, with input layers that begin at random",
            parameters=("data_dir", "features", "init_other_features"),
        )


def _tell(fitted: Fitted, then: str = "") -> None:
    """Log what begins at random, and what follows from that."""
    if fitted.lacking:
        names = summary(fitted.lacking)
        logging.warning("%s: not in the file, so they begin at random%s", names, then)
    for line in fitted.different:
        logging.warning("of another size, so it begins at random%s: %s", then, line)


def _tokens_beside(path: Path, file: Path) -> list[str] | None:
    """Tokens of the weights in `file`, which `path` led to; None if they are not known."""
    folders = [path] if path.is_dir() else [file.parent, file.parent.parent]
    for folder in map(lang_folder, folders):
        tokens = folder / "tokens.txt"
        if tokens.is_file():
            lines = tokens.read_text(encoding="utf-8").splitlines()
            return [line.rpartition(" ")[0] for line in lines]
    return None
