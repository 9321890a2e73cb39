"""BPE tokens: training, loading, and the `tokens.txt` of icefall and sherpa-onnx."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from mvqkd.errors import UserError
from mvqkd.geometry import UNK
from mvqkd.storage.files import atomic_path, read_json, write_text

SPECIAL_TOKENS = ("<blk>", "<sos/eos>", "<unk>")
"""Ids 0, 1 and 2, see `mvqkd.geometry`."""
_UNK = SPECIAL_TOKENS[UNK]
_SPACE = "▁"
"""sentencepiece's mark of a space in tokens."""


class Tokenizer:
    """A sentencepiece BPE model whose ids 0, 1, 2 are blank, `<sos/eos>` and `<unk>`."""

    def __init__(self, model: bytes) -> None:
        """Args:
        model: the contents of a `bpe.model`.
        """
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.tokens: list[str] = [
            self._processor.id_to_piece(i) for i in range(self._processor.get_piece_size())
        ]

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[bytes]]:
        return Tokenizer, (self._model,)

    @classmethod
    def load(cls, lang_dir: str | Path) -> Tokenizer:
        """Read `<lang_dir>/bpe.model`.

        Raises:
            UserError: it is missing, or is no BPE model with the three special tokens first.
        """
        path = Path(lang_dir) / "bpe.model"
        if not path.is_file():
            raise UserError(f"{path} is missing", step="tokens")
        model = path.read_bytes()
        _compare_with_reports(path, model)
        try:
            tokenizer = cls(model)
        except (RuntimeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path} is not a sentencepiece model: {error}", remedy="put one in its place"
            ) from None
        if tuple(tokenizer.tokens[:3]) != SPECIAL_TOKENS:
            raise UserError(
                f"{path} begins with the tokens {tokenizer.tokens[:3]}, not {list(SPECIAL_TOKENS)}",
                remedy="take one from an icefall recipe, or move it away to train one",
                step="tokens",
            )
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of tokens, blank included."""
        return len(self.tokens)

    def normalize(self, text: str) -> str:
        """A text as the model spells it: what `decode` gives for the tokens of `encode`, but for
        characters that it does not know. Models that are trained here change nothing but spaces;
        others (icefall's) may normalize. References are compared in this spelling."""
        parts = (self._processor.normalize(part) for part in text.split(_UNK))
        return f" {_UNK} ".join(part.replace(_SPACE, " ").strip(" ") for part in parts).strip(" ")

    def encode(self, text: str) -> list[int]:
        """Token ids of a transcript; `<unk>` is one, and so are characters that the model does not
        know.

        Raises:
            UserError: it has `<blk>` or `<sos/eos>`, which no transcript can have.
        """
        first, *others = text.split(_UNK)
        ids = self._processor.encode(first)
        for part in others:
            ids += [UNK, *self._processor.encode(part)]
        if ids and min(ids) < UNK:
            raise UserError(
                f"the transcript {text[:100]!r} has {self.tokens[min(ids)]}, which is a token that "
                "is no text",
                remedy="leave it out of the transcript",
                step="manifests",
            )
        return ids

    def unknown(self, text: str) -> set[str]:
        """Characters of a transcript that the model cannot spell."""
        found: set[str] = set()
        for part in text.split(_UNK):
            ids = self._processor.encode(part)
            if UNK in ids:
                pieces = self._processor.encode(part, out_type=str)
                found.update(*(piece for i, piece in zip(ids, pieces, strict=True) if i == UNK))
        return found - {_SPACE}

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; blanks and `<sos/eos>` are omitted, `<unk>` is a word."""
        words: list[str] = []
        for known, group in itertools.groupby((int(i) for i in ids if i >= UNK), UNK.__ne__):
            run = list(group)
            words += [self._processor.decode(run)] if known else [_UNK] * len(run)
        return " ".join(filter(None, words))


def _compare_with_reports(path: Path, model: bytes) -> None:
    """Refuse another model than the one that a file beside it is of."""
    for name in ("bpe.report.json", "data.json"):  # of stage 3, of a training
        report = path.with_name(name)
        facts = read_json(report) if report.is_file() else {}
        known = facts.get("bpe_model_sha256")
        if known is None or hashlib.sha256(model).hexdigest() == known:
            continue
        remedy = "put a copy of that one back"
        if name != "data.json":
            remedy = "delete it" if "fingerprint" in facts else remedy
            remedy += f"; or delete {report}, if another was put there on purpose"
        raise UserError(
            f"{path} is damaged, or is another model than the one that {name} is of",
            remedy=remedy,
            step="tokens" if name != "data.json" else None,
        )


def train_tokenizer(texts: Iterable[str], vocab_size: int, lang_dir: str | Path) -> Tokenizer:
    """Train BPE and write `bpe.model` and `tokens.txt` into `lang_dir`.

    The same texts in the same order give the same bytes.

    Args:
        texts: training transcripts.
        vocab_size: tokens, the three special ones included.
        lang_dir: where to write.

    Raises:
        UserError: the texts cannot give that many tokens, or need more for their characters alone.
    """
    lang_dir = Path(lang_dir)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(text.replace(_UNK, " ") for text in texts),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="bpe",
            character_coverage=1.0,
            # Text is normalized once, in the manifests, for training and for references.
            normalization_rule_name="identity",
            # Longer lines than this many bytes are silently ignored by sentencepiece.
            max_sentence_length=1 << 24,
            user_defined_symbols=list(SPECIAL_TOKENS[:2]),
            unk_piece=SPECIAL_TOKENS[2],
            unk_id=UNK,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _training_error(error, vocab_size) from None
    tokenizer = Tokenizer(model.getvalue())
    write_tokens(tokenizer, lang_dir)
    with atomic_path(lang_dir / "bpe.model") as partial:  # last: its presence means "done"
        partial.write_bytes(model.getvalue())
    return tokenizer


def write_tokens(tokenizer: Tokenizer, lang_dir: Path) -> None:
    """Write `tokens.txt`, see `tokens_text`."""
    write_text(lang_dir / "tokens.txt", tokens_text(tokenizer))


def tokens_text(tokenizer: Tokenizer) -> str:
    """`<token> <id>` in each line."""
    return "".join(f"{token} {i}\n" for i, token in enumerate(tokenizer.tokens))


def _training_error(error: RuntimeError, vocab_size: int) -> UserError:
    message = str(error)
    if most := re.search(r"set it to a value <= (\d+)", message):
        return UserError(
            f"the training transcripts are too few for {vocab_size} tokens",
            remedy=f"{most[1]} tokens or less, or more text",
            parameters=("vocab_size",),
        )
    if least := re.search(r"smaller than required_chars\.? ?\d+ vs (\d+)", message):
        return UserError(
            f"a vocabulary of {vocab_size} has no room for the characters of the transcripts",
            remedy=f"{least[1]} tokens or more",
            parameters=("vocab_size",),
        )
    return UserError(f"sentencepiece cannot train {vocab_size} tokens: {message}")
