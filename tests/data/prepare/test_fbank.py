from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from mvqkd.data.folder import DataFolder
from mvqkd.data.prepare import fbank as extraction
from mvqkd.data.prepare.fbank import manifest_cuts, store_cuts, store_features
from mvqkd.data.prepare.manifests import prepare_manifests
from mvqkd.data.prepare.noise_cuts import noise_cuts
from mvqkd.data.prepare.noises import prepare_musan
from mvqkd.errors import UserError
from mvqkd.features.fbank import extract
from mvqkd.storage.jsonl import read_items, write_items

SPEEDS = (1.0, 0.9, 1.1)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "_SHARD_SIZE", 3)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def output_of(data: Path) -> Path:
    return data / "fbank/tiny_cuts_train-tiny.jsonl.gz"


def test_lhotse_reads_cuts_and_features(prepared: Path, tmp_path: Path) -> None:
    cuts = manifest_cuts(DataFolder(prepared), "train-tiny")
    store_features(cuts, output_of(tmp_path), speeds=SPEEDS, num_jobs=1)
    stored = list(CutSet.from_file(output_of(tmp_path)))
    assert len(stored) == 30
    for cut in cuts:
        for speed in SPEEDS:
            name = cut.id if speed == 1 else f"{cut.id}_sp{speed}"
            (found,) = (other for other in stored if other.id == name)
            expected = cut if speed == 1 else cut.perturb_speed(speed)
            assert found.duration == expected.duration
            assert found.supervisions[0].text == cut.supervisions[0].text
            np.testing.assert_allclose(
                found.load_features(), extract(expected.load_audio()[0]), atol=2**-6 + 1e-5
            )


def test_missing_shards_are_made_again_with_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    cuts = manifest_cuts(DataFolder(prepared), "train-tiny")
    output = output_of(tmp_path)
    store_features(cuts, output, speeds=SPEEDS, num_jobs=1)
    whole = files(tmp_path)
    archives = sorted(output.parent.glob("feats_*/*.lca"))
    assert len(archives) == 4

    # As after a kill: a shard half written, one without its manifest, the results missing.
    archives[0].rename(archives[0].with_name(f".tmp-1-{archives[0].name}"))
    archives[1].with_suffix(".jsonl.gz").unlink()
    output.unlink()
    kept = archives[2].stat().st_mtime_ns
    store_features(cuts, output, speeds=SPEEDS, num_jobs=2)
    assert files(tmp_path) == whole
    assert archives[2].stat().st_mtime_ns == kept

    # A deleted archive of finished features, as the loaders' error advises.
    archives[3].unlink()
    store_features(cuts, output, speeds=SPEEDS, num_jobs=1)
    assert files(tmp_path) == whole


