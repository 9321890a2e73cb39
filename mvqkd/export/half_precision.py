"""float32 files -> float16 files."""

from __future__ import annotations

from pathlib import Path

from mvqkd.export.writing import save, set_metadata


def to_float16(source: Path, path: Path) -> None:
    """Write the float16 file of a float32 file. Inputs and outputs stay float32, as sherpa-onnx
    gives and takes them; a GPU computes in float16 in between."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.load(source)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    converted = convert_float_to_float16(model, keep_io_types=True)
    OnnxModel(converted).topological_sort()  # the casts were appended: no valid order
    set_metadata(converted, metadata)
    save(converted, path)
