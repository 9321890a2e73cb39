"""The folder of a training: what it was made with, and whether it can go on."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mvqkd.data.loading.index import open_index
from mvqkd.errors import UserError
from mvqkd.evaluation.gather import read_distillation
from mvqkd.features.kinds import kind_of_cut
from mvqkd.geometry import FEATURE_BINS, NUM_BINS, FeatureKind
from mvqkd.recipe.config.load import differences, load_config, save_config
from mvqkd.recipe.config.schema import ExperimentConfig
from mvqkd.recipe.other_data import OtherCuts
from mvqkd.recipe.program import this_command
from mvqkd.storage.files import atomic_path, read_json, read_json_list, write_json
from mvqkd.storage.jsonl import read_items

_PACKAGES = ("mvqkd", "torch", "torchaudio", "lhotse", "k2", "numba", "numpy", "sentencepiece")

_CONFIG = "config.yaml"
_DATA = "data.json"
_PRETRAINED = "pretrained.pt"

# Fields that change neither the weights nor what the files of the folder mean.
_NEUTRAL = (
    "description",
    "decoding.",
    "export.",
    "data.extra_dev:",
    "data.num_workers",
    "training.log_interval",
    "training.valid_interval",
    "training.save_interval",
    "training.keep_checkpoints",
    "training.keep_epochs",
    "training.max_nonfinite",
)
# Fields that may change between runs of one training, which goes on from its last checkpoint.
_MAY_CHANGE = (
    "data.batch_duration:",
    "data.batch_tokens:",
    "data.pad_multiple:",
    "data.replay:",  # data.json has what it names
    "training.precision:",
)
_ANOTHER_FOLDER = (
    "train in another folder, with run.sh: --variant NAME (--training.init begins with weights of "
    "this one)"
)
_LENGTH = "training.num_epochs:"  # may grow
_AVERAGING = ("decoding.epoch:", "decoding.avg:", "decoding.use_averaged_model:")


def describe_data(
    train_cuts: Sequence[Path],
    dev_cuts: Sequence[Path],
    lang_dir: Path,
    unlabelled_cuts: Sequence[Path] = (),
    replayed: Sequence[OtherCuts] = (),
) -> dict[str, Any]:
    """What a training is fed with, wherever its folder lies; JSON-able.

    Raises:
        UserError: a file is missing or damaged.
    """
    cuts = [*train_cuts, *dev_cuts, *unlabelled_cuts]
    data: dict[str, Any] = {
        "train": [path.name for path in train_cuts],
        "dev": [path.name for path in dev_cuts],
        "lang": lang_dir.name,
        "bpe_model_sha256": _digest_of_tokens(lang_dir),
        "cuts": {path.name: open_index(path, lang_dir).fingerprint() for path in cuts},
        "features": features_of(cuts),
    }
    if unlabelled_cuts:
        data["unlabelled"] = [path.name for path in unlabelled_cuts]
    if replayed:
        data["replayed"] = [one.name for one in replayed]
        for one in replayed:
            index = open_index(one.path, one.checked_lang(lang_dir))
            data["cuts"][one.name] = index.fingerprint()
    return data


def features_of(cuts: Sequence[Path]) -> dict[str, Any]:
    """`kind` and `bins` of the features of manifests.

    Raises:
        UserError: a file is missing or damaged, or they have different ones.
    """
    kinds = {path: _kind_of(path) for path in cuts} or {Path(): "fbank"}
    first, *others = dict.fromkeys(kinds.values())
    if others:
        path = next(path for path, kind in kinds.items() if kind != first)
        raise UserError(
            f"{path} has {others[0]} features, {next(iter(kinds))} {first}",
            remedy="delete one of them",
            step="features",
        )
    return {"kind": first, "bins": FEATURE_BINS[first]}


def _kind_of(cuts: Path) -> FeatureKind:
    if not cuts.is_file():
        raise UserError(f"{cuts} is missing", step="features")
    return kind_of_cut(next(read_items(cuts), {}))


def check_features_of(name: str, description: Mapping[str, Any], cuts: Sequence[Path]) -> None:
    """Refuse features that a model does not receive.

    Args:
        name: of the model, for the error.
        description: of the model, as in its file of weights.
        cuts: manifests.

    Raises:
        UserError: as above.
    """
    wanted = description["model"].get("input_dim", NUM_BINS)
    found = features_of(cuts)
    if found["bins"] != wanted:
        raise UserError(
            f"{name} receives features of {wanted} bins, {cuts[0]} has {found['kind']} features "
            f"of {found['bins']}",
            remedy="give the data of its training",
            parameters=("data_dir",),
        )


def check_folder(exp_dir: Path, experiment: ExperimentConfig, data: dict[str, Any]) -> bool:
    """Whether the training in `exp_dir` is finished; writes nothing.

    Raises:
        UserError: the folder's experiment differs in a field that has to stay as it is for what the
            weights mean, or was fed with other data; or it has no checkpoint to go on from.
    """
    config_path, data_path = exp_dir / _CONFIG, exp_dir / _DATA
    if not config_path.is_file() or not has_weights(exp_dir):
        return False
    before = load_config(config_path).config
    changed = differences(before, experiment)
    free: tuple[str, ...] = (*_NEUTRAL, *_MAY_CHANGE)
    if experiment.training.num_epochs > before.training.num_epochs:
        free += (_LENGTH,)
    for name in ("codes", "embeddings", "layers", "outputs", "dual_mode", "tokens", "hypotheses"):
        sections = (getattr(x.distillation, name) for x in (before, experiment))
        if not any(section.weight for section in sections):
            free += (f"distillation.{name}.",)
    different = [line for line in changed if not line.startswith(free)]
    if data_path.is_file():
        different += _other_data(_saved_data(exp_dir), data)
    if different:
        raise UserError(
            f"{exp_dir} holds a training with another configuration:\n    "
            + "\n    ".join(different),
            remedy="train in another folder, with run.sh: --variant NAME (--training.init begins "
            f"with the weights of this one), give the values of {config_path}, make the data again "
            f"as they were, or delete {exp_dir} to begin anew",
        )
    out_of_date = any(line.startswith((*_AVERAGING, _LENGTH)) for line in changed)
    # A folder may be cleared of epochs, but not have another in place of the last.
    last = exp_dir / f"epoch-{before.training.num_epochs}.pt"
    lost = not last.is_file() and any(exp_dir.glob("epoch-*.pt"))
    if (exp_dir / _PRETRAINED).is_file() and not out_of_date:
        if not lost:
            return True
        if any(exp_dir.glob("checkpoint-*.pt")):
            return False
        raise UserError(
            f"{last} is missing, and {exp_dir} has no checkpoint-<step>.pt to make it again from",
            remedy=f"put either back; or {_ANOTHER_FOLDER}",
        )
    _refuse_lost_checkpoints(exp_dir)
    return False


def has_weights(exp_dir: Path) -> bool:
    """Whether a training left anything in its folder that another configuration would spoil; one
    that failed before its first checkpoint has not."""
    # Not what a killed process was writing, `.tmp-...`.
    return any(exp_dir.glob("[!.]*.pt"))


def _refuse_lost_checkpoints(exp_dir: Path) -> None:
    """A training without checkpoints begins anew, over the epochs that are there."""
    epochs = {path.name for path in exp_dir.glob("epoch-*.pt")}
    # The first one is written before there need be a checkpoint.
    if epochs - {"epoch-1.pt"} and not any(exp_dir.glob("checkpoint-*.pt")):
        raise UserError(
            f"{exp_dir} has {len(epochs)} epoch-N.pt, but no checkpoint-<step>.pt to go on from",
            remedy="put the newest one back; or decode these epochs, with run.sh: --stage 10; or "
            f"{_ANOTHER_FOLDER}; or delete {exp_dir} to begin anew",
        )


def _other_data(saved: dict[str, Any], data: dict[str, Any]) -> list[str]:
    """In what the data of a folder differs from that of now, a line for each difference."""
    # Trainings that began before fingerprints were kept have none, and go on.
    before, now = saved.get("cuts", {}), data.get("cuts", {})
    if "teacher" in saved:  # version 0.1.0 had one loss and one teacher
        names = list(data.get("teachers", {}))
        saved = {key: value for key, value in saved.items() if key != "teacher"} | {
            "teachers": dict.fromkeys(names[:1], saved["teacher"])
        }
    saved = {"features": {"kind": "fbank", "bins": NUM_BINS}, **saved}  # of earlier versions
    return [
        f"data ({key}): {saved.get(key)} -> {data.get(key)}"
        for key in saved | data
        if key != "cuts" and saved.get(key) != data.get(key)
    ] + [
        f"data: {name} has been made again with other utterances, speeds or transcripts"
        for name in now
        if before.get(name, now[name]) != now[name]
    ]


def check_tokens_of(exp_dir: Path, lang_dir: Path) -> None:
    """Refuse another BPE model than the one of an experiment's training, of the same size or not.

    Raises:
        UserError: as above, or the model is missing.
    """
    saved = _saved_data(exp_dir)
    digest = _digest_of_tokens(lang_dir)
    if saved.get("bpe_model_sha256", digest) != digest:
        raise UserError(
            f"{exp_dir} was trained with another BPE model than {lang_dir / 'bpe.model'}",
            remedy="give --vocab-size and --data-dir of the training; if the model was trained "
            "again since, put the old one back, or train again",
        )


def tokens_of(exp_dir: Path, lang_dir: Path) -> Path:
    """The folder with the tokens of an experiment's training: `lang_dir` if it has them; otherwise,
    as with data of another domain, the copy in `exp_dir`, if there is one."""
    here, there = exp_dir / "bpe.model", lang_dir / "bpe.model"
    if not here.is_file() or (there.is_file() and there.read_bytes() == here.read_bytes()):
        return lang_dir
    return exp_dir


def lang_name(exp_dir: Path) -> str | None:
    """Name of the folder of the tokens of an experiment's training; None if it is not known."""
    saved = _saved_data(exp_dir)
    return saved.get("lang")


