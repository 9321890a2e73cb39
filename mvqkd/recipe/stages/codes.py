"""Stage 7: codebook indexes of a teacher's embeddings, for all training audio."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mvqkd.data.loading.audio_cuts import AudioCuts
from mvqkd.data.loading.feature_reader import FeatureReader
from mvqkd.data.targets.codes import CodesInfo, CodeStore, write_codes
from mvqkd.data.targets.store import same_source
from mvqkd.errors import UserError
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.quantization import Quantizer
from mvqkd.quantization.predictability.code_predictor import CodePredictor
from mvqkd.quantization.predictability.rate_distortion import encode_with_rate
from mvqkd.recipe.inputs import ExperimentInputs
from mvqkd.recipe.stages.embeddings import TeacherPass
from mvqkd.recipe.teacher_files import uses
from mvqkd.runtime.shards import Tick, divide_splits, prepare_folder, process_shards, worker
from mvqkd.teachers import load_teacher


def dump_for_experiment(inputs: ExperimentInputs, how: TeacherPass) -> None:
    """The codes that are the targets of an experiment's losses.

    Raises:
        UserError: no such quantizer, or audio that cannot be read.
    """
    for name, loss in inputs.frame_losses.items():
        if uses(loss) != "codes" or loss.targets:
            logging.info("%s: no codes are dumped", name)
            continue
        files = inputs.teacher_files(loss)
        dump_codes(
            inputs.cuts("train", "unlabelled", "dev"),
            files.quantizer,
            files.codes,
            teacher_uri=files.teacher,
            rate_distortion_weight=loss.quantizer.rate_distortion_weight,
            how=how,
        )


def dump_codes(
    cuts_paths: Sequence[Path],
    quantizer_path: Path,
    output: Path,
    *,
    teacher_uri: str | None = None,
    rate_distortion_weight: float = 0.0,
    how: TeacherPass,
) -> None:
    """Write `<output>/codes-<split>-<k>-of-<n>.h5`, and verify them all.

    Speed-perturbed copies get codes of their own, from their own audio. Shards that are there are
    kept. Under torchrun every process makes a share of them, and the first returns when all are
    there. A quantizer of multi_quantization chooses codes as that package does, so that they go
    with published ones.

    Args:
        cuts_paths: manifests of all training cuts.
        quantizer_path: of stage 6.
        output: folder.
        teacher_uri: None: the one that the quantizer was trained on.
        rate_distortion_weight: above 0, codes are chosen that the utterance's features make likely,
            according to the predictor that stage 6 left beside the quantizer; the cost of a nat as
            a fraction of the embeddings' energy.
        how: how the teacher runs over audio.

    Raises:
        UserError: a quantizer of another teacher, audio that cannot be read, or codes of another
            run in the folder.
    """
    rank, _, device = worker()
    quantizer = Quantizer.load(quantizer_path, device=device)
    uri, layer, rate = _origin(quantizer, quantizer_path)
    if teacher_uri not in (None, uri):
        raise UserError(
            f"{quantizer_path} is a quantizer of {uri}, not of {teacher_uri}",
            remedy="train one of this teacher; or, if both names are of the same weights, measure "
            f"it on this one's embeddings: local/train_quantizer.py --import {quantizer_path}",
        )
    encode = _Encoder(quantizer, quantizer_path, cuts_paths, rate_distortion_weight)
    cuts = AudioCuts(cuts_paths)
    seconds = cuts.num_samples / SAMPLE_RATE
    teacher = load_teacher(uri, [layer], device=device)
    if (teacher.dim, teacher.frame_rate) != (quantizer.dim, rate):
        raise UserError(
            f"{uri} has {teacher.dim} dimensions at {teacher.frame_rate} Hz, {quantizer_path} "
            f"{quantizer.dim} at {rate} Hz",
            remedy="the teacher has changed: extract its embeddings and train the quantizer again",
        )
    frames = teacher.output_lens(torch.from_numpy(cuts.num_samples)).numpy()
    info = CodesInfo(
        teacher=uri,
        layer=layer,
        frame_rate=teacher.frame_rate,
        quantizer_id=quantizer.id,
        num_codebooks=quantizer.num_codebooks,
        codebook_size=quantizer.codebook_size,
        rate_weight=rate_distortion_weight,
        encoder="mvqkd" if rate_distortion_weight else quantizer.encoder,
        first_frame=teacher.first_frame,
    )
    shards, names = divide_splits(cuts.splits, seconds, how.shard_hours)
    paths = prepare_folder(output, [f"codes-{name}" for name in names])
    if rank == 0:
        logging.info(
            "%d utterances, %.2f h: %.1f MB of codes of layer %d of %s in %s",
            len(cuts),
            seconds.sum() / 3600,
            frames.sum() * quantizer.num_codebooks / 1e6,
            layer,
            uri,
            output,
        )

    def check(shard: int) -> None:
        store = CodeStore(paths[shard])
        if not same_source(store.info, info):
            raise UserError(
                f"{store.path} is of another run: {store.info}, not {info}",
                remedy=f"move {output} away, or name another folder",
                parameters=("output",),
            )
        wanted = {cuts.ids[number]: int(frames[number]) for number in shards[shard]}
        store.verify(wanted, quantizer_id=quantizer.id)

    def make(shard: int, tick: Tick) -> None:
        count = int(frames[shards[shard]].sum())
        with write_codes(paths[shard], info=info, total_frames=count) as writer:
            for number, layers in how.embed(teacher, cuts, shards[shard], device):
                writer.write(cuts.ids[number], encode(layers[layer], cuts.ids[number]))
                tick(number)

    process_shards(shards, seconds, files=lambda shard: [paths[shard]], check=check, make=make)
    if rank == 0:
        store = CodeStore(output)
        expected = {name: int(count) for name, count in zip(cuts.ids, frames, strict=True)}
        store.verify(expected, quantizer_id=quantizer.id)
        logging.info(
            "%s: %d utterances, %d frames of %d codebooks, verified",
            store.path,
            len(store),
            store.total_frames,
            info.num_codebooks,
        )


def _origin(quantizer: Quantizer, path: Path) -> tuple[str, int, float]:
    """Teacher, layer and frame rate that a quantizer is of."""
    try:
        facts = quantizer.metadata
        return facts["teacher"], facts["layer"], facts["frame_rate"]
    except KeyError as error:
        raise UserError(
            f"{path} does not say which teacher and layer it is of",
            remedy=f"local/train_quantizer.py --import {path} --embeddings FOLDER --output OTHER: "
            "measures it on embeddings of its teacher, and notes which",
        ) from error


class _Encoder:
    """Codes of utterances' embeddings, with the features' help if that is wanted."""

    def __init__(
        self, quantizer: Quantizer, path: Path, cuts_paths: Sequence[Path], weight: float
    ) -> None:
        self._quantizer = quantizer
        self._weight = weight
        if not 0 <= weight < float("inf"):
            raise UserError(f"the rate-distortion weight is {weight}", remedy="0, or some 0.01")
        if weight:
            predictor_path = CodePredictor.path_beside(path)
            self._predictor = CodePredictor.load(predictor_path, device=quantizer.mean.device)
            if self._predictor.quantizer_id != quantizer.id:
                raise UserError(
                    f"{predictor_path} predicts codes of quantizer {self._predictor.quantizer_id}, "
                    f"{path} is {quantizer.id}",
                    remedy=f"delete {predictor_path}, to train it again",
                    step="quantizer",
                )
            self._features = FeatureReader(cuts_paths)

    def __call__(self, x: torch.Tensor, utterance: str) -> np.ndarray:
        """(T, D) -> (T, Q)."""
        if not x.isfinite().all():
            raise UserError(
                f"utterance {utterance}: the teacher's embeddings have NaN or infinity",
                remedy="check its audio; if the teacher runs in float16, take bfloat16 or float32",
            )
        if not self._weight:
            return self._quantizer.encode(x).cpu().numpy()
        features = torch.from_numpy(self._features[utterance])
        codes = encode_with_rate(
            self._quantizer, self._predictor, x, features, rate_weight=self._weight
        )
        return codes.cpu().numpy()
