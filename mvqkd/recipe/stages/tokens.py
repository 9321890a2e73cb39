"""Stage 3: BPE tokens of training transcripts, and which cuts losses cannot use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mvqkd.data.folder import DataFolder
from mvqkd.data.prepare.tokens import (
    all_transcripts,
    character_vocabulary,
    check_tokens,
    labelled_transcripts,
    prepare_tokenizer,
)
from mvqkd.errors import UserError


def prepare_tokens(
    data: DataFolder,
    patterns: Mapping[str, list[str]],
    vocab_size: int | None,
    *,
    labelled_hours: Sequence[float] = (0.0,),
    strict: bool = False,
) -> None:
    """Write `lang_bpe_<vocab_size>[_<hours>h]`, and note the size in the data folder.

    Args:
        data: prepared by stages 1 and 2.
        patterns: names or patterns of splits by role, where not all are wanted.
        vocab_size: tokens, special ones included; None: the characters of the transcripts.
        labelled_hours: of experiments: tokens for each, made of the transcripts that it knows; 0:
            of all.
        strict: stop when a cut has more tokens than frames.

    Raises:
        UserError: cuts are missing, there are not as many hours, or as of `prepare_tokenizer`.
    """
    splits = data.splits(patterns)
    # Audio without transcripts has no tokens to check.
    cuts = [data.cuts(split) for role in ("train", "dev", "test") for split in splits[role]]
    for path in cuts:
        if not path.is_file():
            raise UserError(f"{path} is missing", step="features")
    every = all_transcripts([data.manifest("supervisions", s) for s in splits["train"]])
    by_character = vocab_size is None
    vocab_size = vocab_size or character_vocabulary(every)
    for hours in labelled_hours:
        lang = data.lang(vocab_size, hours)
        texts = every
        if hours:
            texts = labelled_transcripts([data.cuts(split) for split in splits["train"]], hours)
        if by_character and character_vocabulary(texts) < vocab_size:
            raise UserError(
                f"the transcripts of {hours:g} labelled hours do not have all characters of the "
                "others, with which they would share their tokens",
                remedy="more labelled hours, or BPE",
                parameters=("labelled_hours", "units"),
            )
        prepare_tokenizer(texts, vocab_size, lang, splits["train"])
        for path in cuts:
            check_tokens(path, lang, strict=strict)
    data.record_vocab_size(vocab_size)
