"""Which files are written, and which int8 files are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.evaluation.wer import ErrorCounts
from mvqkd.export.files import Int8Policy, write_files
from mvqkd.export.quantizing import EXCLUSIONS
from mvqkd.export.targets import Target
from mvqkd.models import FULL_CONTEXT
from tests.export.helpers import CHUNKS, make_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def written(tmp_path: Path, errors: list[int], **options) -> tuple[list, list[list[str]]]:
    """What is written when files have so many errors: first those of float32."""
    remaining, seen = iter(errors), []

    def measure(files, name: str) -> ErrorCounts:
        seen.append(sorted(path.name for path in files.values()))
        assert all(path.is_file() for path in files.values())
        return ErrorCounts(substitutions=next(remaining), words=1000)

    target = Target("ctc", False, FULL_CONTEXT, 30, 9)
    found = write_files(
        make_model(causal=False),
        target,
        tmp_path,
        precisions=["float32", "int8"],
        features=[],
        measure=measure,
        int8=Int8Policy(0.02, **options),
    )
    return found, seen


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_int8_files_with_too_many_errors_get_more_of_float32(tmp_path: Path) -> None:
    (whole, int8), seen = written(tmp_path, [100, 150, 104, 103])
    assert [item.counts.errors for item in (whole, int8)] == [100, 103]
    assert int8.kept == EXCLUSIONS[2]
    assert names(tmp_path) == ["ctc-epoch-30-avg-9.int8.onnx", "ctc-epoch-30-avg-9.onnx"]
    # What is measured has a name that nothing takes for a model.
    assert seen[0] == ["ctc-epoch-30-avg-9.onnx"]
    assert all(files[0].startswith(".tmp-") for files in seen[1:])


def test_without_a_good_one_there_is_no_int8_file(tmp_path: Path) -> None:
    (tmp_path / "ctc-epoch-30-avg-9.int8.onnx").write_bytes(b"of an earlier export")
    found, seen = written(tmp_path, [100, *[104] * len(EXCLUSIONS)])
    assert [item.precision for item in found] == ["float32"]
    assert len(seen) == 1 + len(EXCLUSIONS)
    assert names(tmp_path) == ["ctc-epoch-30-avg-9.onnx"]


def test_nodes_of_the_user_stay_too(tmp_path: Path) -> None:
    (_, int8), _ = written(tmp_path, [0, 1], exclude=("/layers.0/",))
    assert int8.kept == ("/layers.0/",)


def test_names_are_icefalls() -> None:
    target = Target("transducer", True, CHUNKS, 30, 9)
    assert target.files("int8") == {
        name: f"{name}-epoch-30-avg-9-chunk-4-left-8.int8.onnx"
        for name in ("encoder", "decoder", "joiner")
    }
    assert target.recognizer == "sherpa_onnx.OnlineRecognizer.from_transducer"
    assert target.command({"encoder": "e", "decoder": "d"}, "t", "w.wav") == (
        "sherpa-onnx --tokens=t --encoder=e --decoder=d w.wav"
    )
    compile(target.program({"encoder": "e"}, "t", "w.wav"), "program", "exec")
