"""What the experiments of a recipe came to: reads their folders, knows no model."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mvqkd.errors import UserError
from mvqkd.evaluation.bootstrap import Difference, speakers, wer_difference
from mvqkd.evaluation.result_files import read_recogs
from mvqkd.evaluation.wer import Score, score, spelled
from mvqkd.storage.files import file_digest, read_commented, read_json, read_json_list
from mvqkd.storage.jsonl import read_log


@dataclass
class Experiment:
    """One folder `exp/<recipe>/<name>`."""

    name: str
    folder: Path
    results: list[dict[str, Any]]
    """Contents of `<method>/result-*.json`, each with its `path`; sorted by set, method, suffix."""
    starts: list[dict[str, Any]]
    """Contents of `environment.json`: each start of the training, oldest first."""
    metrics: list[dict[str, Any]]
    """Lines of `log/metrics.jsonl`."""
    config: dict[str, Any]
    """`config.yaml`."""
    distillation: dict[str, dict[str, Any]]
    """The targets of each distillation loss, by its name; empty without a teacher."""

    @property
    def parameters(self) -> int | None:
        """Parameters of the decoded student."""
        return self.results[-1]["parameters"] if self.results else None

    @property
    def stored_bytes(self) -> float:
        """Of teachers, for an hour of audio; files that losses share count once."""
        stored = {
            json.dumps(facts, sort_keys=True): facts["bytes_per_hour"]
            for facts in self.distillation.values()
        }
        return sum(stored.values())

    @property
    def steps(self) -> int | None:
        """Updates of the weights."""
        return self.metrics[-1]["step"] if self.metrics else None

    @property
    def audio_hours(self) -> float | None:
        """Trained on, over all epochs."""
        return self.metrics[-1]["audio_hours"] if self.metrics else None

    @property
    def training_hours(self) -> float | None:
        """Wall-clock time of training, over all restarts."""
        return self.metrics[-1]["elapsed"] / 3600 if self.metrics else None


class Rates(NamedTuple):
    """An error rate in percent, and how it differs from the baseline's."""

    rate: float
    difference: Difference

    @property
    def relative(self) -> float | None:
        """The difference in percent of the baseline's rate; None where that is not above 0."""
        other = self.rate - self.difference.difference
        return 100.0 * self.difference.difference / other if other > 0 else None


class Comparison(NamedTuple):
    """A result of an experiment beside the baseline's on the same set with the same method."""

    result: dict[str, Any]
    words: Rates
    characters: Rates


def read_experiments(root: Path) -> list[Experiment]:
    """Every folder of `root` with a `config.yaml`, the smallest student first.

    Raises:
        UserError: a file is damaged, or there are results without a `config.yaml`.
    """
    for path in sorted(root.glob("*/*/result-*.json")):
        if not (config := path.parents[1] / "config.yaml").is_file():
            raise UserError(
                f"{config} is missing, the experiment that {path.name} is of",
                remedy=f"put a copy of it back, or move {config.parent} away",
            )
    found = [read_experiment(path.parent) for path in sorted(root.glob("*/config.yaml"))]
    return sorted(found, key=lambda experiment: (experiment.parameters or 0, experiment.name))


def read_distillation(folder: Path) -> dict[str, dict[str, Any]]:
    """The targets of an experiment's distillation losses, by their names.

    `distillation.json`, or `teaching.json` of version 0.1.0, which had one loss.
    """
    for name in ("distillation.json", "teaching.json"):
        path = folder / name
        if path.is_file():
            found = read_json(path)
            return found if name == "distillation.json" else {_kind(found): found}
    return {}


def _kind(description: dict[str, Any]) -> str:
    return "codes" if "quantizer_id" in description else "embeddings"


def interval_of(result: dict[str, Any], *, by_speaker: bool) -> tuple[float, float] | None:
    """The 95 % interval of a result's WER, in percent; by speakers where it was asked for and the
    ids tell them. None for a set without words."""
    low, high = (result["interval_by_speaker"] if by_speaker else None) or result["interval"]
    return None if low is None else (low, high)


def compare(experiment: Experiment, baseline: Experiment, *, by_speaker: bool) -> list[Comparison]:
    """Paired bootstrap of each result of an experiment against the baseline's of the same set and
    method, the last decoded where there are several."""
    theirs = {(result["set"], result["method"]): result for result in by_time(baseline.results)}
    ours = {(result["set"], result["method"]): result for result in by_time(experiment.results)}
    compared = []
    for key, result in ours.items():
        if key not in theirs:
            continue
        first, second = (score(read_recogs(_recogs(r))) for r in (result, theirs[key]))
        ids = [transcript.id for transcript in first.transcripts]
        references = [transcript.reference for transcript in first.transcripts]
        if ids != [t.id for t in second.transcripts] or references != [
            t.reference for t in second.transcripts
        ]:
            logging.warning(
                "%s and %s were decoded on different versions of %s: not compared",
                experiment.name,
                baseline.name,
                key[0],
            )
            continue
        blocks = speakers(ids) if by_speaker else None
        ours_spelled, theirs_spelled = (score(spelled(s.transcripts)) for s in (first, second))
        compared.append(
            Comparison(
                result, _rates(first, second, blocks), _rates(ours_spelled, theirs_spelled, blocks)
            )
        )
    return sorted(compared, key=lambda found: (found.result["set"], found.result["method"]))


def _rates(ours: Score, theirs: Score, blocks: Sequence[str] | None) -> Rates:
    difference = wer_difference(ours.utterances, theirs.utterances, blocks=blocks)
    return Rates(ours.total.wer, difference)


def read_experiment(folder: Path) -> Experiment:
    """One folder with a `config.yaml`.

    Raises:
        UserError: a file is missing or damaged.
    """
    results = []
    for path in folder.glob("*/result-*.json"):
        needs = ("set", "method", "suffix", "time", "wer")
        result = read_json(path, needs=needs, remedy="delete it", step="decoding")
        results.append({**result, "path": path})
    results.sort(key=lambda result: (result["set"], result["method"], result["suffix"]))
    environment = folder / "environment.json"
    config = _read_config(folder / "config.yaml")
    distillation = read_distillation(folder)
    sections = (config.get("distillation") or {}).values()
    taught = any(isinstance(section, dict) and section.get("weight") for section in sections)
    for name, missing in (
        ("environment.json", not environment.is_file()),
        ("distillation.json", taught and not distillation),
    ):
        if missing:
            logging.warning("%s is missing: its facts are not known", folder / name)
    return Experiment(
        name=folder.name,
        folder=folder,
        results=results,
        starts=read_json_list(environment) if environment.is_file() else [],
        metrics=read_log(folder / "log" / "metrics.jsonl"),
        config=config,
        distillation=distillation,
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(read_commented(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {error}", remedy="put a copy of it back") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} has no values", remedy="put a copy of it back")
    return config


def by_time(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results in the order in which they were decoded."""
    return sorted(results, key=lambda result: result["time"])


def _recogs(result: dict[str, Any]) -> Path:
    path: Path = result["path"]
    recogs = path.with_name(f"recogs{path.stem.removeprefix('result')}.txt")
    known = result.get("recogs_sha256")  # not of earlier versions
    if known and recogs.is_file() and file_digest(recogs) != known:
        raise UserError(
            f"{recogs} is damaged: it is not what {path.name} is of",
            remedy=f"delete {path}",
            step="decoding",
        )
    return recogs
