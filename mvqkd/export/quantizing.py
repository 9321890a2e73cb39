"""float32 files -> int8 files: weights of matrix products in 8 bits, activations quantized as they
come."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mvqkd.export.writing import set_metadata
from mvqkd.storage.files import atomic_path

EXCLUSIONS: tuple[tuple[str, ...], ...] = (
    (),
    ("/project/",),
    ("/project/", "/attention/"),
    ("/project/", "/attention/", "/convolution/"),
)
"""Parts of names of an encoder's nodes that stay float32, from none to all but the feed-forward
modules: to be tried in turn where a file costs too many errors. `/project/` are those of the
subsampling, whose inputs span the features' whole range, and of the joiner's space."""

_OPERATIONS = {"decoder": ["MatMul", "Gather"]}


def quantize(name: str, source: Path, path: Path, *, exclude: Sequence[str] = ()) -> int:
    """Write the int8 file of a float32 file (onnxruntime's dynamic quantization, with a scale for
    each output channel).

    Args:
        name: `encoder`, `decoder`, `joiner` or `ctc`.
        source: float32 file.
        path: file to write.
        exclude: parts of names of nodes that stay float32, such as `/attention/`.

    Returns:
        Matrix products in 8 bits.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    kept = [node.name for node in model.graph.node if any(part in node.name for part in exclude)]
    with atomic_path(path) as partial:
        with _quiet():
            quantize_dynamic(
                model,
                partial,
                op_types_to_quantize=_OPERATIONS.get(name, ["MatMul"]),
                weight_type=QuantType.QInt8,
                per_channel=True,
                nodes_to_exclude=kept,
            )
        quantized = onnx.load(partial)
        set_metadata(quantized, metadata)  # without the quantizer's own
        del quantized.graph.value_info[:]  # shapes that follow from the others
        partial.write_bytes(quantized.SerializeToString())
    return sum(node.op_type == "MatMulInteger" for node in quantized.graph.node)


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime advises, in warnings, to optimize the graph first, which its sessions do."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