def _saved_data(exp_dir: Path) -> dict[str, Any]:
    """What `describe_data` said of a folder's training; empty if it is not known."""
    path = exp_dir / _DATA
    remedy = "put a copy of it back; or delete it, if the data are still those of the training"
    return read_json(path, remedy=remedy) if path.is_file() else {}


def _digest_of_tokens(lang_dir: Path) -> str:
    """SHA-256 of a BPE model."""
    model = lang_dir / "bpe.model"
    if not model.is_file():
        raise UserError(f"{model} is missing", step="tokens")
    return hashlib.sha256(model.read_bytes()).hexdigest()


def write_folder(
    exp_dir: Path, experiment: ExperimentConfig, data: dict[str, Any], lang_dir: Path
) -> None:
    """Write `config.yaml` (every field of the experiment), `data.json`, and copies of `bpe.model`
    and `tokens.txt`, before training begins or goes on; what is not as in the run before is logged.
    """
    path = exp_dir / _CONFIG
    if path.is_file():
        for line in differences(load_config(path).config, experiment):
            logging.info("changed since the run before: %s", line)
    # It is of another length or average, and the next run would take it for finished.
    (exp_dir / _PRETRAINED).unlink(missing_ok=True)
    save_config(experiment, path)
    write_json(exp_dir / _DATA, data)
    for name in ("bpe.model", "tokens.txt"):
        if (lang_dir / name).is_file():  # tokens.txt follows from the model
            with atomic_path(exp_dir / name) as partial:
                shutil.copyfile(lang_dir / name, partial)


