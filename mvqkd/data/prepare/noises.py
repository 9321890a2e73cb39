"""Manifests of MUSAN, or of noises in folders like its own."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from pathlib import Path

from mvqkd.data.prepare.audio_files import probe_file
from mvqkd.data.prepare.folders import walk_files
from mvqkd.data.prepare.listing import Listing
from mvqkd.data.prepare.manifests import prepare_split
from mvqkd.data.prepare.names import canonical, is_utf8, printable
from mvqkd.data.prepare.trees import is_audio
from mvqkd.data.prepare.utterances import Rules
from mvqkd.errors import UserError

MUSAN_KINDS = ("music", "speech", "noise")


def prepare_musan(corpus_dir: Path, output_dir: Path, *, num_jobs: int, strict: bool) -> None:
    """Write `musan_recordings_{music,speech,noise}.jsonl.gz` and their reports.

    Args:
        corpus_dir: folder of `music`, `speech` and `noise`, or the folder that has it as `musan`.
        output_dir: `data/<recipe>/manifests`.
        num_jobs: threads that decode audio.
        strict: write nothing when a file is invalid.

    Raises:
        UserError: a folder is missing or has no audio.
    """
    root = corpus_dir / "musan" if (corpus_dir / "musan").is_dir() else corpus_dir
    files = {
        kind: sorted(path.absolute() for path in walk_files(root / kind) if is_audio(path))
        for kind in MUSAN_KINDS
    }
    names = Counter(canonical(path.stem) for paths in files.values() for path in paths)
    for kind in MUSAN_KINDS:
        if not files[kind]:
            raise UserError(
                f"{root / kind} has no audio",
                remedy="name the folder that has MUSAN, or download it",
                step="corpus",
                parameters=("musan_dir",),
            )
        listing = Listing(files=files[kind])
        for path in files[kind]:
            # A name that several files have becomes one with their folders.
            name = canonical(path.stem)
            if names[name] > 1:
                name = canonical("-".join(path.relative_to(root.absolute()).parts))
            if name in listing.probes or not is_utf8(str(path)):
                fault = "duplicate id" if name in listing.probes else "name is not UTF-8"
                listing.problems.append((printable(name), fault, printable(str(path))))
            else:
                listing.probes[name] = partial(probe_file, name, path)
        prepare_split(
            f"musan_{kind}",
            listing,
            {"recordings": output_dir / f"musan_recordings_{kind}.jsonl.gz"},
            output_dir / f"musan_{kind}.report.json",
            rules=Rules(0.0, math.inf, labelled=False),
            num_jobs=num_jobs,
            strict=strict,
        )
