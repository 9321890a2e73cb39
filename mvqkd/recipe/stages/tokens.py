"""Stage 3: BPE tokens of training transcripts, and which cuts losses cannot use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mvqkd.data.folder import DataFolder
from mvqkd.data.loading.tokenizer import Tokenizer
from mvqkd.data.prepare.tokens import (
    all_transcripts,
    character_vocabulary,
    check_tokens,
    labelled_transcripts,
    prepare_tokenizer,
    take_tokenizer,
)
from mvqkd.errors import UserError
from mvqkd.recipe.other_data import OtherCuts


def prepare_tokens(
    data: DataFolder,
    patterns: Mapping[str, list[str]],
    vocab_size: int | None,
    *,
    labelled_hours: Sequence[float] = (0.0,),
    model: Path | None = None,
    others: Sequence[OtherCuts] = (),
    strict: bool = False,
) -> None:
    """Write `lang_bpe_<vocab_size>[_<hours>h]`, and note the size in the data folder.

    Args:
        data: prepared by stages 1 and 2.
        patterns: names or patterns of splits by role, where not all are wanted.
        vocab_size: tokens, special ones included; None: the characters of the transcripts.
        labelled_hours: of experiments: tokens for each, made of the transcripts that it knows; 0:
            of all.
        model: a `bpe.model` to take, whatever `vocab_size` is, in place of training one.
        others: cuts of other data to check the tokens against; those that they cannot spell are
            excluded.
        strict: stop when a cut has more tokens than frames.

    Raises:
        UserError: cuts are missing, there are not as many hours, or as of `prepare_tokenizer` and
            `take_tokenizer`.
    """
    splits = data.splits(patterns)
    # Audio without transcripts has no tokens to check.
    cuts = [data.cuts(split) for role in ("train", "dev", "test") for split in splits[role]]
    for path in cuts:
        if not path.is_file():
            raise UserError(f"{path} is missing", step="features")
    every = all_transcripts([data.manifest("supervisions", s) for s in splits["train"]])
    if model is not None:
        vocab_size = Tokenizer.load(model.parent).vocab_size
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
        if model is not None:
            take_tokenizer(model, texts, lang)
        else:
            prepare_tokenizer(texts, vocab_size, lang, splits["train"])
        for path in cuts:
            check_tokens(path, lang, strict=strict)
        for other in others:
            check_tokens(other.path, other.prepare_lang(lang), leave_out_unknown=True)
    data.record_vocab_size(vocab_size)


def find_model(source: str) -> Path:
    """The `bpe.model` of a student.

    Args:
        source: that file, the folder of an experiment or a model, or `hf:OWNER/NAME`.

    Raises:
        UserError: there is none.
    """
    # Imported late: it needs torch.
    from mvqkd.checkpoints.model_folder import lang_folder, local_path

    path = local_path(source)
    model = lang_folder(path) / "bpe.model" if path.is_dir() else path
    if model.name != "bpe.model" or not model.is_file():
        raise UserError(
            f"{source} has no bpe.model",
            remedy="name a file of this name, the folder of an experiment, or a model folder that "
            "this package wrote",
        )
    return model
