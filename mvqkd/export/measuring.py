"""Errors of exported files on a split of prepared data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mvqkd.data.loading.batch_loader import eval_loader
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.decoding import CTCGreedySearch, GreedySearch, Search
from mvqkd.decoding.split import recognize
from mvqkd.errors import UserError
from mvqkd.evaluation.wer import ErrorCounts, Transcript, score
from mvqkd.export.sessions import OnnxCTC, OnnxTransducer, decode_onnx
from mvqkd.export.targets import Head


def count_errors(
    head: Head,
    files: Mapping[str, Path],
    cuts: Path,
    tokenizer: Tokenizer,
    *,
    name: str,
    max_duration: float = 600.0,
    num_workers: int = 0,
) -> ErrorCounts:
    """Word errors of greedy search with files in onnxruntime.

    Args:
        head: what the files are of.
        files: by the names of their graphs.
        cuts: manifest of the split.
        tokenizer: of the model.
        name: of the split, for the progress bar.
        max_duration: seconds of audio in a batch, padding included.
        num_workers: processes that read features.

    Raises:
        UserError: a file is missing or damaged, or the split has no reference words.
    """
    model: OnnxTransducer | OnnxCTC
    search: Search[Any]
    threads = torch.get_num_threads()
    if head == "transducer":
        model = OnnxTransducer(files, num_threads=threads)
        search = GreedySearch(model.head)
    else:
        model = OnnxCTC(files, num_threads=threads)
        search = CTCGreedySearch(model.head)
    batches = eval_loader(cuts, max_duration=max_duration, num_workers=num_workers)
    with torch.inference_mode():
        decode = partial(decode_onnx, model, search)
        found, _ = recognize(batches, decode, torch.device("cpu"), name=name)
    scored = score(
        Transcript(
            utterance.id,
            tokenizer.normalize(utterance.text).split(),
            tokenizer.decode(utterance.hypotheses[0].tokens).split(),
        )
        for utterance in found
    )
    if not scored.total.words:
        raise UserError(
            f"{cuts} has no reference words, so no errors can be counted",
            remedy="name a split with transcripts",
        )
    return scored.total
