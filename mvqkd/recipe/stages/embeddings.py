"""Stage 5: a teacher's embeddings, of a sample of utterances or of all."""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.data.targets.embeddings import EmbeddingsInfo, EmbeddingStore, write_embeddings
from mvqkd.data.targets.store import same_source
from mvqkd.data.targets.teacher_frames import require_ratio
from mvqkd.errors import UserError
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.teacher_files import uses
from mvqkd.runtime.shards import Tick, divide, divide_splits, prepare_folder, process_shards, worker
from mvqkd.teachers import load_teacher
from mvqkd.teachers.audio import embed
from mvqkd.teachers.interface import Teacher


@dataclass(frozen=True)
class TeacherPass:
    """How a teacher runs over audio."""

    shard_hours: float
    """Hours of audio in a file."""
    max_duration: float = 100.0
    """Seconds of audio in a batch, at most."""
    precision: str = "float32"
    """`float32`, or `bfloat16` or `float16` for automatic mixed precision."""
    num_workers: int = 2
    """Processes that read audio."""

    def embed(
        self, teacher: Teacher, cuts: AudioCuts, numbers: Sequence[int], device: torch.device
    ) -> Iterator[tuple[int, dict[int, Tensor]]]:
        """`mvqkd.teachers.audio.embed` of these cuts."""
        return embed(
            teacher,
            cuts,
            numbers,
            device=device,
            max_duration=self.max_duration,
            num_workers=self.num_workers,
            precision=self.precision,
        )


def teacher_pass(options: argparse.Namespace) -> TeacherPass:
    """As the options of `mvqkd.recipe.options.add_teacher_options` say."""
    return TeacherPass(
        shard_hours=options.shard_hours,
        max_duration=options.max_duration,
        precision=options.precision,
        num_workers=options.num_workers,
    )


def extract_for_experiment(inputs: ExperimentInputs, how: TeacherPass) -> None:
    """What the losses of an experiment need of their teachers: embeddings of a sample of utterances
    with transcripts, from which a quantizer learns or the scale of embeddings is known; of all
    utterances for regression of stored embeddings.

    Raises:
        UserError: no such teacher, or audio that cannot be read.
    """
    for name, loss in inputs.frame_losses.items():
        if loss.targets:
            logging.info("%s: targets are given, nothing is extracted", name)
            continue
        files = inputs.teacher_files(loss)
        if uses(loss) == "embeddings":
            output, count = files.embeddings.parent, 0
            cuts = inputs.cuts("train", "unlabelled", "dev")
        else:
            # Not of splits without transcripts: they may be added to a quantizer and codes that are
            # there, which another sample would not fit.
            output, count = files.sample.parent, loss.quantizer.sample_utterances
            cuts = inputs.cuts("train")
        extract_embeddings(
            cuts, files.teacher, [loss.teacher_layer], output, num_utterances=count, how=how
        )


