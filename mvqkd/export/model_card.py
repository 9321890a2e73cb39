"""The README.md of a model folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mvqkd.evaluation.gather import Experiment, interval_of
from mvqkd.evaluation.report import markdown_table
from mvqkd.export.files import Written

_LICENCES = {
    "librispeech": "LibriSpeech (CC BY 4.0, https://www.openslr.org/12)",
    "musan": "MUSAN noises (https://www.openslr.org/17)",
}
_NO_LICENCE = (
    "The owner of this model has not named a licence yet. The licences of the data and of the "
    "teacher bear on it."
)


class Folder(NamedTuple):
    """What is in a model folder; paths are relative to it."""

    tokens: str
    """`tokens.txt`."""
    waves: Sequence[str]
    split: str
    """That int8 files were measured on."""


def model_card(
    experiment: Experiment,
    written: Sequence[Written],
    folder: Folder,
    *,
    results: Sequence[dict[str, Any]],
    licence: str,
    data: dict[str, Any],
) -> str:
    """Markdown, with the header that the Hugging Face Hub reads.

    Args:
        experiment: that the model is of.
        written: its exported files.
        folder: what is beside them.
        results: of `experiment.results`, those that are of the exported weights.
        licence: of the model; empty: the card says that none is given.
        data: `data.json` of the training.
    """
    header = ["---"]
    if licence:
        header.append(f"license: {licence}")
    header += ["library_name: mvqkd", "pipeline_tag: automatic-speech-recognition"]
    header += ["tags:", *(f"- {tag}" for tag in _tags(written)), "---"]
    parts = [
        "\n".join(header),
        f"# {experiment.name}",
        experiment.config.get("description") or "",
        _sizes(experiment),
        "## Word error rates",
        _error_rates(results),
        *(["## Files", _files(written, folder)] if written else []),
        "## Use",
        *(_use(item, folder) for item in written if item.precision == "float32"),
        "With `mvqkd`, in the folder of this model:",
        f"```bash\npython -m mvqkd transcribe . {_wave(folder)}\n```",
        '```python\nimport mvqkd\n\nrecognizer = mvqkd.Recognizer.load(".")\n'
        f'print(recognizer.transcribe(["{_wave(folder)}"]))\n```',
        "## Training",
        _training(experiment, data),
        "## Licence",
        f"This model: {licence}." if licence else _NO_LICENCE,
        _sources(experiment, data),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tags(written: Sequence[Written]) -> list[str]:
    heads = sorted({item.target.head for item in written})
    streaming = ["streaming"] if any(item.target.streaming for item in written) else []
    onnx = ["sherpa-onnx", "onnx", "conformer"] if written else []
    return [*onnx, "knowledge-distillation", *heads, *streaming]


def _sizes(experiment: Experiment) -> str:
    model = experiment.config.get("model", {})
    count = experiment.parameters
    of = f", {count / 1e6:.2f} M parameters" if count else ""
    layers = f"{model.get('num_layers')} layers of width {model.get('dim')}"
    text = f"An encoder of {layers}{of}."
    if model.get("chunk_size"):
        chunk = model["chunk_size"][0] * 40
        text += f" It streams in chunks of {chunk} ms." if chunk > 0 else " It streams."
    return text


def _error_rates(results: Sequence[dict[str, Any]]) -> str:
    if not results:
        return "These weights have not been decoded."
    rows = []
    for result in results:
        interval = interval_of(result, by_speaker=False)
        bounds = f"{interval[0]:.2f} – {interval[1]:.2f}" if interval else ""
        wer = "" if result["wer"] is None else f"{result['wer']:.2f}"
        rows.append([result["set"], f"{result['method']} ({result['suffix']})", wer, bounds])
    commands = sorted({result["command"] for result in results if "command" in result})
    table = markdown_table(["set", "decoding", "WER %", "95 %"], rows)
    return f"{table}\n```\n" + "\n".join(commands) + "\n```"


def _files(written: Sequence[Written], folder: Folder) -> str:
    rows = []
    for item in written:
        size = sum(path.stat().st_size for path in item.files.values()) / 2**20
        wer = f"{item.counts.wer:.2f}" if item.counts else ""
        precision = item.precision
        if item.kept:
            precision += f", but {' '.join(item.kept)} in float32"
        rows.append([", ".join(f"`exp/{path.name}`" for path in item.files.values())])
        rows[-1] += [f"`{item.target.recognizer}`", precision, f"{size:.1f}", wer]
    header = ["files", "recognizer", "precision", "MB", f"WER % on {folder.split}"]
    note = (
        "The last column is of greedy search with these files in onnxruntime. An offline "
        "recognizer does not take streaming files, nor a streaming one offline files."
    )
    return f"{markdown_table(header, rows)}\n{note}"


def _use(item: Written, folder: Folder) -> str:
    files = {name: f"exp/{path.name}" for name, path in item.files.items()}
    arguments = (files, folder.tokens, _wave(folder))
    return (
        f"The {item.target.name}, with sherpa-onnx (`pip install sherpa-onnx soundfile`):\n\n"
        f"```python\n{item.target.program(*arguments)}\n```\n\n"
        f"or with its program\n\n```\n{item.target.command(*arguments)}\n```"
    )


def _wave(folder: Folder) -> str:
    return folder.waves[0] if folder.waves else "speech.wav"


def _training(experiment: Experiment, data: dict[str, Any]) -> str:
    lines = [f"- data: {', '.join(data.get('train', [])) or 'not known'}"]
    if data.get("unlabelled"):
        lines.append(f"- without transcripts: {', '.join(data['unlabelled'])}")
    if hours := experiment.config.get("data", {}).get("labelled_hours"):
        lines.append(f"- transcripts of {hours:g} hours of it")
    for loss, facts in experiment.distillation.items():
        layer = f", layer {facts['layer']}" if "layer" in facts else ""
        lines.append(f"- distillation ({loss}) of {facts.get('teacher', 'a teacher')}{layer}")
    if not experiment.distillation:
        lines.append("- no teacher")
    if experiment.steps and experiment.training_hours is not None:
        lines.append(
            f"- {experiment.steps} steps, {experiment.audio_hours:.1f} hours of audio over all "
            f"epochs, {experiment.training_hours:.1f} hours of training"
        )
    for start in experiment.starts[-1:]:
        lines.append(f"- `{start['command']}`, commit {start.get('commit') or 'not known'}")
    return "\n".join([*lines, "- every value: `exp/config.yaml`"])


def _sources(experiment: Experiment, data: dict[str, Any]) -> str:
    names = " ".join([*data.get("train", []), *data.get("unlabelled", [])]).lower()
    if experiment.config.get("data", {}).get("musan_probability"):
        names += " musan"
    lines = [f"- {text}" for name, text in _LICENCES.items() if name in names]
    teachers = {str(facts.get("teacher")) for facts in experiment.distillation.values()}
    lines += [f"- teacher {teacher}: see its licence" for teacher in sorted(teachers)]
    return "\n".join(lines)


def results_of(experiment: Experiment, *, epoch: int, avg: int) -> list[dict[str, Any]]:
    """Results that are of the average over `avg` epochs up to `epoch`."""
    return [
        result
        for result in experiment.results
        if (settings := result.get("settings", {})).get("epoch") == epoch
        and settings.get("avg") == avg
    ]


def decoding_files(result: dict[str, Any]) -> list[Path]:
    """`recogs`, `errs` and `wer-summary` of a result."""
    path = Path(result["path"])
    names = (path.name.replace("result", kind, 1) for kind in ("recogs", "errs", "wer-summary"))
    files = [path.with_name(name).with_suffix(".txt") for name in names]
    return [file for file in files if file.is_file()]
