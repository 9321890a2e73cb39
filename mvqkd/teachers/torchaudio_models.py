"""Teachers from torchaudio's pipelines: `torchaudio:HUBERT_ASR_XLARGE`, or any other bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchaudio
from torch import Tensor, nn
from torchaudio.models.wav2vec2.wavlm_attention import WavLMSelfAttention

from mvqkd.errors import UserError
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.teachers.attention import AttentionRecorder
from mvqkd.teachers.interface import CTCTranscriber
from mvqkd.teachers.layers import choose_layers
from mvqkd.teachers.lengths import valid_mask
from mvqkd.teachers.wav2vec import Wav2VecTeacher
from mvqkd.teachers.weights import UNREADABLE, why_unreadable


def load_torchaudio_teacher(
    name: str, layers: Sequence[int] | None, *, state_dict: str | None = None
) -> Wav2VecTeacher:
    """Load a bundle of `torchaudio.pipelines`.

    Args:
        name: of the bundle, as `HUBERT_ASR_XLARGE`.
        layers: wanted layers; None: all.
        state_dict: file that torchaudio would download; None: let it download.

    Raises:
        UserError: no such bundle, no such file, it is damaged or of another network, or it cannot
            be downloaded.
    """
    bundle = getattr(torchaudio.pipelines, name, None)
    if not isinstance(bundle, torchaudio.pipelines.Wav2Vec2Bundle):
        known = [
            key
            for key in dir(torchaudio.pipelines)
            if isinstance(getattr(torchaudio.pipelines, key), torchaudio.pipelines.Wav2Vec2Bundle)
        ]
        raise UserError(f"torchaudio has no bundle {name}", remedy=f"one of {', '.join(known)}")
    if bundle.sample_rate != SAMPLE_RATE:
        raise UserError(f"{name} expects audio at {bundle.sample_rate} Hz, not {SAMPLE_RATE}")
    options = _download_options(state_dict)
    try:
        wrapped = bundle.get_model(dl_kwargs=options)
    except URLError as error:
        raise UserError(
            f"{name} cannot be downloaded: {error}",
            remedy="download it elsewhere, from https://download.pytorch.org/torchaudio/models/"
            f"{bundle._path}, and give torchaudio:{name}?state_dict=FILE",
        ) from error
    except UNREADABLE as error:
        downloaded = Path(torch.hub.get_dir(), "checkpoints", Path(bundle._path).name)
        raise UserError(
            f"{state_dict or downloaded} holds no weights of {name}: {why_unreadable(error)}",
            remedy="give state_dict the file that torchaudio downloads for this bundle"
            if state_dict
            else "delete it, and it is downloaded again",
        ) from error
    # torchaudio wraps networks that expect normalized waveforms; the wrapper would normalize over
    # the whole padded batch.
    normalized = bool(getattr(wrapped, "normalize_waveform", False))
    model = getattr(wrapped, "model", wrapped)
    backbone = TorchaudioBackbone(model, layers)
    ctc = None
    if model.aux is not None and backbone.num_layers in backbone.wanted:
        ctc = CTCTranscriber(model.aux, list(bundle.get_labels()), blank=0)
    # 1e-5 is the epsilon of torchaudio's and fairseq's layer_norm over the waveform.
    return Wav2VecTeacher(backbone, normalize_eps=1e-5 if normalized else None, ctc=ctc)


class TorchaudioBackbone(nn.Module):
    """A `Backbone` on `torchaudio.models.Wav2Vec2Model`; layers above the highest wanted one are
    dropped."""

    needs_equal_lengths = False

    def __init__(self, model: torchaudio.models.Wav2Vec2Model, layers: Sequence[int] | None):
        super().__init__()
        transformer = model.encoder.transformer
        self.num_layers = len(transformer.layers)
        self.wanted = choose_layers(layers, self.num_layers)
        self.extractor = model.feature_extractor
        self.projection = model.encoder.feature_projection
        self.positions = transformer.pos_conv_embed
        self.norm = transformer.layer_norm
        # torchaudio's Transformer calls `layer_norm_first` what its layers call the contrary.
        self.post_norm = bool(transformer.layer_norm_first)
        self.layers = transformer.layers[: max(self.wanted)]
        self.transformer_layers = list(self.layers)
        self.recorder: AttentionRecorder | None = None
        self.dim = self.norm.normalized_shape[0]
        blocks = list(self.extractor.conv_layers)
        self.convolutions: Sequence[tuple[int, int]] = [
            (block.kernel_size, block.stride) for block in blocks
        ]
        self.normalizes_over_time = isinstance(blocks[0].layer_norm, nn.GroupNorm)
        self.relative = isinstance(transformer.layers[0].attention, WavLMSelfAttention)

    def convolve(self, waveforms: Tensor) -> Tensor:
        frames, _ = self.extractor(waveforms, None)
        return frames

    def transform(self, frames: Tensor, lens: Tensor) -> dict[Any, Tensor]:
        valid = valid_mask(lens, frames.shape[1])
        # Zeros are what the positional convolution sees beyond the end of an utterance alone.
        x = self.projection(frames) * valid[..., None]
        x = x + self.positions(x)
        if self.post_norm:
            x = self.norm(x)
        found = {0: x}
        # WavLM's attention takes the mask over keys, the others' one that is added to the scores.
        added = torch.zeros(valid.shape, dtype=x.dtype, device=x.device)
        added = added.masked_fill(~valid, -torch.inf)[:, None, None, :]
        added = added.expand(-1, 1, x.shape[1], -1)
        bias = None
        for index, layer in enumerate(self.layers, start=1):
            if self.relative:
                x, bias = layer(x, position_bias=bias, key_padding_mask=~valid)
            else:
                x, bias = layer(x, attention_mask=added)
            found[index] = x
        if not self.post_norm and len(self.layers) == self.num_layers:
            found[self.num_layers] = self.norm(x)
        attention = self.recorder.take() if self.recorder else {}
        return {layer: found[layer] for layer in self.wanted} | attention


def _download_options(state_dict: str | None) -> dict[str, Any]:
    # By itself torchaudio would run what a file that is no file of tensors says.
    options: dict[str, Any] = {"weights_only": True}
    if state_dict is None:
        return options
    # torch.hub takes a file that is already in its folder instead of downloading.
    path = Path(state_dict)
    if not path.is_file():
        raise UserError(f"{path} is missing", remedy="give state_dict the file of the bundle")
    return {**options, "model_dir": str(path.parent), "file_name": path.name}
