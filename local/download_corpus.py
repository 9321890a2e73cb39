#!/usr/bin/env python3
"""Download LibriSpeech, Mini LibriSpeech or MUSAN from OpenSLR.

    python local/download_corpus.py --corpus mini_librispeech --out data/mini_librispeech/corpus
    python local/download_corpus.py --corpus librispeech --out /corpora \\
        --splits "train-clean-100 dev-*"
    python local/download_corpus.py --corpus musan --out /corpora

Writes <out>/LibriSpeech/<split> or <out>/musan; the archives stay beside them. An interrupted
download goes on where it stopped; what is unpacked is kept.
"""

from __future__ import annotations

import argparse
import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lhotse.recipes import download_librispeech, download_musan
from lhotse.recipes.librispeech import LIBRISPEECH, MINI_LIBRISPEECH

from mvqkd.data.splits import expand_splits
from mvqkd.errors import UserError
from mvqkd.recipe.options import Renamed, flatten, list_option
from mvqkd.recipe.program import run_program

SPLITS = {"librispeech": LIBRISPEECH, "mini_librispeech": MINI_LIBRISPEECH, "musan": ()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", choices=SPLITS, required=True, help="what to download")
    parser.add_argument(
        "--splits",
        "--parts",
        action=Renamed,
        type=list_option,
        nargs="+",
        help="names or patterns of splits (default: all)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to download to")
    parser.add_argument(
        "--base-url",
        default="https://www.openslr.org/resources",
        help="OpenSLR or a mirror of it (%(default)s)",
    )
    options = parser.parse_args()
    try:
        if options.corpus == "musan":
            url = f"{options.base_url}/17/musan.tar.gz"
            with verified(options.out / "musan.tar.gz", options.out / ".musan_completed"):
                download_musan(options.out, url=url)
        else:
            patterns, known = flatten(options.splits or [["*"]]), SPLITS[options.corpus]
            for split in expand_splits(patterns, known, options.corpus, remedy="see --help"):
                marker = options.out / "LibriSpeech" / split / ".completed"
                with verified(options.out / f"{split}.tar.gz", marker):
                    download_librispeech(options.out, split, base_url=options.base_url)
    except OSError as error:  # of the network or the disk
        on_disk = "a corpus on disk: --corpus-dir"
        if options.corpus == "musan":
            on_disk = "MUSAN on disk: --musan-dir, or go without: --musan no"
        raise UserError(
            f"{options.corpus} cannot be downloaded from {options.base_url}: {error}",
            remedy="run the same command again to go on, or choose a mirror with --base-url of "
            f"local/download_corpus.py, or give run.sh {on_disk}",
        ) from error


@contextmanager
def verified(archive: Path, marker: Path) -> Iterator[None]:
    """Check an archive that the body downloads and unpacks, unless `marker` said before that it is.

    A server that ignores requests for the rest of a file makes a bad archive of an interrupted
    download, of which tar silently unpacks only the beginning.
    """
    done = marker.is_file()
    try:
        yield
        if not done:
            with gzip.open(archive) as file:
                while file.read(1 << 24):
                    pass
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        marker.unlink(missing_ok=True)
        archive.unlink(missing_ok=True)
        raise UserError(
            f"the download of {archive} was damaged ({error}), and is deleted",
            remedy="run the same command again",
        ) from error


if __name__ == "__main__":
    run_program(main)
