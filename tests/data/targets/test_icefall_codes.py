from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet, MonoCut, NumpyHdf5Writer, SupervisionSegment

from mvqkd.data.targets.codes import CodesInfo, CodeStore, write_codes
from mvqkd.data.targets.icefall_codes import read_icefall_codes, write_icefall_codes
from mvqkd.errors import UserError

INFO = CodesInfo(
    teacher="fairseq:x", layer=36, frame_rate=50.0, quantizer_id="icefall", num_codebooks=8
)
IDS = ["103-1240-0000", "103-1240-0000_sp0.9", "103-1240-0001"]


def random_codes(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        name: generator.integers(0, 256, (40 + n, 8), dtype=np.uint8) for n, name in enumerate(IDS)
    }


def write_as_icefall(
    folder: Path, codes: dict[str, np.ndarray], *, supervised: bool, frame_shift: float = 0.02
) -> Path:
    """Manifest and storage made with lhotse alone, as icefall's extraction does."""
    cuts = []
    with NumpyHdf5Writer(folder / "indexes.h5") as writer:
        for number, (name, array) in enumerate(codes.items()):
            base, _, speed = name.partition("_sp")
            cut_id = f"{base}-{1000 + number}" + (f"_sp{speed}" if speed else "")
            cut = MonoCut(id=cut_id, start=0, duration=0.02 * len(array), channel=0)
            if supervised:
                cut.supervisions = [SupervisionSegment(name, name, 0, cut.duration)]
            cut.codebook_indexes = writer.store_array(
                key=cut_id, value=array, frame_shift=frame_shift, temporal_dim=0, start=0
            )
            cuts.append(cut)
    manifest = folder / "librispeech_cuts_train-clean-100.jsonl.gz"
    CutSet.from_cuts(cuts).to_file(manifest)
    return manifest


@pytest.mark.parametrize("supervised", [True, False])
def test_icefall_s_files_are_matched_by_utterance(tmp_path: Path, supervised: bool) -> None:
    codes = random_codes()
    manifest = write_as_icefall(tmp_path, codes, supervised=supervised)
    others = read_icefall_codes([manifest], tmp_path / "all.h5", info=INFO, utterances=IDS[:2])
    store = CodeStore(tmp_path / "all.h5")
    assert others == 1 and set(store) == set(IDS[:2]) and store.info == INFO
    for name in IDS[:2]:
        np.testing.assert_array_equal(store[name], codes[name])


def test_a_copy_whose_supervision_is_named_as_the_original_is_not_taken_for_it(
    tmp_path: Path,
) -> None:
    codes = random_codes()
    manifest = write_as_icefall(tmp_path, codes, supervised=True)
    cuts = list(CutSet.from_file(manifest))
    for cut in cuts:
        cut.supervisions[0].id = IDS[0] if "_sp" in cut.id else cut.supervisions[0].id
    CutSet.from_cuts(cuts[::-1]).to_file(manifest)
    read_icefall_codes([manifest], tmp_path / "all.h5", info=INFO, utterances=[IDS[0]])
    np.testing.assert_array_equal(CodeStore(tmp_path / "all.h5")[IDS[0]], codes[IDS[0]])


def test_files_that_were_moved_are_found_beside_the_manifest(tmp_path: Path) -> None:
    codes = random_codes()
    (tmp_path / "there").mkdir()
    write_as_icefall(tmp_path / "there", codes, supervised=True)
    moved = tmp_path / "here"
    (tmp_path / "there").rename(moved)
    manifest = moved / "librispeech_cuts_train-clean-100.jsonl.gz"
    read_icefall_codes([manifest], tmp_path / "all.h5", info=INFO, utterances=IDS)
    np.testing.assert_array_equal(CodeStore(tmp_path / "all.h5")[IDS[2]], codes[IDS[2]])
    (moved / "indexes.h5").unlink()
    with pytest.raises(UserError, match="put icefall's"):
        read_icefall_codes([manifest], tmp_path / "all.h5", info=INFO, utterances=IDS)


@pytest.mark.parametrize("shift", [0.02, 0.04])
def test_lhotse_reads_what_we_write_and_so_do_we(tmp_path: Path, shift: float) -> None:
    codes, info = random_codes(), replace(INFO, frame_rate=1 / shift)
    path = tmp_path / "ours.h5"
    with write_codes(path, info=info, total_frames=sum(map(len, codes.values()))) as writer:
        for name, array in codes.items():
            writer.write(name, array)
    source = tmp_path / "cuts.jsonl.gz"
    CutSet.from_cuts(
        MonoCut(
            id=name,
            start=start,  # of a segment in a long recording
            duration=shift * len(codes[name]),
            channel=0,
            supervisions=[SupervisionSegment(name, name, 0, shift * len(codes[name]))],
        )
        for name, start in zip(IDS, (0, 3.5, 20.0), strict=True)
    ).to_file(source)
    output = tmp_path / "vq_fbank_layer36_cb8" / "librispeech_cuts_train.jsonl.gz"
    write_icefall_codes(CodeStore(path), source, output)
    cuts = CutSet.from_file(output)
    for cut in cuts:
        assert cut.codebook_indexes.frame_shift == shift
        np.testing.assert_array_equal(cut.load_codebook_indexes(), codes[cut.id])
        half = cut.codebook_indexes.load(start=cut.start, duration=20 * shift)
        np.testing.assert_array_equal(half, codes[cut.id][:20])
    read_icefall_codes([output], tmp_path / "again.h5", info=info, utterances=IDS)
    again = CodeStore(tmp_path / "again.h5")
    for name, array in codes.items():
        np.testing.assert_array_equal(again[name], array)


def test_codes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    manifest = write_as_icefall(tmp_path, random_codes(), supervised=True)
    output = tmp_path / "all.h5"
    with pytest.raises(UserError, match="no codes of 1 utterances, as 7-7-7"):
        read_icefall_codes([manifest], output, info=INFO, utterances=[*IDS, "7-7-7"])
    with pytest.raises(UserError, match=f"{IDS[0]} is there twice"):
        read_icefall_codes([manifest, manifest], output, info=INFO, utterances=IDS)
    slow = write_as_icefall(tmp_path, random_codes(), supervised=True, frame_shift=0.04)
    with pytest.raises(UserError, match="8 codebooks at 25 Hz, not 8 at 50 Hz"):
        read_icefall_codes([slow], output, info=INFO, utterances=IDS)
    wide = {name: array.astype(np.int64) + 200 for name, array in random_codes().items()}
    manifest = write_as_icefall(tmp_path, wide, supervised=True)
    with pytest.raises(UserError, match="are not 0 to 255"):
        read_icefall_codes([manifest], output, info=INFO, utterances=IDS)
    assert not output.exists()
