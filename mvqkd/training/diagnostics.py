"""Early signs of trouble as messages, and what is kept for inspection when something breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mvqkd.checkpoints.files import save_checkpoint
from mvqkd.data.loading.batch import Batch


@dataclass(frozen=True)
class TranscribedSample:
    """An utterance's transcript and the student's output for it."""

    id: str
    reference: str
    hypothesis: str


def loss_trouble(losses: Sequence[float]) -> list[str]:
    """What is wrong with the losses per frame of successive log intervals, newest last.

    Judges the newest interval only, so each trouble is reported when it appears or persists, not
    forever after.
    """
    found = []
    if len(losses) >= 3:
        best = min(losses[:-1])
        if losses[-1] > 3 * best + 0.1:
            found.append(
                f"the loss explodes: {losses[-1]:.3f} per frame after {best:.3f}. A lower "
                "optimizer.learning_rate, a longer optimizer.warmup_steps or a smaller "
                "optimizer.clip_grad_ratio may help"
            )
    # Reported at 20, 40, ... intervals, comparing the last ten with the ten before.
    if len(losses) >= 20 and len(losses) % 20 == 0:
        before, after = median(losses[-20:-10]), median(losses[-10:])
        if after > 0.995 * before and after > 0.5 * losses[0]:
            found.append(
                f"the loss does not fall: {before:.3f} per frame, then {after:.3f}, and "
                f"{losses[0]:.3f} at first. If it began so: check transcripts and features, and "
                "try another optimizer.learning_rate"
            )
    return found


def transcript_trouble(transcripts: Sequence[TranscribedSample]) -> list[str]:
    """What is wrong with the outputs for several utterances: empty, or the same for all."""
    spoken = [one for one in transcripts if one.reference]
    if len(spoken) < 2:
        return []
    empty = sum(not one.hypothesis for one in spoken)
    if empty == len(spoken):
        return [
            f"the output of all {empty} utterances looked at is empty. Usual in the first epochs; "
            "later it means that the loss has not fallen enough, or that features or tokens are "
            "not those of the transcripts"
        ]
    if len({one.hypothesis for one in spoken}) == 1:
        return [
            f"the output of all {len(spoken)} utterances looked at is the same, "
            f'"{spoken[0].hypothesis}": the encoder has not aligned yet. If it goes on, check the '
            "features and the learning rate"
        ]
    if empty > len(spoken) / 2:
        return [f"the output of {empty} of {len(spoken)} utterances looked at is empty"]
    return []


def save_batch(path: Path, batch: Batch, **facts: Any) -> None:
    """Keep a batch for inspection with `torch.load(path)`: ids, texts and tensors.

    Args:
        facts: JSON-able values beside the batch, such as the step.
    """
    batch = batch.to("cpu", non_blocking=False)
    save_checkpoint(
        path,
        {
            "ids": batch.ids,
            "texts": batch.texts,
            "features": batch.features.clone(),
            "feature_lens": batch.feature_lens.clone(),
            **_text(batch),
            **facts,
        },
    )


def describe(batch: Batch) -> str:
    """A batch in one line, for an error message."""
    ids = ", ".join(batch.ids[:20]) + (", ..." if len(batch.ids) > 20 else "")
    tokens = int(batch.hypotheses.lens.max()) if batch.hypotheses else 0
    return (
        f"{len(batch)} utterances, {batch.features.shape[1]} frames, {tokens} tokens at most: {ids}"
    )


def _text(batch: Batch) -> dict[str, Any]:
    if batch.hypotheses is None:
        return {}
    return {
        "tokens": batch.hypotheses.tokens.clone(),
        "token_lens": batch.hypotheses.lens.clone(),
        "owners": batch.hypotheses.owners.clone(),
        "weights": batch.hypotheses.weights.clone(),
    }
