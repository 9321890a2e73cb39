"""Each public package is imported where nothing but its own dependencies is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What pyproject.toml declares, by the names of modules, extras included.
DECLARED = {
    *("h5py", "k2", "kaldialign", "lhotse", "matplotlib", "num2words", "numba", "numpy"),
    *("soundfile", "tensorboard", "torch", "torchaudio", "tqdm", "transformers", "yaml"),
    *("aiohttp", "espeakng_loader", "safetensors", "sentencepiece", "sounddevice", "urllib3"),
    *("onnx", "onnxruntime", "sherpa_onnx", "huggingface_hub"),
}
TORCH = {"torch", "numpy"}  # torch takes numpy for installed if it is there
LHOTSE = {*TORCH, "lhotse", "soundfile", "tqdm", "yaml", "urllib3"}
NEEDS: dict[str, set[str]] = {
    "mvqkd": set(),
    "mvqkd.errors": set(),
    "mvqkd.geometry": set(),
    "mvqkd.__main__": set(),
    "mvqkd.storage.files": set(),
    "mvqkd.storage.jsonl": set(),
    "mvqkd.storage.locks": set(),
    "mvqkd.storage.ragged": {"h5py", "numpy"},
    "mvqkd.runtime.workers": set(),
    "mvqkd.runtime.interruption": set(),
    "mvqkd.runtime.distributed": TORCH,
    "mvqkd.data.folder": set(),
    "mvqkd.data.splits": set(),
    "mvqkd.data.loading.plan": {"numpy"},
    "mvqkd.data.targets.codes": {"h5py", "numpy"},
    "mvqkd.data.targets.hypothesis_store": {"h5py", "numpy"},
    "mvqkd.data.targets.spoken_text": set(),
    "mvqkd.models": TORCH,
    "mvqkd.losses": TORCH,
    "mvqkd.quantization": TORCH,
    "mvqkd.quantization.predictability.measure": TORCH,
    "mvqkd.quantization.multi_quantization.exchange": TORCH,
    "mvqkd.checkpoints.load": TORCH,
    "mvqkd.teachers": TORCH,
    "mvqkd.features.spec_augment": TORCH,
    "mvqkd.features.online_fbank": LHOTSE,
    "mvqkd.features.fbank": LHOTSE,
    "mvqkd.distillation": {*TORCH, "h5py"},
    "mvqkd.decoding": LHOTSE,
    "mvqkd.transcription.formats": LHOTSE,
    "mvqkd.transcription.live": LHOTSE,
    "mvqkd.serving.protocol": LHOTSE,
    "mvqkd.features.online_resample": LHOTSE,
    "mvqkd.evaluation.wer": {"kaldialign"},
    "mvqkd.training.trainer": {*TORCH, "tqdm", "tensorboard"},
    "mvqkd.export.writing": TORCH,
    "mvqkd.export.targets": TORCH,
    "mvqkd.export.verifying": LHOTSE,
    "mvqkd.recipe.config.schema": set(),
    "mvqkd.recipe.config.fields": set(),
    "mvqkd.recipe.config.load": {"yaml"},
    "mvqkd.recipe.teacher_files": set(),
    "mvqkd.recipe.remedies": set(),
}
PROGRAM = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, path=None, target=None: (
    None if name.partition(".")[0] in {refused} else find(name, path, target)
)
import {module}
"""


@pytest.mark.parametrize("module", NEEDS)
def test_a_package_needs_its_own_dependencies_alone(module: str) -> None:
    program = PROGRAM.format(refused=DECLARED - NEEDS[module], module=module)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
