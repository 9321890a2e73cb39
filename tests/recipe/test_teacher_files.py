"""Names of the files between a teacher and its student."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.errors import UserError
from mvqkd.recipe.config.schema import CodesConfig, EmbeddingsConfig, QuantizerConfig
from mvqkd.recipe.teacher_files import own_experiment, resolve_teacher, teacher_files, uses
from mvqkd.storage.tensors import save_tensors
from mvqkd.teachers import load_teacher
from tests.teachers.test_own import save_student

WHISPER = "hf:openai/whisper-tiny.en"


def codes(teacher: str = WHISPER, **quantizer: object) -> CodesConfig:
    options = QuantizerConfig(**quantizer)  # type: ignore[arg-type]
    return CodesConfig(weight=1.0, teacher=teacher, teacher_layer=4, quantizer=options)


def test_files_tell_teacher_layer_and_bytes(tmp_path: Path) -> None:
    options = codes(num_codebooks=16)
    files = teacher_files(options, tmp_path / "data", tmp_path / "exp")
    folder = tmp_path / "data/teachers/whisper-tiny.en"
    assert (files.teacher, files.layer, files.folder) == (WHISPER, 4, folder)
    assert files.sample == folder / "sample/layer-4"
    assert files.embeddings == folder / "embeddings/layer-4"
    assert files.quantizer == folder / "quantizer-layer-4-cb16.pt"
    assert files.codes == folder / "codes-layer-4-cb16"
    assert files.check == folder / "check-layer-4.md"
    options.quantizer.rate_distortion_weight = 0.01
    told = teacher_files(options, tmp_path / "data", tmp_path / "exp")
    assert told.quantizer == files.quantizer
    assert told.codes == folder / "codes-layer-4-cb16-r0.01"
    options = codes("hf:/models/whisper-tiny.en/?position_directions=10&silence=2")
    other = teacher_files(options, tmp_path / "data", tmp_path / "exp")
    assert other.folder.name == "whisper-tiny.en-position_directions-10-silence-2"
    imported = codes(file="some where/my q.v2.pt")
    others = teacher_files(imported, tmp_path / "data", tmp_path / "exp")
    assert others.sample == files.sample
    assert others.quantizer == folder / "quantizer-layer-4-cb8-my-q.v2.pt"
    assert others.codes == folder / "codes-layer-4-cb8-my-q.v2"


def test_losses_of_the_same_teacher_and_quantizer_share_their_files(tmp_path: Path) -> None:
    regression = EmbeddingsConfig(weight=2.0, teacher=WHISPER, teacher_layer=4, source="codes")
    assert teacher_files(regression, tmp_path, tmp_path) == teacher_files(
        codes(), tmp_path, tmp_path
    )


def test_what_a_loss_learns_from() -> None:
    assert uses(codes()) == "codes"
    assert uses(EmbeddingsConfig(source="codes")) == "codes"
    assert uses(EmbeddingsConfig()) == "embeddings"
    assert uses(EmbeddingsConfig(source="online")) == "online"


def test_an_own_teacher_is_named_with_its_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pretrained\.pt is missing"):
        resolve_teacher("mvqkd:big", tmp_path)
    save_student(tmp_path / "big")
    uri = resolve_teacher("mvqkd:big", tmp_path)
    assert uri == resolve_teacher(f"mvqkd:{tmp_path}/big", Path("elsewhere"))
    assert resolve_teacher(uri, tmp_path) == uri
    assert load_teacher(uri, [1]).dim == 16
    with pytest.raises(UserError, match=r"epoch-3\.pt is missing"):
        resolve_teacher("mvqkd:big?epoch=3&avg=2", tmp_path)
    save_tensors(tmp_path / "big" / "epoch-3.pt", ["weights"])
    of_epoch = resolve_teacher("mvqkd:big?epoch=3&avg=2", tmp_path)
    assert of_epoch.startswith(f"mvqkd:{tmp_path}/big?epoch=3&avg=2&weights=")
    save_tensors(tmp_path / "big" / "epoch-3.pt", ["others"])
    assert resolve_teacher("mvqkd:big?epoch=3&avg=2", tmp_path) != of_epoch
    (tmp_path / "big" / "epoch-3.pt").write_bytes(b"damaged")  # and no other teacher
    with pytest.raises(UserError, match=r"epoch-3\.pt is damaged"):
        resolve_teacher("mvqkd:big?epoch=3&avg=2", tmp_path)
    path = tmp_path / "big" / "pretrained.pt"
    path.write_bytes(path.read_bytes() + b" ")  # trained anew: other bytes
    assert resolve_teacher("mvqkd:big", tmp_path) != uri
    with pytest.raises(UserError, match="other weights"):
        load_teacher(uri, [1])


def test_an_own_teacher_has_one_name_however_its_folder_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exp").mkdir()
    save_student(tmp_path / "exp" / "big")
    monkeypatch.chdir(tmp_path)
    written = (Path("exp"), Path("./exp/../exp"), tmp_path / "exp")
    uris = {resolve_teacher("mvqkd:big", experiments) for experiments in written}
    (uri,) = uris
    assert uri.startswith("mvqkd:exp/big?weights=")


@pytest.mark.parametrize(
    ("uri", "name"),
    [("mvqkd:big", "big"), ("mvqkd:exp/x/big", ""), ("hf:big", ""), ("mvqkd:big?epoch=3", "big")],
)
def test_which_teacher_is_an_experiment_of_the_recipe(uri: str, name: str) -> None:
    assert own_experiment(codes(uri)) == name
    assert own_experiment(EmbeddingsConfig(teacher=uri)) == name


def test_an_own_teacher_that_is_not_trained_has_no_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the teacher mvqkd:big is not trained") as error:
        teacher_files(codes("mvqkd:big"), tmp_path / "data", tmp_path / "exp")
    assert "--exp big" in str(error.value.remedy)
