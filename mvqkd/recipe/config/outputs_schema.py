"""The sections `distillation.outputs` and `distillation.dual_mode` of an experiment, see
`mvqkd.recipe.config.schema`.

Only the standard library is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mvqkd.recipe.config.ranges import Range


@dataclass
class OutputsConfig:
    """Distillation of token probabilities: divergence from those of a transducer with full context
    and the same tokens, summed over cells of the lattice. For audio with transcripts alone."""

    weight: Annotated[float, Range(0)] = 0.0
    """Weight of the divergence (nats), which is a sum over cells; 0: off."""
    final_weight_fraction: Annotated[float, Range(0, 1)] = 1.0
    """The weight falls linearly to this fraction of it at the last step."""
    teacher: str = ""
    """The teacher, an experiment with full context: `mvqkd:EXPERIMENT` (of the same recipe, or the
    folder of any). It runs beside the student, on features without noise and masks."""
    distribution: Literal["full", "collapsed"] = "full"
    """`full`: over all tokens; `collapsed`: over the next token, blank and the rest (arXiv
    2011.06110)."""
    cells: Literal["band", "best_path"] = "band"
    """`band`: cells that the pruned transducer loss keeps; `best_path`: those of the teacher's most
    probable alignment of the transcript (arXiv 2110.03334)."""
    target_delay: Annotated[int, Range(0)] = 0
    """Frames of 40 ms by which the teacher is moved back: a streaming student emits later."""


@dataclass
class DualModeConfig:
    """Dual mode (arXiv 2010.06030): every step has two passes of the student, with chunks and with
    full context. Both are trained to recognize, and the divergence between them is a further loss.
    For audio with transcripts alone."""

    weight: Annotated[float, Range(0)] = 0.0
    """Weight of the divergence (nats); 0: off, and there is one pass."""
    final_weight_fraction: Annotated[float, Range(0, 1)] = 1.0
    """The weight falls linearly to this fraction of it at the last step."""
    full_context_weight: Annotated[float, Range(0)] = 1.0
    """Weight of the recognition losses of the pass with full context, relative to the other's."""
    kind: Literal["cells", "lattice"] = "cells"
    """`cells`: divergence of token probabilities, summed over cells of the pruned band; `lattice`:
    of the probabilities of the transcript's alignments, one for each utterance."""
    direction: Literal["one_way", "symmetric"] = "one_way"
    """`one_way`: the pass with chunks imitates the other; `symmetric`: each imitates the other."""
    distribution: Literal["full", "collapsed"] = "full"
    """Of `cells`, see `distillation.outputs.distribution`."""
