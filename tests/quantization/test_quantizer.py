"""Fit, encode, decode, save."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from mvqkd.errors import UserError
from mvqkd.quantization import Quantizer, TensorFrames, load_quantizer, measure
from mvqkd.quantization import quantizer as quantizer_module
from mvqkd.quantization.counts import sums_by_code
from mvqkd.quantization.frames import BLOCK_FRAMES, sample

SMALL = {"num_codebooks": 2, "codebook_size": 16, "num_steps": 60}


def clustered(frames=4000, dim=12, seed=0):
    """Frames with structure: a few dimensions mixed into many, a mean, unequal variances."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(4, dim, generator=torch.Generator().manual_seed(99))
    hidden = torch.randn(frames, 4, generator=generator).sign() * 2
    hidden = hidden + 0.4 * torch.randn(frames, 4, generator=generator)
    noise = 0.1 * torch.randn(frames, dim, generator=generator)
    return hidden @ mixing + noise + torch.linspace(-5, 5, dim)


@pytest.fixture(scope="module")
def fitted():
    return Quantizer.fit(clustered(), **SMALL)


def relative_error(quantizer, x):
    x_hat = quantizer.decode(quantizer.encode(x))
    return float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


def test_reported_error_is_that_of_decoded_codes(fitted):
    x = clustered(1000, seed=1)
    report = measure(fitted, x)
    assert report.relative_error == pytest.approx(relative_error(fitted, x), rel=1e-5)
    assert report.num_frames == 1000
    # 256 reconstructions of 16 clusters: most of the variance is explained.
    assert report.relative_error < 0.1
    codes = fitted.encode(x)
    for q in range(2):
        p = torch.bincount(codes[:, q].long(), minlength=16) / 1000
        entropy = -(p[p > 0] * p[p > 0].log2()).sum()
        assert report.entropy[q] == pytest.approx(float(entropy), abs=1e-5)
        assert report.utilization[q] == pytest.approx(float((p > 0).float().mean()))


def test_many_codebooks_are_searched_harder_unless_set_otherwise():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 24, generator=generator)

    def error(quantizer, **effort):
        return (x - quantizer.decode(quantizer.encode(x, **effort))).square().sum()

    few, many = (
        Quantizer(torch.zeros(24), 0.3 * torch.randn(q, 64, 24, generator=generator))
        for q in (16, 17)
    )
    assert error(few) == error(few, beam_size=8, sweeps=1)
    assert error(many) == error(many, beam_size=16, sweeps=2)
    assert error(many) < error(many, beam_size=16, sweeps=1) < error(many, beam_size=8, sweeps=1)


def test_decode_corrects_the_sum_of_mean_and_chosen_centers(fitted):
    codes = torch.tensor([[[3, 0], [15, 7]]])
    expected = fitted.mean + fitted.centers[0, [3, 15]] + fitted.centers[1, [0, 7]]
    assert torch.equal(fitted.direct_sum(codes), expected[None])
    plain = Quantizer(fitted.mean, fitted.centers)
    assert torch.equal(plain.decode(codes), expected[None])
    corrected = fitted.correction(expected - fitted.mean) + fitted.mean
    torch.testing.assert_close(fitted.decode(codes), corrected[None])


