"""Conformer encoder (Gulati et al. 2020, arXiv 2005.08100), streaming or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvqkd.geometry import NUM_BINS, SUBSAMPLING, encoder_frames, needed_features
from mvqkd.models.conformer_layer import ConformerLayer
from mvqkd.models.dropout import Dropout
from mvqkd.models.half_rate import HalfRate, halve, repeat
from mvqkd.models.masks import Block, attention_blocks, streaming_block, valid_frames
from mvqkd.models.positions import relative_sinusoids
from mvqkd.models.state import EncoderState
from mvqkd.models.subsampling import ConvSubsampling, pad_short
from mvqkd.models.taps import Taps


class _Frames(NamedTuple):
    """What all layers of one frame rate share."""

    positions: Tensor
    blocks: Sequence[Block]
    valid: Tensor | None


class ConformerEncoder(nn.Module):
    """Convolutional subsampling by 4 and a stack of Conformer layers.

    One module serves full context, chunk-wise training and streaming. With chunks of `chunk_size`
    frames and `left_context` frames before them, frame t of chunk c = t // chunk_size sees the
    frames of [c * chunk_size - left_context, (c + 1) * chunk_size) in each layer's attention, and
    `stream` gives what `forward` gives. That needs causal convolutions: a symmetric one would see
    past the end of the chunk, further with each layer, so chunks are refused without `causal`.
    A causal encoder may be used with full context too, and with another chunk size at each call.

    Args:
        input_dim: C, filterbank channels.
        dim: D.
        num_layers: Conformer layers.
        num_heads: H, attention heads; must divide D.
        feedforward_dim: inner width of the feed-forward modules.
        conv_kernel: frames (25 Hz) that the depthwise convolution spans; odd unless causal.
        dropout: of each residual branch and inside the feed-forward modules.
        causal: convolutions see no future frame.
        attention_dropout: of the weights of frames in attention.
        layer_drop: stochastic depth (Huang et al. 2016, arXiv 1603.09382): the probability that an
            utterance passes by the last layer in training; of the others it grows linearly.
        subsampling_channels: feature maps of the subsampling's convolutions.
        half_rate: first and last of the layers that work at 12.5 Hz, see `HalfRate`; empty: none.
            Their kernels span conv_kernel frames of 12.5 Hz. Chunks and left context must be even.

    Raises:
        ValueError: if D is odd or not a multiple of H, conv_kernel is even and not causal, or
            half_rate is not a range of layers.
    """

    subsampling_factor = SUBSAMPLING

    def __init__(
        self,
        *,
        input_dim: int = NUM_BINS,
        dim: int = 256,
        num_layers: int = 12,
        num_heads: int = 4,
        feedforward_dim: int = 1024,
        conv_kernel: int = 15,
        dropout: float = 0.1,
        causal: bool = False,
        attention_dropout: float = 0.0,
        layer_drop: float = 0.0,
        subsampling_channels: int = 32,
        half_rate: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"dim={dim} must be even: half of the positions' sinusoids are sines")
        self.input_dim = input_dim
        self.dim = dim
        self.conv_kernel = conv_kernel
        self.causal = causal
        self.layer_drop = layer_drop
        self.subsampling = ConvSubsampling(
            input_dim=input_dim, dim=dim, channels=subsampling_channels
        )
        self.dropout = Dropout(dropout)
        layers = [
            ConformerLayer(
                dim=dim,
                num_heads=num_heads,
                feedforward_dim=feedforward_dim,
                conv_kernel=conv_kernel,
                dropout=dropout,
                causal=causal,
                attention_dropout=attention_dropout,
            )
            for _ in range(num_layers)
        ]
        self.layers = nn.ModuleList(layers)
        self._initialize(layers)
        first, last = half_rate or (1, num_layers)
        if not 1 <= first <= last <= num_layers:
            raise ValueError(
                f"half_rate={list(half_rate)} must be the first and the last of some of the "
                f"{num_layers} layers"
            )
        self._half_rate = range(first, last + 1)
        self.half_rate = HalfRate(dim) if half_rate else None

    @torch.no_grad()
    def _initialize(self, layers: Sequence[ConformerLayer]) -> None:
        """Begin near the identity: torch's initialization, but with biases of zero and with the
        residual branches' outputs scaled down, by 1 / sqrt(2 * num_layers).

        A four-layer encoder with CTC on artificial data (one seed) began to align after 60 steps,
        with torch's own initialization after 90, and with Xavier's not within 120.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        for layer in layers:
            for output in (
                layer.feedforward_in.output,
                layer.attention.output,
                layer.convolution.output,
                layer.feedforward_out.output,
            ):
                output.weight.mul_((2 * len(layers)) ** -0.5)

    @property
    def num_layers(self) -> int:
        """Conformer layers."""
        return len(self.layers)

    def output_lens(self, lens: Tensor) -> Tensor:
        """(N,) 100 Hz input frames -> (N,) 25 Hz output frames; n need 4n + 3 input frames."""
        return encoder_frames(lens)

    def tap_names(self) -> list[str]:
        """Every name that `Taps` may ask for."""
        names = ["layers.0"]
        for index in range(1, self.num_layers + 1):
            layer = f"layers.{index}"
            names += [layer, *(f"{layer}.{part}" for part in ("query", "key", "value"))]
        return [*names, "output"]

    def forward(
        self,
        features: Tensor,
        lens: Tensor,
        *,
        chunk_size: int | None = None,
        left_context: int | None = None,
        taps: Taps | None = None,
        num_layers: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode whole utterances.

        Args:
            features: (N, T, C) log-mel energies at 100 Hz, any value after each utterance's end.
            lens: (N,) int64, valid frames of each utterance.
            chunk_size: output frames (25 Hz) of a chunk; None: the utterance is one chunk.
            left_context: output frames that are seen before a chunk; None: all.
            taps: filled with the tensors it names, see `tap_names`.
            num_layers: compute these first layers alone; None: all.

        Returns:
            (N, T', D), zero after each utterance's end, and (N,) its valid frames at 25 Hz.
            T' is output_lens(T), but at least 1.

        Raises:
            ValueError: if chunk_size is given and the encoder is not causal, or a tap is unknown,
                or chunk_size or left_context are odd and some layers have half the rate.
        """
        if chunk_size is not None:
            self._require_causal("chunk_size")
            if chunk_size < 1:
                raise ValueError(f"chunk_size={chunk_size} must be positive, or None")
        if left_context is not None and left_context < 0:
            raise ValueError(f"left_context={left_context} must not be negative; None is unlimited")
        self._check_channels(features)
        if taps is not None:
            taps.check(self.tap_names())
        x = self.subsampling(pad_short(features))
        num_frames = x.size(1)
        out_lens = self.output_lens(lens)
        valid = valid_frames(out_lens, num_frames)
        x = self.dropout(x.masked_fill(~valid.unsqueeze(-1), 0.0))
        full = self._frames(x, valid, chunk_size, left_context)
        half = None
        if self.half_rate is not None:
            chunk, left = halve(chunk_size, "chunk_size"), halve(left_context, "left_context")
            half = self._frames(x, valid[:, ::2], chunk, left)
        if taps is not None:
            taps.put("layers.0", x)
        x, _ = self._run_layers(x, full, half, taps=taps, num_layers=num_layers)
        x = x.masked_fill(~valid.unsqueeze(-1), 0.0)
        if taps is not None:
            taps.put("output", x)
        return x, out_lens

    def _frames(
        self, x: Tensor, valid: Tensor, chunk_size: int | None, left_context: int | None
    ) -> _Frames:
        """Of whole utterances with (N, T) valid frames; x has their type and device."""
        blocks = attention_blocks(
            valid,
            chunk_size=chunk_size,
            left_context=left_context,
            block_size=self._block_size(x.device),
            dtype=x.dtype,
        )
        num_frames = valid.size(1)
        return _Frames(relative_sinusoids(num_frames, num_frames, self.dim, x), blocks, valid)

    def _run_layers(
        self,
        x: Tensor,
        full: _Frames,
        half: _Frames | None,
        caches: Sequence[tuple[Tensor, Tensor]] | None = None,
        *,
        taps: Taps | None = None,
        num_layers: int | None = None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """(N, T, D) through the layers, those of half the rate with `half`; and their caches."""
        layers = self.layers[:num_layers]
        following = []
        entered = averages = x
        for index, layer in enumerate(layers, start=1):
            is_half = self.half_rate is not None and index in self._half_rate
            if self.half_rate is not None and index == self._half_rate.start:
                entered = x
                x = averages = self.half_rate.average(x, full.valid)
            frames = half if is_half and half is not None else full
            here = Taps(taps.names) if taps is not None else None
            cache = None if caches is None else caches[index - 1]
            name = f"layers.{index}"
            entering = x
            x, after = layer(x, *frames, cache, taps=here, name=name)
            following.append(after)
            if self.training and self.layer_drop:
                x = self._drop(x, entering, index)
            out = x
            if self.half_rate is not None and is_half:
                out = self.half_rate.restore(x, averages, entered)
                if index in (self._half_rate.stop - 1, len(layers)):
                    x = out
            if taps is not None and here is not None:
                for part in here:
                    tensor = here[part]
                    taps.put(part, repeat(tensor, out.size(1)) if is_half else tensor)
                taps.put(name, out)
        return x, following

    def _drop(self, x: Tensor, entering: Tensor, index: int) -> Tensor:
        """What entered a layer in place of its output x, for some of the N utterances."""
        probability = self.layer_drop * index / self.num_layers
        dropped = torch.rand(len(x), 1, 1, device=x.device) < probability
        return torch.where(dropped, entering, x)

    def initial_state(
        self,
        batch_size: int,
        left_context: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> EncoderState:
        """State of new streams; device and dtype default to those of the parameters."""
        self._require_causal("streaming")
        if self.half_rate is not None:
            halve(left_context, "left_context")
        like = self.subsampling.project.weight
        device, dtype = device or like.device, dtype or like.dtype
        cached = (self.num_layers, left_context, batch_size, self.dim)
        convolved = (self.num_layers, self.conv_kernel - 1, batch_size, self.dim)
        return EncoderState(
            torch.zeros(cached, device=device, dtype=dtype),
            torch.zeros(convolved, device=device, dtype=dtype),
            torch.zeros(batch_size, device=device, dtype=torch.int64),
        )

    def stream(
        self, features: Tensor, state: EncoderState, chunk_size: int, lens: Tensor | None = None
    ) -> tuple[Tensor, EncoderState]:
        """Encode the next chunk of N streams, which may be at different positions.

        Equal to `forward` with the same chunk_size and the left_context of the state.

        Args:
            features: (N, 4 * chunk_size + 3, C); the next call's begin 4 * chunk_size later.
            state: from `initial_state` or the call before.
            chunk_size: output frames (25 Hz) of a chunk.
            lens: (N,) int64, valid frames of `features` where streams end in this chunk; without
                it the chunk's end is attended to as sound, whatever it was filled with.

        Returns:
            (N, chunk_size, D), zero from each stream's end, and the state of the next call.

        Raises:
            ValueError: if the encoder is not causal, features have the wrong length, or chunk_size
                is odd and some layers have half the rate.
        """
        self._require_causal("streaming")
        self._check_channels(features)
        if features.size(1) != needed_features(chunk_size):
            raise ValueError(
                f"a chunk of {chunk_size} frames needs {needed_features(chunk_size)} input frames, "
                f"not {features.size(1)}"
            )
        x = self.subsampling(features)
        left_context = state.attention.size(1)
        valid = None
        if lens is not None:
            valid = valid_frames(self.output_lens(lens), chunk_size)
            x = x.masked_fill(~valid.unsqueeze(-1), 0.0)
        everything = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        seen = everything if valid is None else valid
        processed = state.processed // self.subsampling_factor

        def frames(step: int) -> _Frames:
            """One frame for `step` of 25 Hz."""
            chunk, left = chunk_size // step, left_context // step
            block = streaming_block(processed // step, left, seen[:, ::step], x.dtype)
            positions = relative_sinusoids(chunk, left + chunk, self.dim, x)
            return _Frames(positions, [block], None if valid is None else valid[:, ::step])

        half = None
        unused = [0] * self.num_layers  # frames of a layer's cache
        if self.half_rate is not None:
            halve(chunk_size, "chunk_size")
            half = frames(2)
            for index in self._half_rate:
                unused[index - 1] = left_context - left_context // 2
        caches = [
            (cached[:, first:], convolved)
            for cached, convolved, first in zip(
                state.attention.transpose(1, 2),
                state.convolution.transpose(1, 2),
                unused,
                strict=True,
            )
        ]
        x, following = self._run_layers(x, frames(1), half, caches)
        attention = [
            F.pad(cached, (0, 0, first, 0)) if first else cached
            for (cached, _), first in zip(following, unused, strict=True)
        ]
        convolution = [convolved for _, convolved in following]
        if valid is not None:
            x = x.masked_fill(~valid.unsqueeze(-1), 0.0)
        return x, EncoderState(
            torch.stack(attention).transpose(1, 2),
            torch.stack(convolution).transpose(1, 2),
            state.processed + self.subsampling_factor * chunk_size,
        )

    @staticmethod
    def _block_size(device: torch.device) -> int | None:
        """Queries of a block: few on a CPU, for its cache; many on a GPU, for its launches."""
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return None  # an exported graph cannot repeat a loop as often as a length asks for
        return 64 if device.type == "cpu" else 512

    def _require_causal(self, what: str) -> None:
        if not self.causal:
            raise ValueError(f"{what} needs an encoder with causal convolutions: causal=True")

    def _check_channels(self, features: Tensor) -> None:
        if features.size(-1) != self.input_dim:
            raise ValueError(
                f"the encoder takes {self.input_dim} feature channels, not {features.size(-1)}"
            )
