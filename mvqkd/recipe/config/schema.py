"""What an experiment is: dataclasses whose fields are the keys of `egs/*/conf/*.yaml` and the
options `--section.field`.

Only the standard library is imported, so that `run.sh` can check an option before anything is
installed. Ranges are part of the types (`mvqkd.recipe.config.fields` reads them); rules between
several fields are in `mvqkd.recipe.config.rules`. Values are plain numbers, strings and lists: no
class is ever built from YAML by name. Programs read the fields and pass them to constructors;
nothing in `mvqkd.models`, `mvqkd.losses` or `mvqkd.decoding` knows these classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from mvqkd.recipe.config.attention_schema import (
    AttentionLossConfig,
    AttentionSearchConfig,
    TokensConfig,
)
from mvqkd.recipe.config.export_schema import ExportConfig
from mvqkd.recipe.config.hypotheses_schema import HypothesesConfig
from mvqkd.recipe.config.layers_schema import LayersConfig
from mvqkd.recipe.config.model_schema import ModelConfig
from mvqkd.recipe.config.outputs_schema import DualModeConfig, OutputsConfig
from mvqkd.recipe.config.quantizer_schema import QuantizerConfig
from mvqkd.recipe.config.ranges import (
    AboveZero,
    Count,
    NotNegative,
    Positive,
    PositiveOrAll,
    Range,
    Share,
)
from mvqkd.recipe.config.training_schema import OptimizerConfig, TrainingConfig

Method = Literal[
    "greedy_search",
    "modified_beam_search",
    "ctc_greedy_search",
    "ctc_prefix_beam_search",
    "attention_greedy_search",
    "attention_beam_search",
]


@dataclass
class DataConfig:
    """Batches and augmentation."""

    step_duration: AboveZero = 200.0
    """Seconds of transcribed audio in a training step, over all processes and accumulated batches.
    Longer utterances are skipped."""
    step_tokens: Positive = 4000
    """Transcript tokens in a step: one with more has less audio."""
    batch_duration: NotNegative = 0.0
    """Maximum seconds of audio in one forward pass of a process, padding included; what a step has
    more is accumulated. Set by the memory of the machine, changes results by rounding and dropout
    alone. 0: no limit."""
    batch_tokens: Count = 0
    """Maximum tokens in one forward pass, those of all hypotheses of an utterance and padding
    included; 0: no limit."""
    num_buckets: Positive = 30
    """Number of duration buckets that batches are drawn from; more buckets mean less padding and
    less shuffling."""
    pad_multiple: Positive = 1
    """Batches are padded to 3 frames (of 10 ms) more than a multiple of this: fewer different
    shapes, for each of which bfloat16 on a CPU compiles its kernels. 32 makes multiples of 8 of the
    encoder's frames."""
    labelled_hours: NotNegative = 0.0
    """Hours of training audio whose transcripts are used, for the BPE model too (stage 3); 0: all.
    The choice does not depend on the seed. Speed-perturbed copies go with their originals and are
    not counted."""
    unlabelled_ratio: NotNegative = 0.0
    """Seconds of audio without transcripts for each second with them, in every step; drawn from the
    training audio that labelled_hours leaves and from `--unlabelled-splits`. Only distillation
    losses are computed on it."""
    replay: list[str] = field(default_factory=list)
    """Old data that a fine-tuning mixes into every step: folders of prepared data, whose training
    splits are taken, or manifests of cuts. See docs/fine_tuning.md."""
    replay_ratio: AboveZero = 1.0
    """Seconds of replayed audio for each second of new transcribed audio; at least one utterance in
    a step."""
    extra_dev: list[str] = field(default_factory=list)
    """Other data on which losses are computed too, each split logged apart: folders of prepared
    data, whose dev splits are taken, or manifests of cuts."""
    num_workers: Annotated[int, Range(0, 128)] = 2
    """Data loading processes for each training process; 0: load in the training process."""
    musan_probability: Share = 0.0
    """Probability that noise, music or babble from MUSAN is added to an utterance; needs the MUSAN
    features of stage 2."""
    musan_snr: Annotated[list[float], Range(length=2)] = field(default_factory=lambda: [10.0, 20.0])
    """Range of the signal-to-noise ratio of that noise, in dB."""
    spec_augment: bool = True
    """Mask bands of frequencies and spans of time on the student's input (Park et al. 2019)."""
    num_time_masks: Count = 10
    """Maximum number of time masks in an utterance; fewer in short ones (see
    max_masked_fraction)."""
    time_mask_size: Positive = 100
    """Longest masked span, in frames of 10 ms."""
    max_masked_fraction: Share = 0.15
    """Maximum fraction of an utterance's frames that one time mask, and on average all time masks
    together, may cover."""
    num_frequency_masks: Count = 2
    """Maximum number of frequency masks in an utterance."""
    frequency_mask_size: Count = 27
    """Widest masked band, in mel bins."""


