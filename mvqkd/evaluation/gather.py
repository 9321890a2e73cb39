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
from mvqkd.geometry import ENCODER_RATE
from mvqkd.storage.files import file_digest, read_commented, read_json, read_json_list
from mvqkd.storage.jsonl import read_log


@dataclass
class Experiment:
    """One folder `exp/<recipe>/<name>`."""

    name: str
    folder: Path
    results: list[dict[str, Any]]
    """Contents of `<method>/result-*.json`, each with its `path`; sorted by set, method, chunk size
    and suffix. Stage 11 adds `delays`, see `mvqkd.evaluation.delays`."""
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
    other: dict[str, Any]
    """The baseline's."""
    words: Rates
    characters: Rates


def read_experiments(root: Path) -> list[Experiment]:
    """Every folder of `root` with a `config.yaml`, the smallest student first.

    Raises:
        UserError: a file is damaged or missing.
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
    """Paired bootstrap of each result of an experiment against the baseline's of the same set,
    method and chunk size, the last decoded where there are several. Students with full context are
    compared with streaming ones, too."""
    compared = []
    for result in last_decoded(experiment):
        other = _counterpart(result, baseline)
        if other is None:
            continue
        first, second = (score(read_recogs(_recogs(r))) for r in (result, other))
        ids = [transcript.id for transcript in first.transcripts]
        references = [transcript.reference for transcript in first.transcripts]
        if ids != [t.id for t in second.transcripts] or references != [
            t.reference for t in second.transcripts
        ]:
            logging.warning(
                "%s and %s were decoded on different versions of %s: not compared",
                experiment.name,
                baseline.name,
                result["set"],
            )
            continue
        blocks = speakers(ids) if by_speaker else None
        ours_spelled, theirs_spelled = (score(spelled(s.transcripts)) for s in (first, second))
        compared.append(
            Comparison(
                result,
                other,
                _rates(first, second, blocks),
                _rates(ours_spelled, theirs_spelled, blocks),
            )
        )
    return compared


def _rates(ours: Score, theirs: Score, blocks: Sequence[str] | None) -> Rates:
    difference = wer_difference(ours.utterances, theirs.utterances, blocks=blocks)
    return Rates(ours.total.wer, difference)


def read_experiment(folder: Path) -> Experiment:
    """What an experiment came to.

    Raises:
        UserError: a file is damaged or missing.
    """
    results = []
    for path in folder.glob("*/result-*.json"):
        needs = ("set", "method", "suffix", "time", "wer")
        result = read_json(path, needs=needs, remedy="delete it", step="decoding")
        results.append({**result, "path": path})
    for recogs in folder.glob("*/recogs-*.txt"):
        if not (path := _result(recogs)).is_file():
            raise UserError(
                f"{path} is missing, the result that {recogs.name} is of", step="decoding"
            )
    results.sort(key=_order)
    environment = folder / "environment.json"
    config = _read_config(folder / "config.yaml")
    distillation = read_distillation(folder)
    sections = (config.get("distillation") or {}).values()
    taught = any(isinstance(section, dict) and section.get("weight") for section in sections)
    for name, missing in (
        ("environment.json", not environment.is_file()),
        ("distillation.json", taught and not distillation),
    ):
        if missing and results:
            raise UserError(
                f"{folder / name} is missing, which a training writes when it starts",
                step="training",
            )
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


def chunk_of(result: dict[str, Any]) -> int:
    """Chunk size of the decoding, in frames of 40 ms; 0: full context."""
    return result.get("settings", {}).get("chunk_size") or 0


def context_of(result: dict[str, Any]) -> str:
    """`160 ms` of chunks, or `full context`."""
    chunk = chunk_of(result)
    return f"{1000 * chunk / ENCODER_RATE:.0f} ms" if chunk else "full context"


def way_of(result: dict[str, Any]) -> str:
    """How it was decoded, in words: the search, and where it streams, chunks."""
    if not chunk_of(result):
        return str(result["method"])
    states = " with states" if result["settings"].get("chunked") else ""
    return f"{result['method']}, {context_of(result)}{states}"


def last_decoded(experiment: Experiment) -> list[dict[str, Any]]:
    """The last result of each set, method and chunk size, sorted by these."""
    last = {_order(result)[:3]: result for result in by_time(experiment.results)}
    return [last[key] for key in sorted(last)]


def at_own_chunk(experiment: Experiment) -> dict[tuple[str, str], dict[str, Any]]:
    """By set and method the last result with a chunk size of the training or full context, or if
    there is none, the last."""
    sizes = (experiment.config.get("model") or {}).get("chunk_size") or []
    trained = next((size for size in sizes if size > 0), 0)
    results = by_time(experiment.results)
    results.sort(key=lambda result: chunk_of(result) in (0, trained))
    return {(result["set"], result["method"]): result for result in results}


def _counterpart(result: dict[str, Any], baseline: Experiment) -> dict[str, Any] | None:
    """The baseline's result that a result is compared with."""
    place = result["set"], result["method"]
    for theirs in last_decoded(baseline):
        if (theirs["set"], theirs["method"], chunk_of(theirs)) == (*place, chunk_of(result)):
            return theirs
    usual = at_own_chunk(baseline).get(place)
    return usual if usual and not (chunk_of(usual) and chunk_of(result)) else None


def _order(result: dict[str, Any]) -> tuple[str, str, int, str]:
    return result["set"], result["method"], chunk_of(result), result["suffix"]


def _result(recogs: Path) -> Path:
    return recogs.with_name(f"result{recogs.stem.removeprefix('recogs')}.json")


def _recogs(result: dict[str, Any]) -> Path:
    return file_of(result, "recogs", ".txt")


def file_of(result: dict[str, Any], kind: str, ending: str) -> Path:
    """A file that was written with a result: `recogs` or `times`.

    Raises:
        UserError: it is another than was written.
    """
    path: Path = result["path"]
    found = path.with_name(f"{kind}{path.stem.removeprefix('result')}{ending}")
    known = result.get(f"{kind}_sha256")  # not of earlier versions
    if known and found.is_file() and file_digest(found) != known:
        raise UserError(
            f"{found} is damaged: it is not what {path.name} is of",
            remedy=f"delete {path}",
            step="decoding",
        )
    return found
