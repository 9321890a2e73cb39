#!/usr/bin/env python3
"""Compare what embeddings and codes of the same teacher take on disk, from the files themselves.

    python local/storage_report.py --embeddings data/x/embeddings/layer-36 --codes data/x/codes

Rows are bytes on disk, ids and headers included, for an hour of audio; a type of embeddings that is
not there is computed from the number of frames, and marked so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mvqkd.data.targets.codes import CodeStore
from mvqkd.data.targets.embeddings import EmbeddingStore
from mvqkd.errors import UserError
from mvqkd.recipe.program import run_program
from mvqkd.storage.files import write_text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--embeddings", type=Path, nargs="+", required=True, help="files or folders of one layer")
    add("--codes", type=Path, required=True, help="file or folder")
    add("--output", type=Path, help="write the table there too")
    options = parser.parse_args()

    codes = CodeStore(options.codes)
    stores = [EmbeddingStore(path) for path in options.embeddings]
    rows: dict[str, tuple[float, float, str]] = {}
    for store in stores:
        info = store.info
        if (info.teacher, info.layer) != (codes.info.teacher, codes.info.layer):
            raise UserError(
                f"{store.path} is of layer {info.layer} of {info.teacher}, {codes.path} of layer "
                f"{codes.info.layer} of {codes.info.teacher}",
                remedy="give files of one layer of one teacher",
            )
        hours = store.total_frames / info.frame_rate / 3600
        rows[store.dtype.name] = (store.bytes_per_hour, hours, "measured")
    info = stores[0].info
    for dtype, width in (("float32", 4), ("float16", 2)):
        an_hour = info.frame_rate * 3600 * info.dim * width
        rows.setdefault(dtype, (an_hour, 0.0, "computed"))
    hours = codes.total_frames / codes.info.frame_rate / 3600
    an_hour = codes.bytes_per_hour
    name = f"codes, {codes.info.num_codebooks} codebooks"
    table = [
        f"Layer {info.layer} of `{info.teacher}`: {info.dim} dimensions at {info.frame_rate:g} Hz.",
        "",
        "| stored as | MB an hour | GB for 960 h | codes are smaller by | from |",
        "|---|---|---|---|---|",
    ]
    for dtype in ("float32", "float16"):
        value, of, how = rows[dtype]
        source = f"{of:.2f} h of files" if how == "measured" else how
        table.append(
            f"| embeddings, {dtype} | {value / 1e6:.2f} | {value * 960 / 1e9:.2f} | "
            f"{value / an_hour:.1f} | {source} |"
        )
    table.append(
        f"| {name} | {an_hour / 1e6:.3f} | {an_hour * 960 / 1e9:.3f} | 1 | {hours:.2f} h of files |"
    )
    print("\n".join(table))
    if options.output:
        write_text(options.output, "\n".join(table) + "\n")


if __name__ == "__main__":
    run_program(main)
