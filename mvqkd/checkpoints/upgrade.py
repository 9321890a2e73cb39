"""Names that files of weights had in earlier versions.

Up to version 0.1.0 a model was a `Transducer` with an optional CTC head, and the losses of a
training had other names. Only names have changed since: the tensors, their order and so the
optimizer's state are the same.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from torch import Tensor

_MODEL = ((r"(predictor|joiner)\.", r"transducer.\1."), (r"ctc_head\.", "ctc.output."))
_OBJECTIVE = (
    *((rf"student\.{old}", rf"model.{new}") for old, new in _MODEL),
    (r"student\.", "model."),
    (r"transducer_loss\.", "head_losses.transducer.pruned."),
    (r"auxiliary\.mvq\.", "distillation.codes."),
    (r"auxiliary\.(?:l1|l2|cosine|kld)\.", "distillation.embeddings."),
)


def upgrade(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """The contents of a file of weights, under the names of this version; `path` is for the log."""
    description = state.get("description")
    if not isinstance(description, dict) or "ctc_head" not in description:
        return state
    logging.info("%s was written by an earlier version: its names are translated", path)
    heads = ["transducer", *(["ctc"] if description["ctc_head"] else [])]
    kept = {name: value for name, value in description.items() if name != "ctc_head"}
    upgraded = {**state, "description": {**kept, "heads": heads}}
    for part, renamed in (("model", _MODEL), ("average", _MODEL), ("objective", _OBJECTIVE)):
        if part in state:
            upgraded[part] = _rename(state[part], renamed)
    return upgraded


def _rename(tensors: dict[str, Tensor], renamed: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    found = {}
    for name, value in tensors.items():
        for old, new in renamed:
            changed, count = re.subn(f"^{old}", new, name)
            if count:
                name = changed
                break
        found[name] = value
    return found
