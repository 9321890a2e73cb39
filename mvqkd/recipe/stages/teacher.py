"""Stage 4: the recipe's own teacher is trained; another one is checked before hours of
extraction."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mvqkd.checkpoints.files import PRETRAINED
from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.data.targets.teacher_frames import require_ratio
from mvqkd.errors import UserError
from mvqkd.evaluation.wer import Transcript, log_line, score
from mvqkd.features.fbank import extract
from mvqkd.geometry import FEATURE_RATE, SAMPLE_RATE
from mvqkd.recipe.config.load import load_config
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.stages.train import train_experiment
from mvqkd.recipe.teacher_files import own_experiment
from mvqkd.runtime.shards import worker
from mvqkd.storage.files import write_text
from mvqkd.teachers import load_teacher
from mvqkd.teachers.audio import embed
from mvqkd.teachers.ctc_probe import probe
from mvqkd.teachers.interface import Teacher

Utterances = list[tuple[Tensor, str]]
"""Frames (T, D) and transcript of each."""


@dataclass(frozen=True)
class TeacherCheck:
    """How a teacher is checked."""

    num_train: int = 200
    """Utterances that the probes are trained on."""
    num_test: int = 50
    """Utterances, of other speakers, that they are tested on."""
    steps: int = 400
    """Of training a probe."""
    seed: int = 0
    """Of the choice of utterances and of the probes."""
    max_duration: float = 100.0
    """Seconds in a batch."""


def prepare_teachers(
    inputs: ExperimentInputs, conf_dir: Path, *, vocab_size: int | None = None
) -> bool:
    """Train the teachers of an experiment that are experiments of the same recipe; check the
    others.

    Args:
        inputs: the experiment and its data.
        conf_dir: folder of the recipe's YAML files, for those of own teachers.
        vocab_size: of the tokens of own teachers; None: those that were prepared last.

    Returns:
        Whether the end is reached; False if a signal stopped a training after a checkpoint.

    Raises:
        UserError: no such teacher, or it cannot be trained or checked.
    """
    for name in dict.fromkeys(map(own_experiment, inputs.sections.values())):
        config, exp_dir = conf_dir / f"{name}.yaml", inputs.experiments / name
        # A variant is trained by the command that named it, and has no file of its own.
        if not name or (not config.is_file() and (exp_dir / PRETRAINED).is_file()):
            continue
        teacher = replace(inputs, loaded=load_config(config))
        if not train_experiment(teacher, exp_dir, vocab_size=vocab_size):
            return False
    check_for_experiment(inputs)
    return True


def check_for_experiment(inputs: ExperimentInputs) -> None:
    """Check the teachers of an experiment that are no experiments of the same recipe, each once.

    Raises:
        UserError: no such teacher, or no utterances with transcripts.
    """
    rank, _, _ = worker()
    for name, loss in inputs.frame_losses.items():
        if own_experiment(loss) or loss.targets or rank:
            continue
        files = inputs.teacher_files(loss)
        if files.check.is_file():
            logging.info("%s: %s was checked before: %s", name, files.teacher, files.check)
            continue
        page = check_teacher(
            files.teacher, [loss.teacher_layer], inputs.cuts("train"), inputs.cuts("dev")
        )
        print(page, end="")
        write_text(files.check, page)


def check_teacher(
    uri: str,
    layers: Sequence[int] | None,
    train_cuts: Sequence[Path],
    test_cuts: Sequence[Path],
    how: TeacherCheck | None = None,
) -> str:
    """A table of how much of the speech each layer of a teacher represents.

    A teacher that was fine-tuned with CTC transcribes the test cuts: a word error rate far from the
    published one means wrong audio, wrong normalization, or another language. Of every teacher, a
    linear layer is trained with CTC to find characters in the embeddings of each layer, and in
    filterbanks: the lower the character error rate on the test cuts, the more of what was said is
    there to distil.

    Args:
        uri: see `mvqkd.teachers.load`.
        layers: 1-based; None: four, evenly spaced. The last is always among them.
        train_cuts: manifests, with transcripts.
        test_cuts: of other speakers.
        how: sizes.

    Returns:
        Markdown.

    Raises:
        UserError: no such teacher or layer, a frame rate that no student can match, or no
            utterances with transcripts.
    """
    how = how or TeacherCheck()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lowest = load_teacher(uri, [0])
    # Refused here, and not when a training begins.
    require_ratio(lowest.frame_rate)
    num_layers = lowest.num_layers
    quarters = sorted({max(1, round(num_layers * quarter / 4)) for quarter in (1, 2, 3, 4)})
    wanted = sorted(set(layers or quarters) | {num_layers})
    teacher = load_teacher(uri, wanted, device=device)
    lines = [f"`{uri}`: {num_layers} layers, {teacher.dim} dimensions", ""]
    train = _choose("train", train_cuts, how.num_train, how.seed)
    test = _choose("test", test_cuts, how.num_test, how.seed)
    found, _ = _embed(teacher, *train, wanted, device, how, transcribe=False)
    tested, transcripts = _embed(teacher, *test, wanted, device, how, transcribe=True)
    if transcripts:
        lines += [log_line("test-ctc_greedy_search", score(transcripts).total), ""]
    lines += [
        f"Linear CTC probes trained on {len(train[1])} utterances, {how.steps} steps, tested on "
        f"{len(test[1])}.",
        "",
        "| features | dimensions | frames a second | CER % | nats a character |",
        "|---|---|---|---|---|",
    ]
    candidates = [("fbank, two frames", FEATURE_RATE / 2, stacked(*train), stacked(*test))]
    candidates += [
        (f"layer {layer}", teacher.frame_rate, found[layer], tested[layer]) for layer in wanted
    ]
    for name, rate, train_x, test_x in candidates:
        result = probe(train_x, test_x, steps=how.steps, seed=how.seed, device=device)
        dim = train_x[0][0].shape[1]
        lines.append(
            f"| {name} | {dim} | {rate:g} | {result.characters.wer:.1f} | {result.loss:.2f} |"
        )
        logging.info("%s: CER %.1f %%", name, result.characters.wer)
        if result.too_short:
            logging.warning(
                "%s: %d of the %d utterances have more characters than frames: the nats are of the "
                "others",
                name,
                result.too_short,
                len(test_x),
            )
    return "\n".join(lines) + "\n"


def stacked(cuts: AudioCuts, numbers: Sequence[int]) -> Utterances:
    """Filterbank features, two frames of 10 ms side by side."""
    pairs = []
    for number in numbers:
        features = torch.from_numpy(extract(cuts.samples(number)))
        even = features[: len(features) // 2 * 2]
        pairs.append((even.reshape(-1, 2 * features.shape[1]), cuts.text(number)))
    return pairs


def _choose(name: str, paths: Sequence[Path], count: int, seed: int) -> tuple[AudioCuts, list[int]]:
    """Cuts, and the numbers of some that have transcripts."""
    cuts = AudioCuts(paths)
    numbers = [number for number in cuts.sample(count, seed) if cuts.text(number)]
    if not numbers:
        raise UserError(f"{paths[0]} has no transcripts", remedy="give cuts with transcripts")
    seconds = cuts.num_samples[numbers].sum() / SAMPLE_RATE
    logging.info("%s: %d utterances, %.0f s", name, len(numbers), seconds)
    return cuts, numbers


def _embed(
    teacher: Teacher,
    cuts: AudioCuts,
    numbers: list[int],
    layers: Sequence[int],
    device: torch.device,
    how: TeacherCheck,
    *,
    transcribe: bool,
) -> tuple[dict[int, Utterances], list[Transcript]]:
    """By layer, embeddings and transcripts; and what the teacher itself recognizes, if it can."""
    found: dict[int, Utterances] = {layer: [] for layer in layers}
    transcripts = []
    for number, embeddings in embed(
        teacher, cuts, numbers, device=device, max_duration=how.max_duration
    ):
        text = cuts.text(number)
        for layer, x in embeddings.items():
            found[layer].append((_kept(x, cuts.ids[number]), text))
        if transcribe and teacher.ctc is not None:
            x = embeddings[teacher.num_layers][None]
            with torch.inference_mode():
                hypothesis = teacher.ctc.decode(x, torch.tensor([x.shape[1]]))[0]
            transcripts.append(
                Transcript(cuts.ids[number], text.upper().split(), hypothesis.upper().split())
            )
    return found, transcripts


def _kept(x: Tensor, utterance: str) -> Tensor:
    """Embeddings on the CPU, in two bytes a number where they fit."""
    if not x.isfinite().all():
        raise UserError(
            f"utterance {utterance}: the teacher's embeddings have NaN or infinity",
            remedy="check its audio, and the teacher's weights",
        )
    half = x.half()
    return (half if half.isfinite().all() else x).cpu()