def extract_embeddings(
    cuts_paths: Sequence[Path],
    teacher_uri: str,
    layers: Sequence[int],
    output: Path,
    *,
    num_utterances: int = 1000,
    seed: int = 0,
    dtype: str = "float16",
    how: TeacherPass,
) -> None:
    """Write `<output>/layer-<i>/embeddings-<name>-<k>-of-<n>.h5`.

    Shards that are there are kept. Under torchrun every process makes a share of them, and the
    first returns when all are there.

    Args:
        cuts_paths: manifests of cuts with audio.
        teacher_uri: see `mvqkd.teachers.load`.
        layers: 1-based; 0: the input of the first.
        output: folder.
        num_utterances: random sample; 0: all.
        seed: of the sample.
        dtype: `float16` or `float32`, in the files.
        how: how the teacher runs over audio.

    Raises:
        UserError: no such teacher or layer, no room on the disk, audio that cannot be read, or
            files of another run in the folder.
    """
    rank, _, device = worker()
    cuts = AudioCuts(cuts_paths)
    numbers = cuts.sample(num_utterances, seed)
    if not numbers:
        raise UserError(f"there are no cuts in {cuts_paths[0]}", step="features")
    seconds = cuts.num_samples / SAMPLE_RATE
    layers = sorted(set(layers))
    teacher = load_teacher(teacher_uri, layers, device=device)
    # Refused here, and not when a training begins, hours of extraction later.
    require_ratio(teacher.frame_rate)
    frames = teacher.output_lens(torch.from_numpy(cuts.num_samples)).numpy()
    sampled = len(numbers) < len(cuts)
    if sampled:
        shards = divide(numbers, seconds, how.shard_hours)
        names = ["sample"] * len(shards)
    else:
        shards, names = divide_splits(cuts.splits, seconds, how.shard_hours)
    files = [f"embeddings-{name}" for name in names]
    paths = {layer: prepare_folder(output / f"layer-{layer}", files) for layer in layers}
    for of_layer in paths.values():
        _refuse_sample_beside_all(of_layer, sampled=sampled)
    infos = {
        layer: EmbeddingsInfo(
            teacher_uri, layer, teacher.frame_rate, teacher.dim, teacher.first_frame
        )
        for layer in layers
    }
    total = int(frames[numbers].sum())
    size = total * teacher.dim * np.dtype(dtype).itemsize * len(layers)
    if rank == 0:
        logging.info(
            "%d utterances, %.2f h: %d frames of %d at %g Hz, %d layers, will take %.2f GB in %s",
            len(numbers),
            seconds[numbers].sum() / 3600,
            total,
            teacher.dim,
            teacher.frame_rate,
            len(layers),
            size / 1e9,
            output,
        )
    _require_room(output, size, [path for of_layer in paths.values() for path in of_layer])

    def check(shard: int) -> None:
        wanted = {cuts.ids[number]: int(frames[number]) for number in shards[shard]}
        for layer, info in infos.items():
            store = EmbeddingStore(paths[layer][shard])
            found = {utterance: store.num_frames(utterance) for utterance in store}
            if not same_source(store.info, info) or found != wanted or store.dtype != dtype:
                raise UserError(
                    f"{store.path} is of another teacher or other utterances",
                    remedy=f"move {store.path.parent} away, or name another folder",
                    parameters=("output",),
                )

    def make(shard: int, tick: Tick) -> None:
        count = int(frames[shards[shard]].sum())
        with ExitStack() as stack:
            writers = {
                layer: stack.enter_context(
                    write_embeddings(
                        paths[layer][shard], info=info, total_frames=count, dtype=dtype
                    )
                )
                for layer, info in infos.items()
            }
            for number, embeddings in how.embed(teacher, cuts, shards[shard], device):
                for layer, x in embeddings.items():
                    writers[layer].write(cuts.ids[number], x.cpu().numpy())
                tick(number)

    process_shards(
        shards,
        seconds,
        files=lambda shard: [paths[layer][shard] for layer in layers],
        check=check,
        make=make,
    )
    if rank == 0:
        for layer in layers:
            store = EmbeddingStore(output / f"layer-{layer}")
            store.require(ids=(cuts.ids[number] for number in numbers))
            logging.info("%s: %d utterances, %d frames", store.path, len(store), total)


def _require_room(output: Path, size: int, files: Sequence[Path]) -> None:
    there = sum(path.stat().st_size for path in files if path.is_file())
    if shutil.disk_usage(output).free < size - there:
        raise UserError(
            f"{output} has no room for {size / 1e6:.1f} MB",
            remedy="make room, or name a folder on another disk",
            parameters=("output",),
        )


def _refuse_sample_beside_all(paths: Sequence[Path], *, sampled: bool) -> None:
    """The same utterances would be in the folder twice, which is noticed when it is read."""
    folder = paths[0].parent
    samples = set(folder.glob("embeddings-sample-*.h5"))
    others = set(folder.glob("embeddings-*.h5")) - samples if sampled else samples
    if others - set(paths):
        raise UserError(
            f"{folder} has embeddings of {'all' if sampled else 'a sample of the'} utterances: "
            f"{min(others).name}",
            remedy="move them away, or name another folder",
            parameters=("output",),
        )
