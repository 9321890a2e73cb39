"""Manifests of a corpus, and what is in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvqkd.data.prepare.manifests import prepare_manifests
from mvqkd.data.splits import ROLES
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