def write_distillation(exp_dir: Path, descriptions: dict[str, dict[str, Any]]) -> None:
    """Write `distillation.json`: the targets of each distillation loss, by its name.

    Raises:
        UserError: the folder's training began with codes of another quantizer, or other texts.
    """
    before = read_distillation(exp_dir) if has_weights(exp_dir) else {}
    for name, description in descriptions.items():
        for key, what in (
            ("quantizer_id", "codes of quantizer"),
            ("texts", "hypotheses"),
        ):
            was, now = before.get(name, description).get(key), description.get(key)
            if was != now:
                raise UserError(
                    f"{exp_dir} was trained on {what} {was}, these are of {now}",
                    remedy=f"remove {exp_dir}, or train in another folder (run.sh: --variant NAME)",
                )
    write_json(exp_dir / "distillation.json", descriptions)


def record_start(exp_dir: Path, world_size: int) -> dict[str, Any]:
    """Append this start of the training to `environment.json` and return it.

    The file is a list, oldest start first: time, command, commit (null outside of git), whether
    the working tree differed from it, versions and hardware.
    """
    import torch  # not above: checking a folder need not wait for it

    path = exp_dir / "environment.json"
    remedy = "put a copy of it back; or delete it, which tells nothing but of earlier starts"
    starts = read_json_list(path, remedy=remedy) if path.is_file() else []
    commit, dirty = code_version()
    start = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": this_command(),
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "versions": _versions(),
        "processes": world_size,
        "threads": torch.get_num_threads(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }
    write_json(path, [*starts, start])
    return start


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def code_version() -> tuple[str | None, bool | None]:
    """The commit of this checkout and whether tracked files differ; None outside of git."""
    root = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=root, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
