"""Token files beside exported models."""

from __future__ import annotations

import shutil
from pathlib import Path

import sentencepiece

from mvqkd.data.loading.tokenizer import Tokenizer, write_tokens
from mvqkd.storage.files import atomic_path, write_text


def write_lang(lang_dir: Path, folder: Path) -> None:
    """Write `bpe.model`, `tokens.txt`, and `bpe.vocab`, with which sherpa-onnx spells hotwords.

    Args:
        lang_dir: has the `bpe.model`.
        folder: where to write.

    Raises:
        UserError: the model is missing or damaged.
    """
    tokenizer = Tokenizer.load(lang_dir)
    with atomic_path(folder / "bpe.model") as partial:
        shutil.copyfile(lang_dir / "bpe.model", partial)
    write_tokens(tokenizer, folder)
    write_text(folder / "bpe.vocab", vocab_text(lang_dir / "bpe.model"))


def vocab_text(model: Path) -> str:
    """The `.vocab` of a sentencepiece model: token, tab, score in each line."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return "".join(
        f"{processor.id_to_piece(i)}\t{processor.get_score(i):g}\n"
        for i in range(processor.get_piece_size())
    )
