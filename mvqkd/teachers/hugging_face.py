"""Teachers from Hugging Face checkpoints: `hf:facebook/hubert-large-ll60k`, or `hf:<folder>`.

HuBERT, WavLM, wav2vec 2.0, data2vec-audio, and the encoder of Whisper. transformers is imported
when such a teacher is loaded, not before.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mvqkd.errors import UserError
from mvqkd.geometry import SAMPLE_RATE
from mvqkd.teachers.attention import AttentionRecorder
from mvqkd.teachers.interface import CTCTranscriber
from mvqkd.teachers.layers import choose_layers
from mvqkd.teachers.lengths import valid_mask
from mvqkd.teachers.wav2vec import Wav2VecTeacher
from mvqkd.teachers.weights import UNREADABLE, why_unreadable
from mvqkd.teachers.whisper import WhisperTeacher

_FAMILIES = ("hubert", "wavlm", "wav2vec2", "data2vec-audio")


def load_hugging_face_teacher(
    name: str,
    layers: Sequence[int] | None,
    *,
    revision: str | None = None,
    silence: float | None = None,
    position_directions: int | None = None,
) -> Wav2VecTeacher | WhisperTeacher:
    """Load a checkpoint of the Hugging Face hub, or a folder written by `save_pretrained`.

    Args:
        name: id on the hub, or folder.
        layers: wanted layers; None: all.
        revision: branch, tag or commit on the hub.
        silence, position_directions: Whisper alone, see `WhisperTeacher`.

    Raises:
        UserError: transformers is not installed; the checkpoint cannot be read, lacks weights, or
            is of no family known here.
    """
    config, extractor = open_checkpoint(name, revision)
    import transformers

    family = config.model_type
    given: dict[str, Any] = {"silence": silence, "position_directions": position_directions}
    options = {key: value for key, value in given.items() if value is not None}
    if options and family != "whisper":
        raise UserError(f"hf:{name} is no Whisper", remedy=f"leave out {', '.join(options)}")
    recognizes = any(kind.endswith("ForCTC") for kind in config.architectures or [])
    kind = transformers.AutoModelForCTC if recognizes else transformers.AutoModel
    refuse_quantized(name, revision, config)
    transformers.utils.logging.disable_progress_bar()
    if family == "whisper":
        filters = torch.from_numpy(extractor.mel_filters)
        if config.architectures == ["WhisperEncoder"]:
            alone = transformers.models.whisper.modeling_whisper.WhisperEncoder
            encoder = load_network(alone, name, revision)
        else:
            encoder = load_network(kind, name, revision, unneeded="decoder.").get_encoder()
        return WhisperTeacher(encoder, filters, layers, **options)
    model = load_network(kind, name, revision)
    backbone = HuggingFaceBackbone(model.base_model, layers)
    ctc = None
    if recognizes and backbone.num_layers in backbone.wanted:
        labels = _labels(name, revision, config.vocab_size)
        if labels is not None:
            ctc = CTCTranscriber(model.lm_head, labels, blank=config.pad_token_id)
    # 1e-7 is the epsilon of Wav2Vec2FeatureExtractor.
    eps = 1e-7 if extractor.do_normalize else None
    return Wav2VecTeacher(backbone, normalize_eps=eps, ctc=ctc)


class Checkpoint(NamedTuple):
    """What a checkpoint says of itself."""

    config: Any
    extractor: Any
    """Of features."""


def open_checkpoint(name: str, revision: str | None) -> Checkpoint:
    """Read what a checkpoint says of itself, without its weights.

    Raises:
        UserError: transformers is not installed, the checkpoint cannot be read, or is of no family
            known here.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "Hugging Face teachers need transformers", remedy="pip install 'mvqkd[hf]'"
        ) from error
    if not Path(name).is_dir() and (name.count("/") > 1 or name[0] in "/.~"):
        raise UserError(
            f"hf:{name}: there is no folder {name}",
            remedy="give the folder of a checkpoint, or an id of huggingface.co",
        )
    try:
        config = transformers.AutoConfig.from_pretrained(name, revision=revision)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        absent = "" if Path(name).is_dir() else "is no folder here, and "
        raise UserError(
            f"hf:{name} {absent}cannot be read: {error}",
            remedy="give a folder with config.json, preprocessor_config.json and "
            "model.safetensors, or an id of huggingface.co",
        ) from error
    if extractor.sampling_rate != SAMPLE_RATE:
        raise UserError(
            f"hf:{name} expects audio at {extractor.sampling_rate} Hz, not {SAMPLE_RATE}"
        )
    family = config.model_type
    if family not in (*_FAMILIES, "whisper"):
        raise UserError(
            f"hf:{name} is a {family} network",
            remedy=f"known are {', '.join(_FAMILIES)} and whisper; for others see python:",
        )
    return Checkpoint(config, extractor)


