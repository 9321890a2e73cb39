"""Manifests of a corpus, and what is in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvqkd.data.folder import DataFolder
from mvqkd.data.prepare.fbank import manifest_cuts
from mvqkd.data.prepare.manifests import prepare_manifests
from mvqkd.data.splits import ROLES
from mvqkd.features.reading import read_audio
from mvqkd.storage.jsonl import read_items


def run(corpus: Path, data: Path, train: Sequence[str] = (), **options: Any) -> list[str]:
    """Names of the splits; roles may be among the options."""
    patterns = {"train": train} | {role: options.pop(role) for role in ROLES if role in options}
    defaults: dict[str, Any] = dict(prefix="x", min_seconds=0.3, max_seconds=3, num_jobs=2)
    parts = prepare_manifests(corpus, patterns, data, **(defaults | options))
    return [name for names in parts.values() for name in names]


def report(data: Path, part: str) -> dict[str, dict[str, list[str]]]:
    """Ids by kind."""
    table = json.loads((data / f"manifests/x_{part}.report.json").read_text())
    for kinds in (table["left_out"], table["changed"]):
        for kind, entry in kinds.items():
            assert entry["count"] == len(entry["utterances"])
            kinds[kind] = list(entry["utterances"])
    return table


def ids(data: Path, part: str, kind: str = "supervisions") -> list[str]:
    return [item["id"] for item in read_items(data / f"manifests/x_{kind}_{part}.jsonl.gz")]


def values(data: Path, part: str = "train") -> dict[str, float]:
    """Id -> a sample of the audio, to two digits: audio of constant values tells its file."""
    cuts = manifest_cuts(DataFolder(data), part)
    return {cut.id: round(float(read_audio(cut)[100]), 2) for cut in cuts}
