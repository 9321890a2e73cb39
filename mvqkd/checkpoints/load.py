"""Models from files of weights, whatever file a training wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvqkd.checkpoints.averaging import average_epochs
from mvqkd.checkpoints.files import MODEL, epoch_path, last_epoch, load_checkpoint, part_of
from mvqkd.checkpoints.model_folder import local_path, read_weights, weights_file
from mvqkd.errors import UserError
from mvqkd.models.asr_model import AsrModel
from mvqkd.models.build import build_model


def load_model(
    path: str | Path,
    epoch: int | None = None,
    avg: int = 1,
    *,
    use_averaged_model: bool = True,
    device: str | torch.device = "cpu",
) -> AsrModel:
    """A trained model in evaluation mode.

    >>> model = load_model("exp/mini/streaming_mvq")  # doctest: +SKIP
    >>> model = load_model("exp/mini/streaming_mvq", epoch=7, avg=3)  # doctest: +SKIP
    >>> model = load_model("exp/mini/streaming_mvq/epoch-7.pt")  # doctest: +SKIP
    >>> model = load_model("hf:owner/name")  # doctest: +SKIP

    Args:
        path: folder of an experiment, or a model folder that it was exported to; one on the Hugging
            Face Hub as `hf:OWNER/NAME`; or one of an experiment's files `pretrained.pt`,
            `epoch-N.pt`, `best-valid-loss.pt` and `checkpoint-<step>.pt`, or `model.safetensors`.
        epoch: of a folder: the last epoch of the average, -1 for the last there is; None takes
            `pretrained.pt`.
        avg: epochs to average.
        use_averaged_model: average the running average of the weights (icefall's `model_avg`) over
            those epochs, not the weights at their ends. A file gives the weights at its moment.
        device: where the model goes.

    Raises:
        UserError: no such file, a damaged one, or epochs that are missing.
    """
    path = local_path(path)
    if path.is_dir() and epoch is not None:
        weights = average_epochs(path, epoch=epoch, avg=avg, use_averaged_model=use_averaged_model)
        last = last_epoch(path) if epoch == -1 else epoch
        check_finite(weights, epoch_path(path, last))
        description = read_description(epoch_path(path, last))
    else:
        file = weights_file(path) if path.is_dir() else path
        if epoch is not None or avg != 1:
            raise UserError(
                f"{path}: an average over epochs is made from the folder of an experiment with an "
                "epoch, not from one file",
                remedy=f"load_model({str(file.parent)!r}, epoch=N, avg=M)",
            )
        state = read_weights(file)
        weights = weights_of(state, file)
        check_finite(weights, file)
        description = _description_of(state, file)
    try:
        model = build_model(description)
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{path}: its weights are not of the model that it describes: {reason}",
            remedy="name a file that a training of this package wrote",
        ) from error
    return model.eval().to(device)


def weights_of(state: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights of the model in the contents of any file that a training wrote (see
    `load_checkpoint`); `path` is for the error.

    Raises:
        UserError: there are no weights of a model in it.
    """
    weights = state.get("model") or part_of(state.get("objective", {}), MODEL)
    if not weights or not isinstance(weights, dict):
        raise UserError(
            f"{path} has no weights of a model",
            remedy="name the folder of an experiment, its pretrained.pt or an epoch-N.pt",
        )
    return weights


def check_finite(weights: dict[str, Tensor], path: Path) -> None:
    """Refuse weights that nothing can be recognized with; `path` is where they are from.

    Raises:
        UserError: one of them is infinite or NaN; names it.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(
                f"{path}: weights that are not finite, of {name}",
                remedy="take other weights; those of a training that failed can only be made again",
            )


def read_description(path: Path) -> dict[str, Any]:
    """What the model in a file of weights was built from, see `mvqkd.models.build.build_model`;
    its weights are not read.

    Raises:
        UserError: the file is missing or damaged, or does not say it.
    """
    return _description_of(load_checkpoint(path, mmap=True), path)


def _description_of(state: dict[str, Any], path: Path) -> dict[str, Any]:
    description = state.get("description")
    if not isinstance(description, dict) or "model" not in description:
        raise UserError(
            f"{path} does not say what model its weights are of",
            remedy="name a file that a training of this package wrote",
        )
    return description
