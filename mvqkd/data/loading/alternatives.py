"""Hypotheses of a teacher as a lhotse manifest of alternatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mvqkd.data.loading.index import open_index
from mvqkd.data.loading.labelled import SPEED
from mvqkd.data.targets.hypothesis_records import StoredHypothesis
from mvqkd.data.targets.hypothesis_store import HypothesisStore
from mvqkd.storage.jsonl import write_items


def write_alternatives(cuts: Sequence[Path], hypotheses: Path, output: Path) -> int:
    """Write cuts whose supervisions are hypotheses, the best first, `<id>-1`, `<id>-2` ...

    Each supervision has its text, and in `custom` its `rank`, `log_prob`, `confidence`, and
    `errors` where there is a transcript. Cuts without hypotheses are left out; speed-perturbed
    copies have those of their originals.

    Args:
        cuts: manifests of cuts.
        hypotheses: file or folder of stored hypotheses.
        output: `.jsonl.gz`; `lhotse.CutSet.from_file` reads it.

    Returns:
        Number of cuts written.

    Raises:
        UserError: a file is missing or damaged.
    """
    found = {utterance.id: utterance.hypotheses for utterance in HypothesisStore(hypotheses)}
    count = 0

    def items() -> Iterator[dict[str, Any]]:
        nonlocal count
        for index in (open_index(path, None) for path in cuts):
            for number in range(len(index)):
                cut = index.cut(number)
                alternatives = found.get(cut["id"]) or found.get(SPEED.sub("", cut["id"]))
                if alternatives:
                    count += 1
                    yield {**cut, "supervisions": [_supervision(cut, h) for h in alternatives]}

    write_items(output, items())
    return count


def _supervision(cut: dict[str, Any], hypothesis: StoredHypothesis) -> dict[str, Any]:
    supervisions: list[dict[str, Any]] = cut.get("supervisions") or [{}]
    known = supervisions[0]
    return {
        "recording_id": cut["recording"]["id"],
        "channel": cut.get("channel", 0),
        **{name: known[name] for name in ("language", "speaker", "gender") if name in known},
        "id": f"{cut['id']}-{hypothesis.rank}",
        "start": 0.0,
        "duration": cut["duration"],
        "text": hypothesis.text,
        "custom": {
            "rank": hypothesis.rank,
            "log_prob": hypothesis.log_prob,
            "confidence": hypothesis.confidence,
            **({} if hypothesis.errors is None else {"errors": hypothesis.errors}),
        },
    }
