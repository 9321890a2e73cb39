"""Queries, keys and values of a foreign teacher's attention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from mvqkd.errors import UserError
from mvqkd.teachers.interface import Teacher

_PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}


class AttentionRecorder:
    """Keeps what the projections of some layers' attention return, until it is taken.

    Args:
        layers: Transformer layers by number.

    Attributes:
        num_heads: H, of every layer.

    Raises:
        ValueError: a layer without three projections of their own.
    """

    def __init__(self, layers: Mapping[int, nn.Module]) -> None:
        self._found: dict[Any, Tensor] = {}
        self.num_heads = 0
        for index, layer in layers.items():
            attention = next(filter(_has_projections, layer.modules()), None)
            if attention is None:
                raise ValueError(f"layer {index} has no projections of queries, keys and values")
            self.num_heads = int(getattr(attention, "num_heads"))  # noqa: B009
            for part, name in _PROJECTIONS.items():
                projection = getattr(attention, name)
                projection.register_forward_hook(partial(self._keep, (index, part)))

    def take(self) -> dict[Any, Tensor]:
        """By (layer, `query`, `key` or `value`): (N, T, H d) of the last pass."""
        found, self._found = self._found, {}
        return found

    def _keep(self, key: tuple[int, str], _: nn.Module, __: Any, output: Tensor) -> None:
        self._found[key] = output


def record_attention(uri: str, teacher: Teacher, layers: Iterable[int]) -> int:
    """From now on `Embeddings.layers` of the teacher has queries, keys and values of layers too, by
    (layer, part), each (N, T, H d).

    Args:
        uri: of the teacher, for the error.
        teacher: of Hugging Face or torchaudio, with these layers.
        layers: 1-based.

    Returns:
        H, the heads of its attention.

    Raises:
        UserError: a teacher whose attention is not known here.
    """
    network: Any = getattr(teacher, "backbone", teacher)
    known = hasattr(network, "recorder") and not getattr(network, "needs_equal_lengths", False)
    try:
        if not known:
            raise ValueError("its attention is not known here")
        stack = network.transformer_layers
        network.recorder = AttentionRecorder({layer: stack[layer - 1] for layer in layers})
    except ValueError as error:
        raise UserError(
            f"the teacher {uri} gives no relations of attention: {error}",
            remedy="take its features alone (relation_weight 0), or another teacher: Whisper, "
            "HuBERT or wav2vec 2.0",
            parameters=("relation_weight",),
        ) from error
    heads: int = network.recorder.num_heads
    return heads


def _has_projections(module: nn.Module) -> bool:
    # WavLM hands the weights of its projections to a function.
    called = hasattr(module, "num_heads") and not hasattr(module, "gru_rel_pos_const")
    return called and all(
        isinstance(getattr(module, name, None), nn.Module) for name in _PROJECTIONS.values()
    )
