"""Wall Street Journal (LDC93S6A or B, LDC94S13A or B) as a corpus in LibriSpeech's layout.

The LDC's audio is read in its own compression by few programs, and lies on dozens of discs. It is
unpacked once, to FLAC, in `<split>/<speaker>/<utterance>.flac` with transcripts beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import soundfile
from tqdm import tqdm

from mvqkd.data.prepare.folders import walk_files
from mvqkd.data.prepare.sphere import read_sphere
from mvqkd.data.prepare.wsj_text import read_dots
from mvqkd.errors import UserError
from mvqkd.storage.files import atomic_path, write_text

_SI84 = "wsj0/doc/indices/train/tr_s_wv1.ndx"
SPLITS = {
    "train_si84": (_SI84,),
    "train_si284": (_SI84, "wsj1/doc/indices/si_tr_s.ndx"),
    "test_dev93": ("wsj1/doc/indices/h1_p0.ndx",),
    "test_eval92": ("wsj0/doc/indices/test/nvp/si_et_20.ndx",),
    "test_eval93": ("wsj1/doc/indices/wsj1/eval/h1_p0.ndx",),
}
"""Lists of utterances of each split, by Kaldi's name of it."""
_AUDIO = (".wv1", ".wav", ".flac")
"""Of the head-mounted microphone; `.wv2` is another one."""
_EXCLUDED = "wsj0/si_tr_s/401/"
"""A speaker that Kaldi's recipe leaves out of training."""
_REMEDY = (
    "name a folder with all discs of LDC93S6A or B and LDC94S13A or B, or with their wsj0 and wsj1"
)


class WsjUtterance(NamedTuple):
    """Of a split."""

    id: str
    """As `4k0c0301`; the first three characters are the speaker's."""
    audio: Path
    text: str
    """Normalized, see `normalize_dot`."""


class WsjCorpus:
    """The files of the discs.

    Args:
        folder: holds `wsj0` and `wsj1`, or folders of discs which hold them, at any depth.

    Raises:
        UserError: there are no such folders.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Path] = {}
        for path in sorted(walk_files(folder)) if folder.is_dir() else ():
            # Discs differ in the case of names, and lists in what they call discs.
            parts = [part.lower() for part in path.relative_to(folder).parts]
            begins = [number for number, part in enumerate(parts) if part in ("wsj0", "wsj1")]
            if begins:
                self._files["/".join(parts[begins[0] :])] = path
        if not self._files:
            raise _incomplete(f"{folder} has no folders wsj0 and wsj1")
        dots = [path for name, path in self._files.items() if name.endswith(".dot")]
        self._texts = read_dots(dots)

    def split(self, name: str) -> list[WsjUtterance]:
        """The utterances of one of `SPLITS`, by id.

        Raises:
            UserError: a list, audio or a transcript is missing.
        """
        places = [place for index in SPLITS[name] for place in self._listed(index)]
        places = [place for place in places if not place.startswith(_EXCLUDED)]
        found: dict[str, WsjUtterance] = {}
        missing: list[str] = []
        for place in places:
            utterance = place.rpartition("/")[2]
            files = (self._files.get(place + suffix) for suffix in _AUDIO)
            audio = next(filter(None, files), None)
            if audio is None or utterance not in self._texts:
                missing.append(f"{'audio' if audio is None else 'transcript'} of {place}")
            else:
                found[utterance] = WsjUtterance(utterance, audio, self._texts[utterance])
        if missing:
            raise _incomplete(
                f"{self._folder} lacks audio or transcripts of {len(missing)} of {len(places)} "
                f"utterances of {name}, as the {missing[0]}"
            )
        return [found[utterance] for utterance in sorted(found)]

    def _listed(self, index: str) -> list[str]:
        """Paths that a list names, from `wsj0` or `wsj1` on, without suffix."""
        path = self._files.get(index)
        if path is None:
            raise _incomplete(f"{self._folder} has no {index}")
        lines = path.read_text(encoding="latin-1").splitlines()
        # <disc>: <path>, and comments that begin with ;
        names = [line.partition(":")[2] for line in lines if not line.startswith(";")]
        places = [name.strip().strip("/").lower() for name in names if name.strip()]
        return [place.removesuffix(".wv1") for place in places]


def unpack(folder: Path, splits: Sequence[str], output: Path, *, num_jobs: int) -> None:
    """Write `<output>/<split>/<speaker>/{<utterance>.flac,<speaker>.trans.txt}`; audio that is
    there is kept.

    Args:
        folder: see `WsjCorpus`.
        splits: keys of `SPLITS`.
        output: the new corpus.
        num_jobs: threads that decode audio.

    Raises:
        UserError: discs are missing or damaged, or `sph2pipe` is needed and not installed.
    """
    corpus = WsjCorpus(folder)
    listed = {name: corpus.split(name) for name in splits}  # all, before hours of decoding
    for name, utterances in listed.items():
        texts: dict[str, list[str]] = {}
        for utterance in utterances:
            texts.setdefault(utterance.id[:3], []).append(f"{utterance.id} {utterance.text}\n")
        files = {u: output / name / u.id[:3] / f"{u.id}.flac" for u in utterances}
        missing = [(u.audio, path) for u, path in files.items() if not path.is_file()]
        with ThreadPoolExecutor(num_jobs) as pool:
            try:
                work = pool.map(lambda pair: _to_flac(*pair), missing)
                list(tqdm(work, total=len(missing), desc=f"unpacking {name}", unit="file"))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        for speaker, lines in texts.items():
            path = output / name / speaker / f"{speaker}.trans.txt"
            if not path.is_file() or path.read_text(encoding="utf-8") != "".join(lines):
                write_text(path, "".join(lines))
        logging.info("%s: %d utterances, %d unpacked now", name, len(utterances), len(missing))


def _to_flac(source: Path, output: Path) -> None:
    samples, rate = read_sphere(source)
    with atomic_path(output) as partial:
        soundfile.write(partial, samples, rate, format="FLAC", subtype="PCM_16")


def _incomplete(problem: str) -> UserError:
    return UserError(problem, remedy=_REMEDY, parameters=("corpus_dir",))
