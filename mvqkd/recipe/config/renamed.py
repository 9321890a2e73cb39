"""Names of configuration values that have changed: the old ones are translated, with a message.

Up to version 0.1.0 an experiment had one distillation loss, `distillation.method` with the fields
of all kinds beside it, and limits of a process's batch in place of the size of a step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mvqkd.errors import UserError

_OLD = "distillation."
_STEP = {"data.max_duration": "data.step_duration", "data.max_tokens": "data.step_tokens"}
_GONE = "training.accumulate"
_SECTIONS = ("codes", "embeddings")
_FIELDS = {
    "teacher": "teacher",
    "teacher_layer": "teacher_layer",
    "layer": "layer",
    "scale": "weight",
    "source": "source",
    "num_codebooks": "quantizer.num_codebooks",
    "rate_weight": "quantizer.rate_distortion_weight",
    "prediction": "prediction",
    "delay": "target_delay",
    "masked_weight": "masked_weight",
    "unmasked_weight": "unmasked_weight",
    "targets": "targets",
    "sample_utterances": "quantizer.sample_utterances",
    "quantizer_steps": "quantizer.num_steps",
    "quantizer": "quantizer.file",
}
_METHODS = ("mvq", "l1", "l2", "cosine", "kld")
_ONLY_OF = {"source": "embeddings", "prediction": "codes"}


class _Item(NamedTuple):
    name: str
    text: str | list[str]
    origin: str


def translate(items: Iterable[Any], values: Mapping[str, Any]) -> Iterator[Any]:
    """Items of one source under today's names.

    Args:
        items: with `name`, `text` and `origin`.
        values: by name, of the sources before.
    """
    items = list(map(_of_step, items))
    if any(item.name == _GONE for item in items):
        logging.info("%s is gone: data.step_duration is the audio of a whole step", _GONE)
        items = [item for item in items if item.name != _GONE]
    old = {x.name.removeprefix(_OLD): x for x in items if _is_old_distillation(x.name)}
    yield from (item for item in items if not _is_old_distillation(item.name))
    if not old:
        return
    yield from _translate(old, values)


def is_old(name: str) -> bool:
    """Whether a configuration value had this name in an earlier version."""
    return name in _STEP or name == _GONE or _is_old_distillation(name)


def _is_old_distillation(name: str) -> bool:
    return name.startswith(_OLD) and name.removeprefix(_OLD) in {"method", *_FIELDS}


def _of_step(item: Any) -> Any:
    if item.name not in _STEP:
        return item
    new = _STEP[item.name]
    logging.info("%s is called %s: of a step of all processes, not of one's batch", item.name, new)
    return _Item(new, item.text, item.origin)


def _translate(old: dict[str, Any], values: Mapping[str, Any]) -> list[_Item]:
    method = old["method"].text if "method" in old else None
    on = [name for name in _SECTIONS if values.get(f"{_OLD}{name}.weight", 0.0)]
    if method not in (None, "none", *_METHODS):
        raise UserError(
            f"{old['method'].origin}: {_OLD}method is {method!r}; allowed: {', '.join(_METHODS)}, "
            "none"
        )
    if method in _METHODS:
        sections = ["codes" if method == "mvq" else "embeddings"]
    else:  # with none on, the values wait in both for a method
        sections = (on if method is None else []) or list(_SECTIONS)
    found: list[_Item] = []
    renamed: list[str] = []

    def add(name: str, text: str, origin: str) -> None:
        found.append(_Item(f"{_OLD}{name}", text, origin))

    if method is not None:
        place = old["method"].origin
        for name in _SECTIONS:
            if name not in sections or method == "none":
                add(f"{name}.weight", "0", place)
        renamed.append(f"{_OLD}method -> weights of {', '.join(_SECTIONS)}")
        for name in sections if method != "none" else []:
            if name not in on:
                for other in on:
                    _take_over(name, other, values, add, place)
            if "scale" not in old and not on:
                add(f"{name}.weight", "1", place)
        if method not in ("mvq", "none"):
            add("embeddings.distance", str(method), place)
    for name, item in old.items():
        if name == "method" or (name == "source" and not item.text):
            continue
        text = {"teacher": "online"}.get(item.text, item.text) if name == "source" else item.text
        for section in sections:
            if _ONLY_OF.get(name, section) != section:
                continue
            if name == "scale" and not on and method not in _METHODS:
                continue  # a weight would turn it on
            add(f"{section}.{_FIELDS[name]}", text, item.origin)
            renamed.append(f"{_OLD}{name} -> {_OLD}{section}.{_FIELDS[name]}")
    if renamed:
        source = old[next(iter(old))].origin.partition(", line")[0]
        logging.info("%s has names of an earlier version: %s", source, ", ".join(renamed))
    return found


def _take_over(name: str, other: str, values: Mapping[str, Any], add: Any, place: str) -> None:
    """Values that the section which the method was before shares with the one that it is now."""
    for field in _FIELDS.values():
        value = values.get(f"{_OLD}{other}.{field}")
        if value is not None and field not in ("source", "prediction", "targets"):
            add(f"{name}.{field}", str(value), place)
