"""All files of a recognizer in all precisions: written, verified, and those of int8 measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mvqkd.evaluation.wer import ErrorCounts, log_line
from mvqkd.export.half_precision import to_float16
from mvqkd.export.interface import Graph
from mvqkd.export.quantizing import EXCLUSIONS, quantize
from mvqkd.export.targets import Target
from mvqkd.export.verifying import TOLERANCE, verify_all, verify_file
from mvqkd.export.writing import write_graph
from mvqkd.models import AsrModel

Measure = Callable[[Mapping[str, Path], str], ErrorCounts]
"""Counts the errors of files, which the second argument names for the log."""


class Written(NamedTuple):
    """Files of one recognizer in one precision."""

    target: Target
    precision: str
    files: dict[str, Path]
    counts: ErrorCounts | None
    """None where they were not measured."""
    kept: tuple[str, ...] = ()
    """Parts of names of nodes that stayed float32 in int8 files."""


class Int8Policy(NamedTuple):
    """Which int8 files are good enough."""

    more_errors: float = 0.02
    """Share by which they may have more errors than the float32 files; one error more is always
    taken."""
    exclude: tuple[str, ...] = ()
    """Parts of names of nodes of the encoder that stay float32."""

    def allows(self, errors: int, of_float32: int) -> bool:
        """Whether files with so many errors are written."""
        return errors <= of_float32 * (1 + self.more_errors) + 1


def write_files(
    model: AsrModel,
    target: Target,
    folder: Path,
    *,
    precisions: Sequence[str],
    features: Sequence[Tensor],
    measure: Measure | None = None,
    int8: Int8Policy | None = None,
) -> list[Written]:
    """Write the files of a recognizer.

    Args:
        model: in evaluation mode.
        target: the recognizer.
        folder: where to write.
        precisions: `float16` and `int8` beside float32.
        features: utterances (T, C), whose outputs in onnxruntime are compared with torch's.
        measure: needed for int8.
        int8: the policy; None: the default.

    Raises:
        ValueError: the model cannot be used like that.
        UserError: a file fails its verification.
    """
    graphs = target.graphs(model)
    files = _paths(target, folder, "float32")
    for name, graph in graphs.items():
        write_graph(graph, files[name])
    _verify(graphs, files, features, target, "float32")
    counts = None
    if measure is not None and "int8" in precisions:
        counts = measure(files, f"{target.name} float32")
    found = [Written(target, "float32", files, counts)]
    if "float16" in precisions:
        halves = _paths(target, folder, "float16")
        for name, path in halves.items():
            to_float16(files[name], path)
        _verify(graphs, halves, features, target, "float16")
        found.append(Written(target, "float16", halves, None))
    if "int8" in precisions:
        assert measure is not None and counts is not None
        written = _write_int8(graphs, found[0], folder, measure, int8 or Int8Policy())
        found += [] if written is None else [written]
    return found


def _write_int8(
    graphs: Mapping[str, Graph],
    whole: Written,
    folder: Path,
    measure: Measure,
    policy: Int8Policy,
) -> Written | None:
    """The int8 files with the fewest nodes in float32 that pass; None if none do."""
    assert whole.counts is not None
    target, final = whole.target, _paths(whole.target, folder, "int8")
    # Under names that nothing takes for models until their errors are known.
    tried = {name: path.with_name(f".tmp-{path.name}") for name, path in final.items()}
    try:
        for exclusions in EXCLUSIONS:
            kept = (*policy.exclude, *exclusions)
            for name, path in tried.items():
                of_encoder = name in ("encoder", "ctc")
                quantize(name, whole.files[name], path, exclude=kept if of_encoder else ())
                verify_file(path, graphs[name].interface)
            about = f"int8, but {' '.join(kept)}" if kept else "int8"
            counts = measure(tried, f"{target.name} {about}")
            logging.info("%s", log_line(f"{target.name} {about}", counts))
            if policy.allows(counts.errors, whole.counts.errors):
                for name, path in tried.items():
                    path.replace(final[name])
                return Written(target, "int8", final, counts, kept)
    finally:
        for path in tried.values():
            path.unlink(missing_ok=True)
    for path in final.values():  # of an earlier export, of other weights
        path.unlink(missing_ok=True)
    logging.warning(
        "%s: no int8 files, as all that were tried have more errors than are allowed (%s with "
        "float32)",
        target.name,
        log_line("float32", whole.counts),
    )
    return None


def _paths(target: Target, folder: Path, precision: str) -> dict[str, Path]:
    return {name: folder / file for name, file in target.files(precision).items()}


def _verify(
    graphs: Mapping[str, Graph],
    files: Mapping[str, Path],
    features: Sequence[Tensor],
    target: Target,
    precision: str,
) -> None:
    worst = verify_all(graphs, files, features, tolerance=TOLERANCE[precision])
    logging.info(
        "verified the %s %s files: interface, metadata, and %d utterances through onnxruntime, "
        "which differ from torch's by at most %.1g of the largest output",
        precision,
        target.name,
        len(features),
        worst,
    )