def test_is_done_once(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = manifest_cuts(DataFolder(prepared), "dev-a")
    output = output_of(tmp_path)
    store_features(cuts, output, num_jobs=1)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    store_features(cuts, output, num_jobs=1)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_changed_audio_is_extracted_anew(prepared: Path, tmp_path: Path) -> None:
    cuts = manifest_cuts(DataFolder(prepared), "dev-a")
    output = output_of(tmp_path)
    store_features(cuts, output, num_jobs=1, audio="first")
    (folder,) = output.parent.glob("feats_*")
    archive = folder / "000000.lca"
    times = []
    for audio in ("first", "second", "second"):
        store_features(cuts, output, num_jobs=1, audio=audio)
        times.append(archive.stat().st_mtime_ns)
    assert times[0] < times[1] == times[2]


def test_other_cuts_replace_the_old_features_other_speeds_only_when_asked(
    prepared: Path, tmp_path: Path
) -> None:
    cuts = manifest_cuts(DataFolder(prepared), "dev-a")
    output = output_of(tmp_path)
    store_features(cuts, output, num_jobs=1)
    (old,) = output.parent.glob("feats_*")
    store_features(cuts[:2], output, num_jobs=1)
    (new,) = output.parent.glob("feats_*")
    assert old != new
    assert [item["id"] for item in read_items(output)] == [cut.id for cut in cuts[:2]]
    with pytest.raises(UserError, match=r"at the speeds \[1.0\], not \[1.0, 0.9, 1.1\]"):
        store_features(cuts[:2], output, speeds=SPEEDS, num_jobs=1)
    assert new.is_dir() and len(list(read_items(output))) == 2
    output.unlink()
    store_features(cuts[:2], output, speeds=SPEEDS, num_jobs=1)
    assert len(list(read_items(output))) == 6
    assert not new.exists()


def test_splits_whose_names_begin_alike_leave_each_other_alone(
    prepared: Path, tmp_path: Path
) -> None:
    cuts = manifest_cuts(DataFolder(prepared), "dev-a")
    short, long = (tmp_path / f"fbank/tiny_cuts_{part}.jsonl.gz" for part in ("dev", "dev-other"))
    store_features(cuts, short, num_jobs=1)
    store_features(cuts, long, num_jobs=1)
    before = {name: data for name, data in files(tmp_path).items() if "dev-other" in name}
    store_features(cuts[:2], short, num_jobs=1)
    after = {name: data for name, data in files(tmp_path).items() if "dev-other" in name}
    assert after == before
    assert len(list(short.parent.glob("feats_*"))) == 2


def test_unreadable_audio_is_reported_and_tried_again(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, data = tmp_path / "corpus", tmp_path / "data"
    shutil.copytree(corpus, root)
    prepare_manifests(
        root, {"dev": ["dev-a"]}, data, prefix="tiny", min_seconds=0, max_seconds=9, num_jobs=1
    )
    cuts = manifest_cuts(DataFolder(data), "dev-a")
    audio = Path(cuts[1].recording.sources[0].source)
    audio.rename(audio.with_suffix(".away"))
    output = output_of(data)
    with pytest.raises(UserError, match=f"audio unreadable.*{cuts[1].id}"):
        store_features(cuts, output, num_jobs=1, strict=True)
    assert not output.exists()
    store_features(cuts, output, num_jobs=1)
    assert [item["id"] for item in read_items(output)] == [cuts[i].id for i in (0, 2, 3)]
    assert cuts[1].id in caplog.text
    assert cuts[1].id in (output.parent / "tiny_cuts_train-tiny.report.json").read_text()
    audio.with_suffix(".away").rename(audio)
    store_features(cuts, output, num_jobs=1)
    assert len(list(read_items(output))) == 4


def test_segments_of_a_long_recording(
    tmp_path: Path, make_speech: Callable[..., np.ndarray]
) -> None:
    samples = make_speech(4, 1)
    channels = np.stack([make_speech(4, 2), samples], axis=1)
    soundfile.write(tmp_path / "talk.wav", channels, 16000, subtype="FLOAT")
    data = DataFolder(tmp_path)
    data.record_splits(tmp_path, "x", {"train": ["a"]})
    recording = {
        "id": "talk",
        "sources": [{"type": "file", "channels": [0, 1], "source": str(tmp_path / "talk.wav")}],
        "sampling_rate": 16000,
        "num_samples": 64000,
        "duration": 4.0,
    }
    segment = {"recording_id": "talk", "channel": 1, "text": "A"}
    write_items(data.manifest("recordings", "a"), [recording])
    write_items(
        data.manifest("supervisions", "a"),
        [
            segment | {"id": "u1", "start": 0.5, "duration": 1.0},
            segment | {"id": "u2", "start": 2.0, "duration": 1.5},
        ],
    )
    output = data.cuts("a")
    assert output == tmp_path / "fbank/x_cuts_a.jsonl.gz"
    store_features(manifest_cuts(data, "a"), output, speeds=SPEEDS, num_jobs=1)
    cuts = list(CutSet.from_file(output))
    assert all(cut.supervisions[0].start == 0 for cut in cuts)  # counted from the cut's
    features = {cut.id: cut.load_features() for cut in cuts}
    np.testing.assert_allclose(features["u1"], extract(samples[8000:24000]), atol=0.016)
    np.testing.assert_allclose(features["u2"], extract(samples[32000:56000]), atol=0.016)
    assert len(features["u2_sp1.1"]) == round(150 / 1.1)


def test_on_the_fly(prepared: Path, tmp_path: Path) -> None:
    cuts = manifest_cuts(DataFolder(prepared), "dev-a")
    output = output_of(tmp_path)
    store_cuts(cuts, output, speeds=SPEEDS)
    assert len(list(CutSet.from_file(output))) == 12
    first = files(tmp_path)
    store_cuts(cuts, output, speeds=SPEEDS)
    assert files(tmp_path) == first
    # From one kind to the other.
    store_features(cuts, output, num_jobs=1)
    assert all("features" in item for item in read_items(output))
    store_cuts(cuts, output)
    assert not any("features" in item for item in read_items(output))
    assert not list(output.parent.glob("feats_*"))


def test_noises_are_windows(tmp_path: Path, make_speech: Callable[..., np.ndarray]) -> None:
    for part, seconds in (("music", 25.0), ("speech", 10.5), ("noise", 0.5)):
        (tmp_path / "musan" / part).mkdir(parents=True)
        path = tmp_path / "musan" / part / f"{part}.wav"
        soundfile.write(path, make_speech(seconds, 1), 16000)
    prepare_musan(tmp_path, tmp_path / "manifests", num_jobs=1, strict=False)
    cuts = {cut.id: (cut.start, cut.duration) for cut in noise_cuts(tmp_path / "manifests")}
    assert cuts == {
        "music-0": (0, 10),
        "music-1": (10, 10),
        "music-2": (20, 5),
        "speech-0": (0, 10),
    }
    output = tmp_path / "fbank/musan_cuts.jsonl.gz"
    store_features(noise_cuts(tmp_path / "manifests"), output, num_jobs=1)
    assert {cut.id: len(cut.load_features()) for cut in CutSet.from_file(output)} == {
        "music-0": 1000,
        "music-1": 1000,
        "music-2": 500,
        "speech-0": 1000,
    }
    with pytest.raises(UserError, match="musan_recordings"):
        noise_cuts(tmp_path)


def test_missing_or_mismatched_manifests(prepared: Path, tmp_path: Path) -> None:
    data, source = DataFolder(tmp_path), DataFolder(prepared)
    with pytest.raises(UserError, match=r"data.json, .* is missing\n.*prepare the manifests"):
        manifest_cuts(data, "a")
    data.record_splits(tmp_path, "x", {"train": ["a"]})
    with pytest.raises(UserError, match=r"x_recordings_a.* is missing\n.*prepare the manifests"):
        manifest_cuts(data, "a")
    data.manifests.mkdir()
    shutil.copy(source.manifest("recordings", "dev-a"), data.manifest("recordings", "a"))
    shutil.copy(source.manifest("supervisions", "train-tiny"), data.manifest("supervisions", "a"))
    with pytest.raises(UserError, match="which is not in"):
        manifest_cuts(data, "a")