class HuggingFaceBackbone(nn.Module):
    """A `Backbone` on transformers' HuBERT, WavLM, wav2vec 2.0 or data2vec-audio; layers above the
    highest wanted one are dropped."""

    def __init__(self, model: Any, layers: Sequence[int] | None) -> None:
        super().__init__()
        config = model.config
        self.num_layers = len(model.encoder.layers)
        self.wanted = choose_layers(layers, self.num_layers)
        self.dim = config.hidden_size
        self.convolutions: Sequence[tuple[int, int]] = list(
            zip(config.conv_kernel, config.conv_stride, strict=True)
        )
        self.normalizes_over_time = getattr(config, "feat_extract_norm", "layer") == "group"
        # Stacked or batch-normalized positional convolutions turn the padding's zeros into
        # something that reaches the last valid frames.
        self.needs_equal_lengths = config.model_type == "data2vec-audio" or bool(
            getattr(config, "conv_pos_batch_norm", False)
        )
        self.extractor = model.feature_extractor
        self.projection = model.feature_projection
        self.encoder = model.encoder
        self.encoder.layers = self.encoder.layers[: max(1, *self.wanted)]
        self.transformer_layers = list(self.encoder.layers)
        self.recorder: AttentionRecorder | None = None
        self._found: dict[int, Tensor] = {}
        self.encoder.layers[0].register_forward_pre_hook(self._keep_input)
        for index, layer in enumerate(self.encoder.layers, start=1):
            if index in self.wanted:
                layer.register_forward_hook(partial(self._keep_output, index))

    def convolve(self, waveforms: Tensor) -> Tensor:
        return self.extractor(waveforms).transpose(1, 2)

    def transform(self, frames: Tensor, lens: Tensor) -> dict[Any, Tensor]:
        x = self.projection(frames)
        # wav2vec 2.0's projection returns the normalized frames too.
        x = x[0] if isinstance(x, tuple) else x
        output = self.encoder(x, attention_mask=valid_mask(lens, x.shape[1]))
        found, self._found = self._found, {}
        if self.num_layers in self.wanted:
            found[self.num_layers] = output.last_hidden_state
        attention = self.recorder.take() if self.recorder else {}
        return {layer: found[layer] for layer in self.wanted} | attention

    def _keep_input(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self._found[0] = arguments[0]

    def _keep_output(self, index: int, _: nn.Module, __: Any, output: Any) -> None:
        self._found[index] = output[0] if isinstance(output, tuple) else output


def refuse_quantized(name: str, revision: str | None, config: Any) -> None:
    """Weights of 8 bits and less are no floating-point numbers, or those of a teacher with errors:
    what libraries make of them differs, down to noise where the scales are not read.

    Raises:
        UserError: the checkpoint has such weights.
    """
    from safetensors import SafetensorError, safe_open
    from transformers.utils import cached_file

    quantization = getattr(config, "quantization_config", None) or {}
    stored = {str(quantization.get("quant_method"))} if quantization else set()
    path = cached_file(
        name, "model.safetensors", revision=revision, _raise_exceptions_for_missing_entries=False
    )
    if path and not stored:
        try:
            with safe_open(path, "pt") as file:
                parts = [file.get_slice(key) for key in file.keys()]  # noqa: SIM118
                stored = {p.get_dtype() for p in parts if len(p.get_shape()) > 1}
        except SafetensorError:
            return  # loading says what is wrong
    if wrong := stored - {"F64", "F32", "F16", "BF16"}:
        raise UserError(
            f"the weights of hf:{name} are quantized ({', '.join(sorted(wrong))})",
            remedy="give the checkpoint that it was made of, with weights of 16 or 32 bits",
        )


def load_network(
    kind: Any, name: str, revision: str | None, unneeded: str = "masked_spec_embed"
) -> Any:
    """A network whose weights are all in the checkpoint, but for those with `unneeded` in their
    names; that of masking is used in training only."""
    from safetensors import SafetensorError

    try:
        model, report = kind.from_pretrained(
            name, revision=revision, dtype=torch.float32, output_loading_info=True
        )
    except (*UNREADABLE, SafetensorError) as error:
        raise UserError(
            f"the weights of hf:{name} cannot be read: {why_unreadable(error)}",
            remedy="fetch the checkpoint's model.safetensors whole (in a clone: git lfs pull), as "
            "it belongs to its config.json; or give another folder, or an id of huggingface.co",
        ) from error
    # A freshly initialized weight would make noise of the targets.
    if absent := [key for key in report["missing_keys"] if unneeded not in key]:
        raise UserError(
            f"hf:{name} lacks {len(absent)} weights, as {sorted(absent)[0]}",
            remedy="the checkpoint is not of the architecture that its config.json names",
        )
    return model


def _labels(name: str, revision: str | None, size: int) -> list[str] | None:
    """Symbols of the CTC head's `size` outputs; None if vocab.json does not list them.

    Raises:
        UserError: there is no vocab.json.
    """
    from transformers.utils import cached_file

    try:
        path = cached_file(name, "vocab.json", revision=revision)
    except OSError as error:
        raise UserError(
            f"hf:{name} recognizes by CTC but has no vocab.json: {error}",
            remedy="add the tokenizer's vocab.json to the checkpoint",
        ) from error
    try:
        indexes = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    except ValueError:
        indexes = None
    # That of MMS is nested: a vocabulary for each language.
    if not isinstance(indexes, dict) or not all(
        isinstance(index, int) and 0 <= index < size for index in indexes.values()
    ):
        logging.warning(
            "%s does not map symbols to the %d outputs of the network: hf:%s gives embeddings, but "
            "no transcripts",
            path,
            size,
            name,
        )
        return None
    labels = [""] * size
    for symbol, index in indexes.items():
        # Special symbols, such as <s> and <unk>, do not belong in a transcript.
        labels[index] = "" if symbol.startswith("<") else symbol
    return labels
