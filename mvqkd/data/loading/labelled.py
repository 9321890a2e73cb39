"""Which training utterances keep their transcripts, and which are audio alone.

Distillation from codebook indexes needs no transcripts: a student is trained on few labelled
hours, and on the teacher's indexes for all other audio. The choice depends on ids and durations
alone, so that tokens can be made of the transcripts that are kept before anything else is known.
"""

from __future__ import annotations

import hashlib
import logging
import re

import numpy as np
from numpy.typing import NDArray

from mvqkd.errors import UserError
from mvqkd.geometry import RECEPTIVE_FIELD

# What lhotse's `perturb_speed` appends; factors that are whole numbers are not used, and `_sp2` may
# be part of a corpus's own ids.
SPEED = re.compile(r"_sp\d+\.\d+$")


def choose_labelled(
    ids: NDArray[np.bytes_], seconds: NDArray[np.float64], hours: float
) -> NDArray[np.bool_]:
    """Choose utterances for a number of labelled hours.

    Utterances are taken in the order of a hash of their ids until their audio reaches `hours`, so
    the choice depends on no seed, and a choice of fewer hours is a subset of one of more.
    Speed-perturbed copies go with their originals and do not count; a copy without its original is
    not taken.

    Args:
        ids: (N,) UTF-8, speed-perturbed copies ending in `_sp0.9` or the like.
        seconds: (N,) durations.
        hours: of labelled audio at its original speed, above 0.

    Returns:
        (N,): which utterances keep their transcripts.

    Raises:
        UserError: there are not as many hours.
    """
    names = ids.tolist()
    originals = [SPEED.sub("", name.decode()).encode() for name in names]
    is_original = np.array(
        [name == original for name, original in zip(names, originals, strict=True)], dtype=bool
    )
    available = seconds[is_original].sum() / 3600
    if available < hours:
        raise UserError(
            f"{hours:.6g} labelled hours are asked for, the training cuts have {available:.6g} "
            "(without speed-perturbed copies)",
            remedy="ask for fewer hours, or 0 for all",
            parameters=("labelled_hours",),
        )
    numbers = np.flatnonzero(is_original)
    digests = b"".join(
        hashlib.blake2b(names[number], digest_size=8).digest() for number in numbers.tolist()
    )
    numbers = numbers[np.argsort(np.frombuffer(digests, dtype=">u8"), kind="stable")]
    total = np.cumsum(seconds[numbers])
    # The same sum in another order may round to less than `available`.
    end = min(int(np.searchsorted(total, hours * 3600)) + 1, len(numbers))
    chosen = {names[number] for number in numbers[:end].tolist()}
    logging.info(
        "labelled: %d utterances, %.4g of %.4g hours (speed-perturbed copies not counted)",
        end,
        total[end - 1] / 3600,
        available,
    )
    return np.array([original in chosen for original in originals], dtype=bool)


def unlabelled_pool(
    ids: NDArray[np.bytes_], num_frames: NDArray[np.int64], labelled: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Numbers of the utterances that are used as audio alone, each id once.

    Left out, with a line in the log: utterances whose ids are labelled or there before (one
    manifest may contain another), and those too short for an encoder frame, which no list of
    excluded cuts has to name here.

    Args:
        ids: (N,) of all utterances.
        num_frames: (N,) frames of features, 100 a second.
        labelled: numbers of the labelled utterances.
    """
    is_labelled = np.zeros(len(ids), dtype=bool)
    is_labelled[labelled] = True
    rest = np.flatnonzero(~is_labelled)
    long_enough = rest[num_frames[rest] >= RECEPTIVE_FIELD]
    seen = set(ids[labelled].tolist())
    pool: list[int] = []
    for number, name in zip(long_enough.tolist(), ids[long_enough].tolist(), strict=True):
        if name not in seen:
            seen.add(name)
            pool.append(number)
    for num, reason in (
        (len(rest) - len(long_enough), "too short for an encoder frame"),
        (len(long_enough) - len(pool), "labelled, or there twice"),
    ):
        if num:
            logging.info("unlabelled: %d utterances left out, %s", num, reason)
    return np.array(pool, dtype=np.int64)
