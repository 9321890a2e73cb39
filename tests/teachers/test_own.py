from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from mvqkd.checkpoints.files import PRETRAINED, epoch_path, load_checkpoint, save_checkpoint
from mvqkd.errors import UserError
from mvqkd.features.fbank import extract
from mvqkd.models import AsrModel
from mvqkd.models.taps import Taps
from mvqkd.recipe.build import build_student, describe_model
from mvqkd.recipe.config.schema import ExperimentConfig, ModelConfig
from mvqkd.teachers import load_teacher


def save_student(folder: Path, **options: object) -> AsrModel:
    torch.manual_seed(0)
    config = ExperimentConfig(
        model=ModelConfig(
            dim=16,
            num_layers=3,
            num_heads=2,
            feedforward_dim=24,
            conv_kernel=5,
            predictor_dim=8,
            joiner_dim=8,
            **options,  # type: ignore[arg-type]
        )
    )
    student = build_student(config, 10)
    folder.mkdir(exist_ok=True)
    save_checkpoint(
        folder / PRETRAINED,
        {"model": student.state_dict(), "description": describe_model(config, 10)},
    )
    return student.eval()


@pytest.mark.parametrize("streaming", [False, True])
def test_an_experiment_s_encoder_is_a_teacher(
    tmp_path: Path, waveforms: list[torch.Tensor], streaming: bool
) -> None:
    options = {"causal": True, "chunk_size": [4, 2], "left_context": 8} if streaming else {}
    student = save_student(tmp_path / "exp", **options)
    teacher = load_teacher(f"mvqkd:{tmp_path / 'exp'}", [0, 2])
    assert (teacher.dim, teacher.num_layers, teacher.frame_rate) == (16, 3, 25.0)
    waves = [wave.repeat(3) for wave in waveforms]
    lens = torch.tensor([len(wave) for wave in waves])
    with torch.no_grad():
        output = teacher(pad_sequence(waves, batch_first=True), lens)
    assert torch.equal(output.lens, teacher.output_lens(lens))
    for row, wave in enumerate(waves):
        features = torch.from_numpy(extract(wave.numpy()))[None]
        taps = Taps(["layers.0", "layers.2"])
        with torch.no_grad():
            student.encoder(
                features,
                torch.tensor([features.shape[1]]),
                chunk_size=4 if streaming else None,
                left_context=8 if streaming else None,
                taps=taps,
            )
        for layer in (0, 2):
            x = output.layers[layer][row, : output.lens[row]]
            torch.testing.assert_close(x, taps[f"layers.{layer}"][0], atol=1e-5, rtol=1e-4)


def test_weights_of_epochs_are_averaged_as_in_decoding(
    tmp_path: Path, waveforms: list[torch.Tensor]
) -> None:
    save_student(tmp_path)
    state = load_checkpoint(tmp_path / PRETRAINED)

    def scaled(factor: float) -> dict[str, torch.Tensor]:
        return {
            name: factor * value if value.is_floating_point() else value
            for name, value in state["model"].items()
        }

    # The weights were those of the student in the first epoch, and 1.5 of them in the second.
    for epoch, factor in ((1, 1.0), (2, 1.25)):
        average = {"average": scaled(factor), "average_count": epoch}
        save_checkpoint(epoch_path(tmp_path, epoch), {**state, **average})
    wave, lens = waveforms[0][None], torch.tensor([len(waveforms[0])])
    for avg, factor in ((1, 1.5), (2, 1.25)):
        found = load_teacher(f"mvqkd:{tmp_path}?epoch=2&avg={avg}", [3])(wave, lens)
        save_checkpoint(tmp_path / PRETRAINED, {**state, "model": scaled(factor)})
        expected = load_teacher(f"mvqkd:{tmp_path}", [3])(wave, lens)
        torch.testing.assert_close(found.layers[3], expected.layers[3])


def test_an_untrained_experiment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pretrained\.pt is missing"):
        load_teacher(f"mvqkd:{tmp_path}", [1])