@dataclass
class LossConfig(AttentionLossConfig):
    """Pruned RNN-T (Kuang et al. 2022), CTC, and an attention decoder."""

    transducer_scale: NotNegative = 1.0
    """Weight of the transducer loss; 0: no transducer."""
    prune_range: Annotated[int, Range(2)] = 5
    """Number of symbols that the pruned loss considers at each frame."""
    lm_scale: Share = 0.25
    """Weight of the predictor-only probability in the smoothed simple loss."""
    am_scale: Share = 0.0
    """Weight of the encoder-only probability in the smoothed simple loss."""
    simple_scale: NotNegative = 0.5
    """Weight of the simple loss after the warm-up (1.0 during it)."""
    warmup_steps: Count = 1000
    """Steps during which the weight of the pruned loss grows from 0.1 to 1."""
    ctc_scale: NotNegative = 0.0
    """Weight of the CTC loss; 0: no CTC head. With one, utterances without a frame for each token
    and each blank between equal tokens are left out."""
    consistency_scale: NotNegative = 0.0
    """Weight of consistency regularization of the CTC head (CR-CTC, arXiv 2410.05101): every
    utterance is in a step twice, augmented differently, which doubles its cost. 0: off."""
    ctc_warmup_steps: Count = 0
    """Initial steps in which the transducer loss does not train the encoder, only CTC and
    distillation do; a few hundred help a student with little transcribed speech to align early."""
    distillation_steps: Count = 0
    """Initial steps in which distillation alone trains the encoder: the heads learn from
    transcripts, but no gradient of theirs reaches it."""
    topology: Literal["regular", "modified"] = "regular"
    """`regular`: any number of tokens per frame; `modified`: at most one."""
    delay_penalty: NotNegative = 0.0
    """Penalty that makes a streaming student emit earlier (arXiv 2211.00490), from twice
    warmup_steps on; the losses in logs are without it. 0: none."""
    backend: Literal["auto", "k2", "builtin"] = "auto"
    """Implementation of the transducer loss. `auto`: `k2` on a GPU if it is installed, else
    `builtin`, which is faster on a CPU (benchmarks/README.md)."""


@dataclass
class LayerLossConfig:
    """Options that all distillation losses at a layer of the student share."""

    weight: NotNegative = 0.0
    """Weight of the loss, which is averaged over indexes or dimensions and summed over frames, like
    the transducer loss; 0: off."""
    final_weight_fraction: Share = 1.0
    """The weight falls linearly to this fraction of it at the last step."""
    teacher: str = ""
    """URI of the teacher: `torchaudio:NAME`, `hf:ID_OR_FOLDER`, `mvqkd:EXPERIMENT` (of the same
    recipe, or the folder of any), `python:MODULE:FUNCTION`."""
    teacher_layer: Count = 0
    """Layer of the teacher, 1-based."""
    layer: Annotated[list[int], Range(0)] = field(default_factory=list)
    """Layer of the student's encoder that the loss is applied to, 1-based; or several, such as
    [3, 6], each with a head of its own: the loss is their mean."""
    target_delay: Count = 0
    """Target delay, in frames of 40 ms: gives a streaming student some future context before it has
    to predict a frame's targets."""
    masked_weight: NotNegative = 1.0
    """Weight of the loss at frames that SpecAugment masked in time."""
    unmasked_weight: NotNegative = 1.0
    """Weight of the loss at the other frames."""
    targets: str = ""
    """Folder of existing codes or embeddings; empty: those made by the recipe's stages."""


@dataclass
class CodesConfig(LayerLossConfig):
    """MVQ-KD: predict the codebook indexes of the teacher's embeddings (arXiv 2211.00508)."""

    prediction: Literal["independent", "soft", "tied", "joint"] = "independent"
    """How indexes are predicted. `independent`: each on its own; `soft`: with soft labels, spread
    over codebook entries near the right one; `tied`: with the quantizer's entries as output
    weights, in the space of the embeddings; `joint`: each given the indexes before it."""
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    """Quantizer of the codes."""


@dataclass
class EmbeddingsConfig(LayerLossConfig):
    """Regression of the teacher's embeddings, the baseline of MVQ-KD."""

    distance: Literal["l1", "l2", "cosine", "kld"] = "l2"
    """Distance between the embeddings and the student's prediction of them."""
    source: Literal["embeddings", "codes", "online"] = "embeddings"
    """Where the embeddings come from. `embeddings`: stored, of all training audio. `codes`: decoded
    from stored codebook indexes. `online`: computed by the teacher in every pass over the data;
    nothing is stored."""
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    """Quantizer of the codes, with the source `codes`."""


FrameSection = CodesConfig | EmbeddingsConfig
"""Of `distillation`, with targets that stages before training make."""
LossSection = FrameSection | LayersConfig | OutputsConfig | TokensConfig
"""With a teacher and a loss of its own."""
Section = LossSection | HypothesesConfig
"""With a teacher."""


