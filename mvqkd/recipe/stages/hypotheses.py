"""Stage 8: what a teacher that writes text makes of all training audio."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.data.loading.labelled import SPEED
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.data.targets.hypothesis_records import (
    TextLimits,
    UtteranceHypotheses,
    Written,
    collect,
)
from mvqkd.data.targets.hypothesis_store import (
    ENDING,
    HypothesesInfo,
    HypothesesWriter,
    HypothesisStore,
)
from mvqkd.data.targets.spoken_text import SpokenText
from mvqkd.errors import UserError
from mvqkd.evaluation.wer import align
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.recipe.hypothesis_distillation import spoken_text, text_limits
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.stages.embeddings import TeacherPass
from mvqkd.runtime.shards import Tick, divide_splits, prepare_folder, process_shards, worker
from mvqkd.storage.files import file_digest
from mvqkd.teachers.audio import audio_batches
from mvqkd.teachers.transcribers import Transcriber, Transcription, load_transcriber

_TOO_LONG = "too long for the teacher"
_PROBE = 4  # utterances that the time is estimated from


def dump_for_experiment(inputs: ExperimentInputs, how: TeacherPass) -> None:
    """The texts that an experiment is trained on.

    Raises:
        UserError: no such teacher, or audio that cannot be read.
    """
    section = inputs.config.distillation.hypotheses
    if not section.weight or section.targets:
        logging.info("no hypotheses are dumped")
        return
    dump_hypotheses(
        inputs.cuts("train", "unlabelled"),
        inputs.teacher(section),
        inputs.hypotheses,
        lang_dir=inputs.lang(),
        beam_size=section.beam_size,
        normalize=spoken_text(section),
        limits=text_limits(section),
        how=how,
    )


def dump_hypotheses(
    cuts_paths: Sequence[Path],
    teacher_uri: str,
    output: Path,
    *,
    lang_dir: Path,
    beam_size: int,
    normalize: SpokenText,
    limits: TextLimits,
    how: TeacherPass,
) -> None:
    """Write `<output>/hypotheses-<split>-<k>-of-<n>.jsonl.gz`, and verify them all.

    Speed-perturbed copies are left to their originals: what is said is the same. Shards that are
    there are kept. Under torchrun every process makes a share of them, and the first returns when
    all are there.

    Args:
        cuts_paths: manifests of cuts with audio; transcripts serve to measure word errors alone.
        teacher_uri: see `mvqkd.teachers.transcribers`.
        output: folder.
        lang_dir: tokens of the student.
        beam_size: of the teacher's search.
        normalize: from the teacher's texts to transcripts.
        limits: of what is taken for a transcript.
        how: how the teacher runs over audio.

    Raises:
        UserError: no such teacher, audio that cannot be read, or texts of another run in the
            folder.
    """
    rank, size, device = worker()
    tokenizer = Tokenizer.load(lang_dir)
    cuts = AudioCuts(cuts_paths)
    seconds = cuts.num_samples / SAMPLE_RATE
    known = set(cuts.ids)
    originals = {
        name: [number for number in numbers if _is_original(cuts.ids[number], known)]
        for name, numbers in cuts.splits.items()
    }
    transcriber = load_transcriber(teacher_uri, beam_size=beam_size, device=device)
    info = HypothesesInfo(
        teacher=teacher_uri,
        search={**transcriber.settings, "precision": how.precision},
        normalization=normalize.describe(),
        limits=asdict(limits),
        tokenizer=file_digest(lang_dir / "bpe.model"),
    )
    shards, names = divide_splits(originals, seconds, how.shard_hours)
    paths = prepare_folder(output, [f"hypotheses-{name}" for name in names], ENDING)
    passes = _Pass(transcriber, cuts, how, device)
    missing = [n for index, shard in enumerate(shards) if not paths[index].is_file() for n in shard]
    if rank == 0 and missing:
        _announce(passes, missing, seconds, teacher_uri, output, size)

    def check(shard: int) -> None:
        store = HypothesisStore(paths[shard])
        if not store.info.same_texts(info):
            raise UserError(
                f"{store.path} is of another run: {store.info}, not {info}",
                remedy=f"move {output} away, or name another folder",
                parameters=("output",),
            )
        store.verify(cuts.ids[number] for number in shards[shard])

    def make(shard: int, tick: Tick) -> None:
        found: dict[int, UtteranceHypotheses] = {}
        for number, transcription in passes(shards[shard]):
            collected = _collect(cuts, number, transcription, normalize, limits)
            for hypothesis in collected.hypotheses:
                hypothesis.tokens = tokenizer.encode(hypothesis.text)
            found[number] = collected
            tick(number)
        with HypothesesWriter(paths[shard], info) as writer:
            for number in shards[shard]:
                writer.write(found[number])

    process_shards(shards, seconds, files=lambda shard: [paths[shard]], check=check, make=make)
    if rank == 0:
        store = HypothesisStore(output)
        wanted = [cuts.ids[number] for shard in shards for number in shard]
        for line in summarize(store.verify(wanted), tokenizer):
            logging.info("%s", line)
        logging.info("%s: %d utterances, verified", output, len(wanted))


def summarize(utterances: Sequence[UtteranceHypotheses], tokenizer: Tokenizer) -> Iterator[str]:
    """Lines on stored hypotheses: how many, what was left out, word errors, unknown characters."""
    kept = [utterance for utterance in utterances if utterance.hypotheses]
    count = sum(len(utterance.hypotheses) for utterance in kept)
    yield (
        f"{len(kept)} of {len(utterances)} utterances have hypotheses, "
        f"{count / max(1, len(kept)):.2f} each"
    )
    reasons = Counter(item["reason"] for utterance in utterances for item in utterance.left_out)
    if reasons:
        yield "left out: " + ", ".join(f"{name} {num}" for name, num in reasons.most_common())
    judged = [utterance for utterance in kept if utterance.words is not None]
    if words := sum(utterance.words or 0 for utterance in judged):
        first = sum(utterance.hypotheses[0].errors or 0 for utterance in judged)
        best = sum(min(h.errors or 0 for h in utterance.hypotheses) for utterance in judged)
        yield (
            f"word error rate of the first {100 * first / words:.2f} %, of the best "
            f"{100 * best / words:.2f} %, on {len(judged)} utterances with transcripts"
        )
    unknown = Counter(
        character
        for utterance in kept
        for hypothesis in utterance.hypotheses
        for character in tokenizer.unknown(hypothesis.text)
    )
    if unknown:
        named = ", ".join(f"{name!r} {num}" for name, num in unknown.most_common(20))
        yield f"characters that the tokenizer does not know, in so many hypotheses: {named}"


class _Pass:
    """The teacher over the audio of cuts."""

    def __init__(
        self, transcriber: Transcriber, cuts: AudioCuts, how: TeacherPass, device: torch.device
    ) -> None:
        self.transcriber = transcriber
        self._cuts = cuts
        self._how = how
        self._device = device

    def __call__(self, numbers: Iterable[int]) -> Iterator[tuple[int, Transcription | None]]:
        """(number of the cut, what the teacher writes); None: it is too long for the teacher."""
        limit = self.transcriber.max_seconds * SAMPLE_RATE
        short = []
        for number in numbers:
            if self._cuts.num_samples[number] > limit:
                yield number, None
            else:
                short.append(number)
        dtype = getattr(torch, self._how.precision)
        for batch in audio_batches(
            self._cuts,
            short,
            max_duration=self._how.max_duration,
            num_workers=self._how.num_workers,
        ):
            with torch.autocast(
                self._device.type, dtype=dtype, enabled=self._how.precision != "float32"
            ):
                found = self.transcriber(
                    batch.waveforms.to(self._device), batch.lens.to(self._device)
                )
            yield from zip(batch.numbers, found, strict=True)


def _is_original(utterance: str, known: set[str]) -> bool:
    original = SPEED.sub("", utterance)
    return original == utterance or original not in known


def _announce(
    passes: _Pass,
    missing: Sequence[int],
    seconds: NDArray[np.float64],
    teacher: str,
    output: Path,
    processes: int,
) -> None:
    """Log what is about to be done, and how long it will take."""
    hours = seconds[list(missing)].sum() / 3600
    logging.info(
        "%d utterances, %.2f h, to be transcribed by %s (%.0f M parameters) into %s",
        len(missing),
        hours,
        teacher,
        passes.transcriber.num_parameters / 1e6,
        output,
    )
    ordered = sorted(missing, key=lambda number: float(seconds[number]))
    middle = ordered[len(ordered) // 2 :][:_PROBE]
    list(passes(middle[:1]))  # whatever is done once
    begin = time.monotonic()
    list(passes(middle))
    speed = float(seconds[middle].sum()) / (time.monotonic() - begin)
    logging.info(
        "at %.1f x real time, as %d utterances took, %.2f hours in %d processes",
        speed,
        len(middle),
        hours / speed / processes,
        processes,
    )


def _collect(
    cuts: AudioCuts,
    number: int,
    transcription: Transcription | None,
    normalize: SpokenText,
    limits: TextLimits,
) -> UtteranceHypotheses:
    seconds = float(cuts.num_samples[number]) / SAMPLE_RATE
    if transcription is None:
        left_out = [{"text": "", "reason": _TOO_LONG}]
        return UtteranceHypotheses(cuts.ids[number], seconds, [], left_out)
    collected = collect(
        cuts.ids[number],
        seconds,
        [Written(h.text, h.log_prob, h.length, h.finished) for h in transcription.hypotheses],
        normalize=normalize,
        limits=limits,
        no_speech=transcription.no_speech,
    )
    if truth := normalize(cuts.text(number)).split():
        collected.words = len(truth)
        for hypothesis in collected.hypotheses:
            pairs = align(truth, hypothesis.text.split())
            hypothesis.errors = sum(said != written for said, written in pairs)
    return collected


__all__ = ["dump_for_experiment", "dump_hypotheses", "summarize"]
