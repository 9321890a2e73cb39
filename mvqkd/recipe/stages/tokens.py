"""Stage 3: BPE tokens of the training transcripts, and which cuts losses cannot use."""

from __future__ import annotations

from collections.abc import Mapping

from mvqkd.data.folder import DataFolder
from mvqkd.data.prepare.tokens import check_tokens, prepare_tokenizer
from mvqkd.errors import UserError


def prepare_tokens(
    data: DataFolder, patterns: Mapping[str, list[str]], vocab_size: int, *, strict: bool = False
) -> None:
    """Write `lang_bpe_<vocab_size>`, and note the size in the data folder.

    Args:
        data: prepared by stages 1 and 2.
        patterns: names or patterns of splits by role, where not all are wanted.
        vocab_size: tokens, special ones included.
        strict: stop when a cut has more tokens than frames.

    Raises:
        UserError: cuts are missing, or as of `prepare_tokenizer`.
    """
    splits = data.splits(patterns)
    # Audio without transcripts has no tokens to check.
    cuts = [data.cuts(split) for role in ("train", "dev", "test") for split in splits[role]]
    for path in cuts:
        if not path.is_file():
            raise UserError(f"{path} is missing", step="features")
    lang = data.lang(vocab_size)
    supervisions = [data.manifest("supervisions", split) for split in splits["train"]]
    prepare_tokenizer(supervisions, vocab_size, lang)
    for path in cuts:
        check_tokens(path, lang, strict=strict)
    data.record_vocab_size(vocab_size)
