"""`local/convert_icefall_codes.py`: there and back, under the quantizer's id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mvqkd.data.targets.codes import CodesInfo, CodeStore, write_codes
from mvqkd.errors import UserError
from mvqkd.quantization import Quantizer
from mvqkd.storage.jsonl import read_items
from tests.local.programs import run


@pytest.fixture
def quantizer(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    Quantizer(torch.zeros(12), torch.randn(2, 256, 12, generator=generator)).save(
        tmp_path / "quantizer.pt"
    )
    return tmp_path / "quantizer.pt"


def test_codes_come_back_under_the_id_of_their_quantizer(
    tmp_path: Path, cuts: Path, quantizer: Path
) -> None:
    rng = np.random.default_rng(0)
    codes = {
        item["id"]: rng.integers(0, 256, (round(50 * item["duration"]), 2), dtype=np.uint8)
        for item in read_items(cuts)
    }
    info = CodesInfo("hf:x", 3, 50.0, Quantizer.load(quantizer).id, 2, encoder="multi_quantization")
    total = sum(map(len, codes.values()))
    with write_codes(tmp_path / "codes.h5", info=info, total_frames=total) as writer:
        for name, rows in codes.items():
            writer.write(name, rows)
    theirs = tmp_path / "vq" / "librispeech_cuts_train-x.jsonl.gz"
    options = ("--cuts", cuts, "--icefall", theirs, "--num-codebooks", 2)
    options += ("--teacher", "hf:x", "--layer", 3)
    run("convert_icefall_codes", "to-icefall", *options, "--codes", tmp_path / "codes.h5")

    back = ("--codes", tmp_path / "back.h5", "--quantizer", quantizer)
    run("convert_icefall_codes", "from-icefall", *options, *back)
    store = CodeStore(tmp_path / "back.h5")
    assert store.info == info
    assert set(store) == set(codes)
    for name, rows in codes.items():
        np.testing.assert_array_equal(store[name], rows)

    run("convert_icefall_codes", "from-icefall", *options, "--codes", tmp_path / "unknown.h5")
    with pytest.raises(UserError, match="quantizer_id"):
        CodeStore(tmp_path / "unknown.h5").require(quantizer_id=info.quantizer_id)


def test_a_quantizer_of_other_codebooks_is_refused(
    tmp_path: Path, cuts: Path, quantizer: Path
) -> None:
    with pytest.raises(UserError, match="has 2 codebooks, the codes are to have 8"):
        run(
            "convert_icefall_codes",
            *("from-icefall", "--cuts", cuts, "--icefall", tmp_path / "none.jsonl.gz"),
            *("--codes", tmp_path / "back.h5", "--quantizer", quantizer),
        )
    assert not (tmp_path / "back.h5").exists()
