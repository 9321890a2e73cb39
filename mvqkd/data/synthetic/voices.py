"""The synthetic speakers: an accent, a voice, and habits of pitch and pace."""

from __future__ import annotations

import random
from dataclasses import dataclass

from mvqkd.errors import UserError

# English as espeak-ng speaks it: America, Britain ("en"), received pronunciation, New York,
# Scotland, Caribbean. What comes more than once is more common.
ACCENTS = (
    "en-us",
    "en",
    "en-gb-x-rp",
    "en-us-nyc",
    "en-us",
    "en",
    "en-gb-scotland",
    "en-us",
    "en",
    "en-029",
)

# Voice variants that espeak-ng ships, with the sex they sound like: formant and Klatt synthesis,
# those that sound like people. The splits have variants of their own, so no two share a speaker.
VARIANTS = {
    "train": {
        "F": "f1 f4 Annie belinda steph anika aunty Andrea shelby Alicia",
        "M": "m1 m3 m4 m7 klatt klatt2 klatt6 Alex Denis Gene Michael adam edward max quincy "
        "travis Diogo Jacky Marco ian david Andy",
    },
    "dev": {"F": "f2", "M": "m2 klatt3 Lee"},
    "test": {"F": "f5 f3", "M": "m6 m8"},
}
_FIRST_ID = {"train": 1001, "dev": 2001, "test": 3001}
MAX_SPEAKERS = 999


@dataclass(frozen=True)
class Speaker:
    """One reader of the corpus. `pitch` and `range` are espeak-ng's 0 to 99, `rate` is in words
    per minute."""

    id: int
    sex: str
    accent: str
    variant: str
    rate: int
    pitch: int
    range: int

    @property
    def voice(self) -> str:
        """Name of the voice for `espeak.Line`."""
        return f"{self.accent}+{self.variant}"


def make_speakers(split: str, count: int, seed: int) -> list[Speaker]:
    """Return `count` speakers of the split `train`, `dev` or `test`, women and men in turn.

    A speaker is a function of the seed, the split and its place in it. Beyond the number of
    variants, speakers share variants and differ in accent, pitch and pace.

    Raises:
        UserError: more than `MAX_SPEAKERS` are asked for.
    """
    if count > MAX_SPEAKERS:
        raise UserError(
            f"{count} {split} speakers were asked for",
            remedy=f"at most {MAX_SPEAKERS} are possible",
        )
    return [_speaker(split, index, seed) for index in range(count)]


def babble_voices(rng: random.Random, count: int) -> list[str]:
    """Names of the voices of `count` people who talk in the background, training variants all."""
    variants = [v for names in VARIANTS["train"].values() for v in names.split()]
    return [f"{rng.choice(ACCENTS)}+{rng.choice(variants)}" for _ in range(count)]


def _speaker(split: str, index: int, seed: int) -> Speaker:
    number = _FIRST_ID[split] + index
    rng = random.Random(f"{seed}/speaker/{number}")
    sex = "FM"[index % 2]
    variants = VARIANTS[split][sex].split()
    # The accents shift by one each time they have all been used, so that women and men have all of
    # them, and a variant that comes again has another accent.
    shift = index // len(ACCENTS)
    return Speaker(
        id=number,
        sex=sex,
        accent=ACCENTS[(index + shift) % len(ACCENTS)],
        variant=variants[index // 2 % len(variants)],
        rate=rng.randint(155, 200),
        pitch=rng.randint(35, 65),
        range=rng.randint(35, 70),
    )