def test_the_correction_is_nearer_to_frames_and_changes_neither_codes_nor_id():
    """Of frames with coordinates that two others decide together."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(12000, 4, generator=generator)
    x = torch.cat([hidden, hidden[:, :2].prod(1, keepdim=True), hidden[:, 2:] ** 2], dim=1)
    quantizer = Quantizer.fit(x[:10000], num_codebooks=4, codebook_size=4, num_steps=1000)
    report = measure(quantizer, x[10000:])
    assert report.relative_error < 0.95 * report.direct_sum_error
    plain = Quantizer(quantizer.mean, quantizer.centers)
    assert plain.id == quantizer.id
    assert torch.equal(plain.encode(x), quantizer.encode(x))
    result = measure(plain, x[10000:])
    assert result.relative_error == result.direct_sum_error == report.direct_sum_error


def test_a_sample_is_spread_over_all_frames():
    x = torch.arange(8.0 * BLOCK_FRAMES)[:, None]
    rows = sample(TensorFrames(x), 2 * BLOCK_FRAMES)
    assert torch.equal(rows, torch.cat([x[:BLOCK_FRAMES], x[4 * BLOCK_FRAMES :][:BLOCK_FRAMES]]))


def test_learning_improves_on_the_start():
    x = clustered(6000, dim=24)
    x = x + 2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    few = {"num_codebooks": 4, "codebook_size": 16}
    start = Quantizer.fit(x[:5000], **few, num_steps=1)
    learned = Quantizer.fit(x[:5000], **few, num_steps=200)
    assert relative_error(learned, x[5000:]) < 0.97 * relative_error(start, x[5000:])


def test_more_bytes_reconstruct_better():
    x = clustered(5000)
    errors = []
    for num_codebooks in (1, 2, 4, 20):  # 20 codebooks of 12 dimensions: some have no subspace
        q = Quantizer.fit(x[:4000], num_codebooks=num_codebooks, codebook_size=16, num_steps=60)
        errors.append(relative_error(q, x[4000:]))
    assert errors[0] > errors[1] > errors[2] > errors[3] > 0


def test_the_seed_decides_everything():
    x = clustered(1500)
    a, b, c = (Quantizer.fit(x, **SMALL, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.centers, b.centers)
    assert a.id == b.id
    assert a.id != c.id
    assert not torch.equal(a.centers, c.centers)


def test_gauge(fitted):
    """Each codebook's used entries average to zero, the mean is the data's, energy descends."""
    x = clustered()
    codes = fitted.encode(x).long()
    energy = []
    for q in range(2):
        chosen = fitted.centers[q][codes[:, q]]
        assert chosen.mean(dim=0).norm() < 0.02 * chosen.norm(dim=1).mean()
        energy.append(chosen.square().sum())
    torch.testing.assert_close(fitted.mean, x.mean(dim=0), atol=0.05, rtol=0)
    assert energy[0] > energy[1]


def test_shift_and_scale_of_the_data_change_only_the_tensors(fitted):
    x = clustered()
    # A power of two, so that scaling does not round.
    scaled = Quantizer.fit(4 * x, **SMALL)
    assert torch.equal(scaled.encode(4 * x), fitted.encode(x))
    torch.testing.assert_close(scaled.centers, 4 * fitted.centers)
    shifted = Quantizer.fit(x + 3, **SMALL)
    assert measure(shifted, x + 3).relative_error == pytest.approx(
        measure(fitted, x).relative_error, rel=0.1
    )


def test_moving_a_constant_between_codebooks_changes_no_code(fitted):
    delta = torch.linspace(-1, 1, fitted.dim)
    centers = fitted.centers + torch.stack([delta, -delta])[:, None]
    x = clustered(500, seed=2)
    moved = Quantizer(fitted.mean, centers)
    assert (moved.encode(x) == fitted.encode(x)).float().mean() > 0.995
    assert moved.id != fitted.id


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_computed_in_float32(fitted, dtype):
    x = clustered(300, seed=3).to(dtype)
    assert torch.equal(fitted.encode(x), fitted.encode(x.float()))
    assert torch.equal(Quantizer.fit(x, **SMALL).centers, Quantizer.fit(x.float(), **SMALL).centers)


def test_leading_axes_and_chunks(fitted):
    x = clustered(600, seed=4)
    codes = fitted.encode(x)
    assert codes.dtype == torch.uint8
    assert torch.equal(fitted.encode(x.view(3, 200, 12)), codes.view(3, 200, 2))
    assert torch.equal(fitted.encode(x[7]), codes[7])
    assert fitted.encode(x[:0]).shape == (0, 2)
    assert fitted.decode(codes[:0]).shape == (0, 12)


def test_changed_centers_are_noticed(fitted):
    changed = Quantizer(fitted.mean, fitted.centers)
    x = clustered(200, seed=5)
    changed.encode(x)
    changed.centers[0] = changed.centers[0].flip(0)
    fresh = Quantizer(changed.mean, changed.centers)
    assert torch.equal(changed.encode(x), fresh.encode(x))


def test_saved_and_loaded(fitted, tmp_path):
    fitted.metadata["teacher"] = "hubert"
    path = tmp_path / "a" / "quantizer.pt"
    fitted.save(path)
    loaded = Quantizer.load(path)
    assert loaded.id == fitted.id
    assert loaded.metadata == {"teacher": "hubert"}
    x = clustered(100, seed=6)
    assert torch.equal(loaded.encode(x), fitted.encode(x))
    assert torch.equal(loaded.decode(loaded.encode(x)), fitted.decode(fitted.encode(x)))
    assert os.listdir(path.parent) == ["quantizer.pt"]


def test_a_failed_save_keeps_the_old_file(fitted, tmp_path, monkeypatch):
    path = tmp_path / "quantizer.pt"
    fitted.save(path)
    before = path.read_bytes()

    def broken(state, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        fitted.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["quantizer.pt"]


def test_other_files_are_refused(tmp_path):
    torch.save({"model": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model.pt is not a quantizer"):
        Quantizer.load(tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"none.pt is missing"):
        Quantizer.load(tmp_path / "none.pt")


@pytest.mark.parametrize("read", [Quantizer.load, load_quantizer])
def test_damaged_files_are_named(fitted, tmp_path, read):
    path = tmp_path / "quantizer.pt"
    fitted.save(path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:100], b"", b"hello", b"words, no tensors"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"quantizer.pt is damaged, or is no file of tensors"):
            read(path)


def test_bad_frames_are_named(fitted, monkeypatch):
    x = clustered(300)
    x[123, 4] = float("nan")
    with pytest.raises(ValueError, match="frame 123 has NaN"):
        fitted.encode(x)
    with pytest.raises(ValueError, match="frame 123 has NaN"):
        Quantizer.fit(x, **SMALL)
    with pytest.raises(ValueError, match="frame 123 has NaN"):
        measure(fitted, x)
    x[123, 4] = float("-inf")
    with pytest.raises(ValueError, match="frame 123"):
        fitted.encode(x)
    x[123, 4] = 1e25  # costs of codes would be infinite
    with pytest.raises(ValueError, match=r"frame 123 has .* too large"):
        fitted.encode(x)
    monkeypatch.setattr(quantizer_module, "_CHUNK_CPU", 1)  # 64 frames at once
    with pytest.raises(ValueError, match="frame 123"):
        fitted.encode(x)


def test_all_codes_of_a_byte_are_decoded():
    quantizer = Quantizer(torch.zeros(1), torch.arange(256.0).reshape(1, 256, 1))
    codes = torch.arange(256, dtype=torch.uint8)[:, None]
    assert torch.equal(quantizer.decode(codes), codes.float())


def test_wrong_shapes_are_refused(fitted):
    with pytest.raises(ValueError, match="frames have 11 dimensions, the quantizer 12"):
        fitted.encode(torch.zeros(5, 11))
    with pytest.raises(ValueError, match="floating-point"):
        fitted.encode(torch.zeros(5, 12, dtype=torch.long))
    with pytest.raises(ValueError, match="codes have 3 codebooks, the quantizer 2"):
        fitted.decode(torch.zeros(5, 3, dtype=torch.uint8))
    for wrong in (-100, fitted.codebook_size, 1.0):
        with pytest.raises(ValueError, match="codes must be integers from 0 to"):
            fitted.decode(torch.tensor([[0, wrong]]))
    with pytest.raises(ValueError, match="1 to 32 codebooks"):
        Quantizer(torch.zeros(4), torch.zeros(33, 256, 4))
    with pytest.raises(ValueError, match="centers must be"):
        Quantizer(torch.zeros(3), torch.zeros(2, 256, 4))
    with pytest.raises(ValueError, match="8 hexadecimal digits"):
        Quantizer(torch.zeros(4), torch.zeros(2, 256, 4), id="abc")
    with pytest.raises(ValueError, match="no frames"):
        measure(fitted, torch.zeros(0, 12))
    with pytest.raises(TypeError, match=r"one tensor .*torch.cat\(embeddings\)"):
        Quantizer.fit([torch.zeros(300, 12)] * 2)
    with pytest.raises(ValueError, match="beam_size=0 must be positive"):
        fitted.encode(torch.zeros(3, 12), beam_size=0)
    with pytest.raises(ValueError, match="sweeps=-1 not negative"):
        fitted.encode(torch.zeros(3, 12), sweeps=-1)
    with pytest.raises(ValueError, match="not JSON serializable"):
        Quantizer(fitted.mean, fitted.centers, metadata={"layer": np.int64(3)})


def test_metadata_of_numpy_come_back(fitted, tmp_path):
    quantizer = Quantizer(fitted.mean, fitted.centers, metadata={"frame_rate": np.float64(50)})
    quantizer.save(tmp_path / "q.pt")
    assert Quantizer.load(tmp_path / "q.pt").metadata == {"frame_rate": 50.0}


def test_codes_do_not_depend_on_who_asks(fitted):
    """In a training with autocast, and in inference mode."""
    x, frames = clustered(400, seed=3), clustered()
    expected = fitted.encode(x)
    with torch.inference_mode():
        quantizer = Quantizer(fitted.mean, fitted.centers)
        assert torch.equal(quantizer.encode(x), expected)
    quantizer = Quantizer(fitted.mean, fitted.centers)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer.encode(x), expected)
        learned = Quantizer.fit(frames, **SMALL)
    assert torch.equal(quantizer.encode(x), expected)
    assert learned.id == fitted.id


def test_sums_by_code():
    x, codes = torch.randn(50, 3, dtype=torch.float64), torch.randint(6, (50,))
    expected = torch.stack([x[codes == k].sum(dim=0) for k in range(7)])
    torch.testing.assert_close(sums_by_code(x, codes, 7), expected)


def test_frames_of_any_size_that_float32_can_square():
    x = clustered()
    errors = [relative_error(Quantizer.fit(x * size, **SMALL), x * size) for size in (1e-12, 1e12)]
    assert errors == pytest.approx([relative_error(Quantizer.fit(x, **SMALL), x)] * 2, rel=1e-2)
    for size in (1e-19, 1e19):
        with pytest.raises(ValueError, match=r"largest value .*e[-+].*scale them"):
            Quantizer.fit(x * size, **SMALL)


def test_too_few_or_equal_frames_are_refused():
    with pytest.raises(ValueError, match="15 frames cannot train codebooks of 16 entries"):
        Quantizer.fit(clustered(15), **SMALL)
    with pytest.raises(ValueError, match="all frames are equal"):
        Quantizer.fit(torch.full((100, 12), 3.7), **SMALL)


def test_degenerate_data_is_reconstructed_exactly():
    """Fewer different frames than entries, and only in one dimension of twelve."""
    x = torch.zeros(200, 12)
    x[:, 3] = torch.arange(200) % 8
    quantizer = Quantizer.fit(x, **SMALL)
    assert torch.isfinite(quantizer.centers).all()
    assert relative_error(quantizer, x) < 1e-3


def test_gaussian_source_stays_above_shannons_bound():
    dim = 8
    x = torch.randn(24000, dim, generator=torch.Generator().manual_seed(0))
    quantizer = Quantizer.fit(x[:20000], num_codebooks=2, codebook_size=64, num_steps=150)
    bound = 2 ** (-2 * 12 / dim)  # D(R) of R bits per dimension
    error = relative_error(quantizer, x[20000:])
    assert bound < error < 1.6 * bound


def test_progress_is_reported():
    calls = []
    Quantizer.fit(clustered(300), **SMALL, progress=lambda done, all: calls.append((done, all)))
    # 60 steps of the centers, and 15 of the correction, of which 300 frames need fewer.
    assert {total for _, total in calls} == {75}
    done = [done for done, _ in calls]
    assert done[:60] == list(range(1, 61))
    assert done[60:] == list(range(76 - len(done[60:]), 76))


@pytest.mark.slow
def test_importing_needs_torch_and_numpy_alone():
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] in ('h5py', 'numba', 'lhotse', 'torchaudio', 'scipy'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import mvqkd.quantization, mvqkd.quantization.multi_quantization.exchange\n"
        "import mvqkd.quantization.predictability.measure\n"
        "ours = {m for m in sys.modules if m.startswith('mvqkd.')}\n"
        "ours -= {'mvqkd.errors', 'mvqkd.storage'}\n"
        "assert all(m.startswith(('mvqkd.quantization', 'mvqkd.storage.')) for m in ours), ours\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_the_same_codes(fitted):
    x = clustered(500, seed=7)
    on_gpu = Quantizer(fitted.mean, fitted.centers).to("cuda")
    codes = on_gpu.encode(x.to("cuda")).cpu()
    assert (codes == fitted.encode(x)).float().mean() > 0.99
    learned = [Quantizer.fit(clustered(), **SMALL, device="cuda") for _ in range(2)]
    assert learned[0].id == learned[1].id
    assert learned[0].mean.is_cuda
    error = relative_error(learned[0].cpu(), x)
    assert error == pytest.approx(relative_error(fitted, x), rel=0.1)
