"""Audio files whose headers say something else than what they hold."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import AudioSource, MonoCut, Recording

from mvqkd.data.prepare.audio_files import Fault, probe_file, probe_recording
from mvqkd.data.prepare.mp3 import count_frames
from mvqkd.features.reading import read_audio, refuse_short_audio

RATE = 16000


def samples(seconds: float, rate: int = RATE) -> np.ndarray:
    """Speech-like loudness: where the rate of an MP3 varies, it does so much."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(time)) * 0.05
    return np.where(time % 2 < 1, 0.3 * np.sin(2 * np.pi * 200 * time), noise).astype(np.float32)


def streamed_wav(path: Path, size: int) -> np.ndarray:
    """A WAV whose header says that `size` bytes of samples follow."""
    x = samples(1.0)
    soundfile.write(path, x, RATE, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    place = data.find(b"data")
    data[place + 4 : place + 8] = struct.pack("<I", size)
    data[4:8] = struct.pack("<I", min(size + 36, 0xFFFFFFFF))
    path.write_bytes(data)
    return x


@pytest.mark.parametrize(
    "size",
    [0x7FFFF000, 0x7FFFEFD4, 0x7FFFFFDB, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF],
    ids=hex,
)
def test_a_placeholder_in_a_wav_is_no_promise(tmp_path: Path, size: int) -> None:
    x = streamed_wav(tmp_path / "x.wav", size)
    found = probe_file("x", tmp_path / "x.wav")
    assert (found.num_samples, found.duration) == (len(x), 1.0)
    read = read_audio(MonoCut("x", 0.0, found.duration, 0, recording=found))
    np.testing.assert_allclose(read, x, atol=2**-15)


@pytest.mark.parametrize("size", [32002, 50000, 0x7FFE0000, 0x90000000], ids=hex)
def test_a_wav_that_promises_more_is_truncated(tmp_path: Path, size: int) -> None:
    streamed_wav(tmp_path / "x.wav", size)
    with pytest.raises(Fault, match="audio truncated"):
        probe_file("x", tmp_path / "x.wav")


def mp3(path: Path, mode: str, *, header: bool, rate: int = RATE, channels: int = 1) -> int:
    """An MP3 of three seconds, with or without the frame that says how long it is; its number of
    samples."""
    x = samples(3.0, rate)
    soundfile.write(
        path,
        np.stack([x] * channels, 1),
        rate,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode=mode,
        compression_level=0.5,
    )
    if not header:
        data = path.read_bytes()
        size = next(i for i in range(4, len(data)) if data[i : i + 2] == data[:2])
        path.write_bytes(data[size:])
    return len(x)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_mp3_of_varying_rate_without_its_length_is_left_out(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "x.mp3"
    whole = mp3(path, "VARIABLE", header=True, rate=rate)
    assert probe_file("x", path).num_samples == whole
    found = count_frames(path)
    assert found.says_length and 0 <= found.samples - whole < 4 * found.per_frame
    mp3(path, "VARIABLE", header=False, rate=rate)
    assert count_frames(path) == found._replace(says_length=False)
    assert soundfile.info(path).frames < 0.8 * whole  # what a decoder would give
    with pytest.raises(Fault) as fault:
        probe_file("x", path)
    assert fault.value.kind == "length unknown"
    assert f"of its {found.samples} samples" in fault.value.detail


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_of_constant_rate_without_its_length_is_used(
    tmp_path: Path, rate: int, channels: int
) -> None:
    """Between tags, whose bytes may look like frames."""
    path = tmp_path / "x.mp3"
    whole = mp3(path, "CONSTANT", header=False, rate=rate, channels=channels)
    bare = path.read_bytes()
    picture = bare[:2] * 64
    path.write_bytes(b"ID3\x04\x00\x00\x00\x00\x01\x00" + picture + bare + b"TAG" + picture)
    found = probe_file("x", path)
    frames = count_frames(path)
    assert 0 <= found.num_samples - whole < 4 * frames.per_frame  # an encoder adds silence
    assert frames.samples == found.num_samples and not frames.says_length
    cut = MonoCut("x", 0.0, found.duration, 0, recording=found)
    assert len(read_audio(cut)) == found.num_samples


def test_mp3_files_that_were_joined_are_not_half_used(tmp_path: Path) -> None:
    path = tmp_path / "x.mp3"
    whole = mp3(path, "CONSTANT", header=True)
    path.write_bytes(2 * path.read_bytes())
    assert soundfile.info(path).frames == whole
    with pytest.raises(Fault, match="length unknown"):
        probe_file("x", path)


def test_a_truncated_mp3_with_its_length_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "x.mp3"
    mp3(path, "VARIABLE", header=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Fault, match="audio truncated"):
        probe_file("x", path)


def test_other_files_have_no_frames_of_mp3(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(np.random.default_rng(0).bytes(100000))
    assert count_frames(tmp_path / "x").samples == 0


def test_flac_without_its_length_is_left_out(tmp_path: Path) -> None:
    """sox and flac write such files to pipes: the 36 bits of their number of samples are 0."""
    path = tmp_path / "x.flac"
    soundfile.write(path, samples(1.0), RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    with pytest.raises(Fault) as fault:
        probe_file("x", path)
    assert fault.value.kind == "length unknown" and "convert" in fault.value.detail


def recording(path: Path, num_samples: int) -> Recording:
    return Recording(
        id="x",
        sources=[AudioSource("file", [0], str(path))],
        sampling_rate=RATE,
        num_samples=num_samples,
        duration=num_samples / RATE,
    )


@pytest.mark.parametrize("wrong", [-400, -80, -1, 0, 4, 80, 400])
def test_counts_of_samples_that_were_rounded(tmp_path: Path, wrong: int) -> None:
    soundfile.write(tmp_path / "x.wav", samples(1.0), RATE)
    promised = recording(tmp_path / "x.wav", RATE + wrong)
    found = probe_recording(promised)
    assert (found.num_samples, found.duration) == (RATE, 1.0)
    # The same behind transforms: of a rate, and of a speed.
    assert probe_recording(promised.resample(8000)).num_samples == RATE // 2
    faster = probe_recording(promised.perturb_speed(1.1))
    assert faster.num_samples == found.perturb_speed(1.1).num_samples
    assert faster.transforms and faster.id == "x_sp1.1"


@pytest.mark.parametrize("wrong", [-401, 401, 16000])
def test_other_audio_than_the_manifest_says(tmp_path: Path, wrong: int) -> None:
    soundfile.write(tmp_path / "x.wav", samples(1.0), RATE)
    with pytest.raises(Fault, match="not as in the manifest"):
        probe_recording(recording(tmp_path / "x.wav", RATE + wrong))
    other = Recording.from_file(tmp_path / "x.wav").resample(8000)
    soundfile.write(tmp_path / "x.wav", samples(1.0, 8000), 8000)
    with pytest.raises(Fault, match="8000 Hz, not 16000"):
        probe_recording(other)


def two_channels(tmp_path: Path, lengths: tuple[int, int], promised: int) -> Recording:
    for channel, length in enumerate(lengths):
        soundfile.write(tmp_path / f"{channel}.wav", samples(1.1)[:length], RATE)
    sources = [
        AudioSource("file", [channel], str(tmp_path / f"{channel}.wav")) for channel in (0, 1)
    ]
    return Recording(
        id="x",
        sources=sources,
        sampling_rate=RATE,
        num_samples=promised,
        duration=promised / RATE,
    )


@pytest.mark.parametrize("lengths", [(RATE, RATE), (RATE, RATE - 150), (RATE - 150, RATE)])
@pytest.mark.parametrize("wrong", [-400, -1, 0, 400])
def test_counts_of_a_recording_in_two_files(tmp_path: Path, lengths, wrong: int) -> None:
    found = probe_recording(two_channels(tmp_path, lengths, RATE + wrong))
    assert found.num_samples == RATE
    refuse_short_audio()  # as every reader of the corpus does
    assert found.load_audio().shape == (2, RATE)
    assert found.load_audio(channels=1).shape == (1, RATE)


def test_two_files_that_differ_in_length(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="differ in length"):
        probe_recording(two_channels(tmp_path, (RATE, RATE - 161), RATE))
    with pytest.raises(Fault, match="not as in the manifest"):
        probe_recording(two_channels(tmp_path, (RATE, RATE), RATE + 401))
