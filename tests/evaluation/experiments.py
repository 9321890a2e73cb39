"""Folders of experiments with results that are made up."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from mvqkd.evaluation.bootstrap import speakers, wer_interval
from mvqkd.evaluation.result_files import write_recogs
from mvqkd.evaluation.wer import Transcript, score, spelled


def write_experiment(root: Path, name: str, wrong: int, parameters: int) -> None:
    """An experiment in which the first `wrong` of 40 utterances miss one of their four words."""
    folder = root / name
    (folder / "log").mkdir(parents=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"description": f"about {name}", "training": {"seed": 7}})
    )
    start = {
        "time": "2026-01-02T00:00:00+00:00",
        "command": f"local/train.py --exp-dir {name}",
        "commit": "0123456789abcdef",
        "dirty": True,
        "cpu": "some CPU",
        "cores": 2,
        "gpus": [],
    }
    (folder / "environment.json").write_text(json.dumps([start]))
    lines = [
        {
            "kind": kind,
            "step": step,
            "epoch": step // 10,
            "loss": 10.0 / step,
            "learning_rate": 1e-3,
            "audio_hours": step * 0.5,
            "elapsed": step * 36.0,
        }
        for step in (10, 20, 30)
        for kind in ("train", "valid")
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "log" / "metrics.jsonl").write_text(text + '{"kind": "tr')  # killed while writing
    words = ["one", "two", "three", "four"]
    for method in ("greedy_search", "modified_beam_search"):
        (folder / method).mkdir()
        scored = score(
            Transcript(f"{n // 10}-1-{n:04d}", words, words[n < wrong :]) for n in range(40)
        )
        ids = [transcript.id for transcript in scored.transcripts]
        write_recogs(folder / method / "recogs-test-epoch-3-avg-1.txt", scored.transcripts)
        result = {
            "set": "test",
            "method": method,
            "suffix": "epoch-3-avg-1",
            "utterances": 40,
            "left_out": {"longer than 40 s": 2},
            "wer": scored.total.wer,
            "interval": list(wer_interval(scored.utterances)),
            "interval_by_speaker": list(wer_interval(scored.utterances, blocks=speakers(ids))),
            "cer": score(spelled(scored.transcripts)).total.wer,
            "rtf": 0.0123,
            "parameters": parameters,
            "device": "cpu",
            "threads": 2,
            "command": f"local/decode.py --exp-dir {name}",
            "time": "2026-01-03T00:00:00+00:00",
        }
        (folder / method / "result-test-epoch-3-avg-1.json").write_text(json.dumps(result))
