"""Stage 3: a BPE model from training transcripts, and which cuts losses cannot use."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mvqkd.data.loading.excluded import excluded_line, excluded_path
from mvqkd.data.loading.index import open_index, transcript
from mvqkd.data.loading.labelled import SPEED, choose_labelled
from mvqkd.data.loading.tokenizer import (
    SPECIAL_TOKENS,
    Tokenizer,
    tokens_text,
    train_tokenizer,
    write_tokens,
)
from mvqkd.data.prepare.preparation_report import PreparationReport
from mvqkd.errors import UserError
from mvqkd.geometry import UNK, encoder_frames
from mvqkd.storage.files import atomic_path, file_digest, read_json, write_json, write_text
from mvqkd.storage.jsonl import fingerprint, read_built, read_items


def all_transcripts(supervisions: Sequence[Path]) -> list[str]:
    """The transcripts of manifests.

    Args:
        supervisions: `manifests/<prefix>_supervisions_<split>.jsonl.gz` of the training splits.

    Raises:
        UserError: a manifest is missing.
    """
    for path in supervisions:
        if not path.is_file():
            raise UserError(f"{path} is missing", step="manifests")
    return [text for path in supervisions for text in read_built(path, lambda item: item["text"])]


def labelled_transcripts(cuts: Sequence[Path], hours: float) -> list[str]:
    """The transcripts that a training with so many labelled hours knows, see `choose_labelled`.

    Args:
        cuts: `fbank/<prefix>_cuts_<split>.jsonl.gz` of the training splits.
        hours: above 0.

    Raises:
        UserError: there are not as many hours.
    """
    originals = [
        (cut["id"], cut["duration"], transcript(cut))
        for path in cuts
        for cut in read_items(path)
        if not SPEED.search(cut["id"])
    ]
    ids = np.array([name.encode() for name, _, _ in originals], dtype=np.bytes_)
    seconds = np.array([duration for _, duration, _ in originals], dtype=np.float64)
    chosen = choose_labelled(ids, seconds, hours).tolist()
    return [text for (_, _, text), known in zip(originals, chosen, strict=True) if known]


def character_vocabulary(texts: Sequence[str]) -> int:
    """Tokens of a vocabulary of characters: BPE with as many has nothing to merge. The special
    tokens, a token for spaces, and the other characters of the transcripts."""
    characters = set().union(*(text.replace(SPECIAL_TOKENS[UNK], " ") for text in texts))
    return len(SPECIAL_TOKENS) + len(characters | {" "})


def prepare_tokenizer(
    texts: Sequence[str], vocab_size: int, lang_dir: Path, splits: Sequence[str] = ()
) -> Tokenizer:
    """Train BPE, unless that was done before, or `bpe.model` was brought from elsewhere.

    Args:
        texts: transcripts.
        vocab_size: tokens, blank, `<sos/eos>` and `<unk>` included.
        lang_dir: where `bpe.model`, `tokens.txt` and `bpe.report.json` go.
        splits: that the transcripts are of, for the report.

    Raises:
        UserError: the transcripts do not give that many tokens, or a model that was brought has
            another number or cannot spell them.
    """
    stamp = fingerprint(texts, vocab_size)
    report_path = lang_dir / "bpe.report.json"
    outputs = [lang_dir / "tokens.txt", lang_dir / "bpe.model"]
    done = {}
    if report_path.is_file():
        # As if there were none, a model that was brought would be trained over.
        remedy = "put a copy of it back; or delete it, and bpe.model is taken as it is"
        done = read_json(report_path, remedy=remedy)
    if done.get("fingerprint") == stamp and all(path.is_file() for path in outputs):
        logging.info("%s: done before, %d tokens", lang_dir, vocab_size)
        tokenizer = Tokenizer.load(lang_dir)
        if outputs[0].read_bytes() != tokens_text(tokenizer).encode():
            write_tokens(tokenizer, lang_dir)
        return tokenizer
    if outputs[1].is_file() and done.get("brought", not report_path.is_file()):
        return _take(lang_dir, vocab_size, texts)
    if done.get("fingerprint"):
        logging.warning(
            "%s is trained again, for other transcripts than before: models that were trained with "
            "the old one do not fit the new one",
            lang_dir / "bpe.model",
        )
    # A model with this report beside it was not brought, and is not whole.
    write_json(report_path, {"vocab_size": vocab_size})
    tokenizer = train_tokenizer(texts, vocab_size, lang_dir)
    report = {"splits": list(splits), "transcripts": len(texts), "vocab_size": vocab_size}
    digest = file_digest(outputs[1])
    write_json(report_path, report | {"fingerprint": stamp, "bpe_model_sha256": digest})
    logging.info("%s: %d tokens from %d transcripts", lang_dir, vocab_size, len(texts))
    return tokenizer


def take_tokenizer(model: Path, texts: Sequence[str], lang_dir: Path) -> Tokenizer:
    """Take the tokens of a model from elsewhere, as those of a student to begin with.

    Args:
        model: its `bpe.model`.
        texts: transcripts that it has to spell.
        lang_dir: where it goes, with `tokens.txt` and `bpe.report.json`.

    Raises:
        UserError: it cannot spell them, or `lang_dir` has other tokens.
    """
    tokenizer, there = Tokenizer.load(model.parent), lang_dir / "bpe.model"
    if there.is_file() and there.read_bytes() != model.read_bytes():
        raise UserError(
            f"{there} has other tokens than {model}",
            remedy=f"prepare the data in another folder; or remove {lang_dir}, if no training uses "
            "it",
            parameters=("data_dir",),
        )
    _check_spelling(tokenizer, model, texts, instead="train other tokens")
    report = lang_dir / "bpe.report.json"
    if there.is_file() and report.is_file():
        return tokenizer
    report.unlink(missing_ok=True)  # of a model that is lost
    with atomic_path(there) as partial:
        partial.write_bytes(model.read_bytes())
    return _note_brought(tokenizer, lang_dir)


def _take(lang_dir: Path, vocab_size: int, texts: Sequence[str]) -> Tokenizer:
    """A model that was put there."""
    tokenizer = Tokenizer.load(lang_dir)
    if tokenizer.vocab_size != vocab_size:
        raise UserError(
            f"{lang_dir / 'bpe.model'} has {tokenizer.vocab_size} tokens, not {vocab_size}",
            remedy=f"put it into lang_bpe_{tokenizer.vocab_size}, with the same end if "
            f"{lang_dir.name} has one, and ask for as many",
            parameters=("vocab_size",),
        )
    model = lang_dir / "bpe.model"
    _check_spelling(tokenizer, model, texts, instead="delete it, and one is trained")
    return _note_brought(tokenizer, lang_dir)


def _check_spelling(
    tokenizer: Tokenizer, model: Path, texts: Sequence[str], *, instead: str
) -> None:
    unknown = [tokenizer.unknown(text) for text in texts]
    if characters := sorted(set().union(*unknown)):
        raise UserError(
            f"{model}, which was brought, cannot spell "
            f"{sum(map(bool, unknown))} of {len(texts)} training transcripts: it does not have "
            f"{' '.join(characters[:50])}",
            remedy="bring a model of such transcripts, change them to what it has (case, "
            f"normalization), or {instead}",
            parameters=("text_normalization",),
        )
    changed = [text for text in texts if tokenizer.normalize(text) != text]
    if changed:
        logging.warning(
            "%s changes %d of %d training transcripts: %r to %r. References are compared as it "
            "spells them",
            model,
            len(changed),
            len(texts),
            changed[0][:100],
            tokenizer.normalize(changed[0])[:100],
        )


def _note_brought(tokenizer: Tokenizer, lang_dir: Path) -> Tokenizer:
    write_tokens(tokenizer, lang_dir)
    write_json(
        lang_dir / "bpe.report.json",
        {
            "vocab_size": tokenizer.vocab_size,
            "brought": True,
            "bpe_model_sha256": file_digest(lang_dir / "bpe.model"),
        },
    )
    logging.info("%s: %d tokens of a model that was brought", lang_dir, tokenizer.vocab_size)
    return tokenizer


def check_tokens(
    cuts_path: Path, lang_dir: Path, *, strict: bool = False, leave_out_unknown: bool = False
) -> None:
    """Index a manifest, and list the cuts that losses cannot use.

    Cuts with more tokens than encoder frames have no alignment with at most one token a frame,
    which is what searches find by default: no loss uses them. They are often transcripts of other
    audio. CTC needs a frame more between equal tokens: a CTC loss cannot use cuts that have no room
    for that. Writes `excluded_<split>.txt`, which loaders apply where tokens are needed, and
    `excluded_<split>.report.json` into `lang_dir`.

    Args:
        cuts_path: `fbank/<prefix>_cuts_<split>.jsonl.gz`.
        lang_dir: folder of `bpe.model`.
        strict: write nothing when a cut has more tokens than frames.
        leave_out_unknown: list cuts whose transcripts the tokens cannot spell, too, as those of
            data that the tokens are not made for.

    Raises:
        UserError: a file is missing or damaged; or as above.
    """
    index, tokenizer = open_index(cuts_path, lang_dir), Tokenizer.load(lang_dir)
    report = PreparationReport(index.source.name)
    output = excluded_path(lang_dir, cuts_path)
    lines: list[str] = []
    num_excluded = 0
    for i, (name, num_frames) in enumerate(
        zip(index.ids, encoder_frames(index.num_frames).tolist(), strict=True)
    ):
        utterance, tokens = name.decode(), index.tokens(i)
        if (tokens == UNK).any() and (unknown := tokenizer.unknown(transcript(index.cut(i)))):
            kind = "characters that bpe.model does not have"
            detail = " ".join(sorted(unknown))
            if leave_out_unknown:
                report.leave_out(utterance, kind, detail)
                lines.append(excluded_line(utterance, f"{kind}: {detail}"))
                num_excluded += 1
                continue
            report.change(utterance, kind, detail)
        repeats = int((tokens[1:] == tokens[:-1]).sum())
        if num_frames < max(1, len(tokens)):
            detail = f"{len(tokens)} tokens in {num_frames} encoder frames"
            report.leave_out(utterance, "more tokens than encoder frames", detail)
            lines.append(excluded_line(utterance, detail))
            num_excluded += 1
        elif num_frames < len(tokens) + repeats:
            detail = f"{len(tokens)} tokens with {repeats} repetitions in {num_frames} frames"
            report.change(utterance, "left out where there is a CTC loss: no alignment", detail)
            lines.append(excluded_line(utterance, detail, ctc_only=True))
    report.check(strict=strict)
    text = "".join(lines)
    report.write(
        output.with_suffix(".report.json"),
        cuts=len(index),
        left=len(index) - num_excluded,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    write_text(output, text)
    logging.info(
        "%s: %d cuts, %d tokens, %d cuts excluded from losses, %d more from CTC",
        index.source.name,
        len(index),
        index.num_tokens.sum(),
        num_excluded,
        len(lines) - num_excluded,
    )