@dataclass
class DistillationConfig:
    """Distillation losses; several can be on at once."""

    codes: CodesConfig = field(default_factory=CodesConfig)
    """Prediction of codebook indexes (MVQ-KD)."""
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    """Regression of the embeddings."""
    layers: LayersConfig = field(default_factory=LayersConfig)
    """Auxiliary non-streaming layers."""
    outputs: OutputsConfig = field(default_factory=OutputsConfig)
    """Token probabilities of a transducer with full context."""
    dual_mode: DualModeConfig = field(default_factory=DualModeConfig)
    """The student's own pass with full context."""
    hypotheses: HypothesesConfig = field(default_factory=HypothesesConfig)
    """Texts of a teacher that writes (sequence-level distillation)."""
    tokens: TokensConfig = field(default_factory=TokensConfig)
    """Token probabilities of an attention decoder."""

    @property
    def frame_losses(self) -> dict[str, CodesConfig | EmbeddingsConfig]:
        """The sections that are on and have targets that stages make, by name."""
        sections: dict[str, CodesConfig | EmbeddingsConfig]
        sections = {"codes": self.codes, "embeddings": self.embeddings}
        if self.layers.source != "teacher":
            sections["layers"] = self.stored_layer
        return {name: section for name, section in sections.items() if section.weight > 0}

    @property
    def stored_layer(self) -> EmbeddingsConfig:
        """The frames that the auxiliary layers imitate, where they are stored."""
        layers = self.layers
        return EmbeddingsConfig(
            weight=layers.weight,
            teacher=layers.teacher,
            teacher_layer=layers.teacher_layer[0] if layers.teacher_layer else 0,
            layer=layers.layer,
            source="codes" if layers.source == "codes" else "embeddings",
            quantizer=layers.quantizer,
            targets=layers.targets,
        )

    @property
    def losses(self) -> dict[str, LossSection]:
        """The sections that are on, have a teacher and add losses to those of recognition, by
        name."""
        live: dict[str, LayersConfig | OutputsConfig | TokensConfig]
        live = {"layers": self.layers, "outputs": self.outputs, "tokens": self.tokens}
        on = {name: section for name, section in live.items() if section.weight > 0}
        return {**self.frame_losses, **on}

    @property
    def sections(self) -> dict[str, Section]:
        """All sections that are on, by name: those with teachers."""
        hypotheses = {"hypotheses": self.hypotheses} if self.hypotheses.weight > 0 else {}
        return {**self.losses, **hypotheses}


@dataclass
class DecodingConfig(AttentionSearchConfig):
    """Weights and search of decoding."""

    epoch: PositiveOrAll = -1
    """Epoch whose weights are used for decoding; -1: the last."""
    avg: Positive = 1
    """Number of epochs to average, ending with that one."""
    use_averaged_model: bool = True
    """Use the running average of the weights over those epochs instead of the mean of the weights
    at their ends."""
    methods: list[Method] = field(default_factory=lambda: ["greedy_search", "modified_beam_search"])
    """Search methods: `greedy_search` and `modified_beam_search` (transducer), `ctc_greedy_search`,
    `ctc_prefix_beam_search`, `attention_greedy_search`, `attention_beam_search`."""
    beam_size: Positive = 4
    """Hypotheses kept by beam searches."""
    max_symbols_per_frame: Positive = 1
    """Maximum tokens per frame of greedy search; 1: as in sherpa-onnx."""
    blank_penalty: float = 0.0
    """Value subtracted from the blank's logit: positive values trade deletions for insertions."""
    nbest: Count = 0
    """Number of hypotheses of each utterance written to `nbest-*.jsonl`; 0: no such file."""
    max_duration: AboveZero = 600.0
    """Maximum seconds of audio in a decoding batch."""
    streaming: Literal["none", "simulated", "chunked"] = "simulated"
    """How a streaming student is decoded: `simulated` (one forward pass with a chunk mask),
    `chunked` (chunk by chunk with cached states; same result), or `none` (full context).
    Other students always have full context."""
    chunk_size: Annotated[list[int], Range(0)] = field(default_factory=list)
    """Chunk size in decoding, in frames of 40 ms; or several, such as [4, 8, 16], with a result for
    each (stage 12 exports the first). None, or 0: the first of model.chunk_size."""
    left_context: Annotated[int, Range(-1)] = 0
    """Left context in decoding, in frames of 40 ms; 0: model.left_context; -1: unlimited."""
    tail_padding: Count = 0
    """Silence appended to each utterance, in frames of 10 ms; for students with emission delay."""


@dataclass
class ExperimentConfig:
    """One experiment of a recipe: a file `egs/<recipe>/conf/<experiment>.yaml`, and any field as
    `--section.field value`."""

    description: str = ""
    """One line for the results table."""
    data: DataConfig = field(default_factory=DataConfig)
    """Batches and augmentation."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The student."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Losses of recognition."""
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    """Distillation losses, their teachers and targets."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer and its schedule."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Duration, precision, logs and checkpoints."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """Weights and search of decoding."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """ONNX files and the model folder."""
