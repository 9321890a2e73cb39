"""What an experiment is: dataclasses whose fields are the keys of `egs/*/conf/*.yaml` and the
options `--section.field`.

Only the standard library is imported, so that `run.sh` can check an option before anything is
installed. Ranges stand in the types (`mvqkd.recipe.config.fields` reads them); rules between
several fields are in `mvqkd.recipe.config.rules`. Values are plain numbers, strings and lists: no
class is ever built from YAML by name. Programs read the fields and pass them to constructors;
nothing in `mvqkd.models`, `mvqkd.losses` or `mvqkd.decoding` knows these classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from mvqkd.recipe.config.ranges import Range

Count = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
PositiveOrAll = Annotated[int, Range(1, also=-1)]
NotNegative = Annotated[float, Range(0)]
AboveZero = Annotated[float, Range(0, open_low=True)]
Share = Annotated[float, Range(0, 1)]

Method = Literal["greedy_search", "modified_beam_search", "ctc_greedy_search"]


@dataclass
class DataConfig:
    """Batches and augmentation."""

    max_duration: AboveZero = 200.0
    """Seconds of audio in a batch, at most, on each process."""
    max_tokens: Positive = 4000
    """Tokens of transcripts in a batch, at most: bounds the memory of the transducer loss on
    batches of fast speech."""
    num_buckets: Positive = 30
    """Buckets of similar duration that batches are drawn from; more waste less padding and shuffle
    less."""
    pad_multiple: Positive = 1
    """Batches are padded to 3 frames (of 10 ms) more than a multiple of this: fewer different
    shapes, for each of which bfloat16 on a CPU compiles its kernels. 32 makes multiples of 8 of the
    encoder's frames."""
    labelled_hours: NotNegative = 0.0
    """Hours of the training audio whose transcripts are used; 0: all. Which ones does not depend on
    the seed. Speed-perturbed copies go with their originals and are not counted."""
    unlabelled_ratio: NotNegative = 0.0
    """Batches without transcripts for each batch with: of the training audio that labelled_hours
    leaves, and of `--unlabelled-splits`. Only distillation losses are computed on them."""
    num_workers: Count = 2
    """Processes that load batches for each training process; 0 loads in the training process."""
    musan_probability: Share = 0.0
    """Probability that noise, music or babble of MUSAN is mixed into an utterance; needs the MUSAN
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
    """Largest part of an utterance's frames that one span, and on average all spans together, may
    mask."""
    num_frequency_masks: Count = 2
    """Maximum number of frequency masks in an utterance."""
    frequency_mask_size: Count = 27
    """Widest masked band, in mel bins."""


@dataclass
class ModelConfig:
    """The student: Conformer encoder, stateless predictor, joiner."""

    dim: Positive = 256
    """Width of the encoder's layers."""
    num_layers: Positive = 12
    """Conformer layers."""
    num_heads: Positive = 4
    """Attention heads of a layer; must divide dim."""
    feedforward_dim: Positive = 1024
    """Inner width of the two feed-forward modules of a layer."""
    conv_kernel: Positive = 15
    """Frames (of 40 ms) that a layer's depthwise convolution spans; odd unless causal."""
    dropout: Annotated[float, Range(0, 1, open_high=True)] = 0.1
    """Dropout of every residual branch of the encoder."""
    causal: bool = False
    """Causal convolutions: needed for a streaming student, which then trains with chunk_size."""
    chunk_size: Annotated[list[int], Range(1, also=-1)] = field(default_factory=list)
    """Frames of 40 ms in a chunk of a streaming student. One number trains for that chunk;
    several are drawn from at random for every batch (dynamic chunk training; -1 is the whole
    utterance); none: full context."""
    left_context: Annotated[int, Range(-1)] = -1
    """Frames of 40 ms before its chunk that a frame attends to; -1: all of them."""
    predictor_dim: Positive = 256
    """Width of the predictor."""
    context_size: Positive = 2
    """Tokens that the stateless predictor receives."""
    joiner_dim: Positive = 256
    """Width of the joiner."""


@dataclass
class LossConfig:
    """Pruned RNN-T (Kuang et al. 2022) and an auxiliary CTC head."""

    prune_range: Annotated[int, Range(2)] = 5
    """Tokens considered at each frame by the pruned loss."""
    lm_scale: Share = 0.25
    """Share of the predictor-only probability in the smoothed simple loss."""
    am_scale: Share = 0.0
    """Share of the encoder-only probability in the smoothed simple loss."""
    simple_scale: NotNegative = 0.5
    """Weight of the simple loss after the warm-up (1.0 during it)."""
    warmup_steps: Count = 1000
    """Steps during which the pruned loss grows from a tenth of its weight to all of it."""
    ctc_scale: NotNegative = 0.0
    """Weight of a CTC head's loss; 0: no CTC head."""
    ctc_warmup_steps: Count = 0
    """Steps at the beginning in which the encoder is trained by CTC alone; with some hundreds, a
    student of few hours of speech aligns early."""
    topology: Literal["regular", "modified"] = "regular"
    """`regular`: any number of tokens at a frame; `modified`: at most one."""
    delay_penalty: NotNegative = 0.0
    """Penalty that makes a streaming student emit earlier (arXiv 2211.00490); 0: none."""
    backend: Literal["auto", "k2", "builtin"] = "auto"
    """`auto`: k2 on a GPU when it is installed; else built in, which is faster on a CPU
    (benchmarks/README.md). Or one of `k2`, `builtin`."""


@dataclass
class QuantizerConfig:
    """The quantizer whose codes are the targets, and how they are chosen."""

    num_codebooks: Annotated[int, Range(1, 32)] = 8
    """Bytes of a teacher frame."""
    rate_distortion_weight: NotNegative = 0.0
    """Weight of a rate in the choice of codes: the squared error plus this x the embeddings' energy
    x the codes' negative log-probability (nats), as a small network predicts it from the
    utterance's features. Larger: codes that are easier to predict, and a worse reconstruction; the
    quantizer's report has what 0.001 to 0.03 do. 0: the nearest codes."""
    sample_utterances: Count = 1000
    """Utterances that the quantizer is trained on; 0: all."""
    num_steps: Count = 0
    """Steps of training the quantizer; 0: its own default."""
    file: str = ""
    """File of a quantizer that was made elsewhere, to take instead of training one: of this package
    or a state dict of `multi_quantization`, which icefall's recipe saves. With codes as `targets`:
    the one that they are of, which is checked; needed for whatever uses more than the codes."""


@dataclass
class LayerLossConfig:
    """What the losses at a layer of the student have in common."""

    weight: NotNegative = 0.0
    """Weight of the loss, which is a mean over indexes or dimensions, and a sum over frames as the
    transducer loss is; 0: off."""
    teacher: str = ""
    """URI of the teacher: `torchaudio:NAME`, `hf:ID_OR_FOLDER`, `mvqkd:EXPERIMENT` (of the same
    recipe, or the folder of any), `python:MODULE:FUNCTION`."""
    teacher_layer: Count = 0
    """Layer of the teacher, 1-based."""
    layer: Count = 0
    """Layer of the student's encoder that the loss is at, 1-based."""
    target_delay: Count = 0
    """Frames of 40 ms by which the targets are delayed, so that a streaming student sees a little
    of what follows before it predicts."""
    masked_weight: NotNegative = 1.0
    """Weight of frames that SpecAugment masked in time."""
    unmasked_weight: NotNegative = 1.0
    """Weight of the other frames."""
    targets: str = ""
    """Folder of codes or embeddings; empty: those that the recipe's stages make."""


@dataclass
class CodesConfig(LayerLossConfig):
    """MVQ-KD: predict the codebook indexes of the teacher's embeddings (arXiv 2211.00508)."""

    prediction: Literal["independent", "soft", "tied", "joint"] = "independent"
    """Every index on its own; `soft`: with soft labels, in which entries near the right one have a
    share; `tied`: with the quantizer's entries as classes, in the space of the embeddings; `joint`:
    given the indexes before it."""
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    """Of the codes."""


@dataclass
class EmbeddingsConfig(LayerLossConfig):
    """Regression of the teacher's embeddings, the baseline of MVQ-KD."""

    distance: Literal["l1", "l2", "cosine", "kld"] = "l2"
    """Between the embeddings and what the student predicts of them."""
    source: Literal["embeddings", "codes", "online"] = "embeddings"
    """Where the embeddings come from. `embeddings`: stored, of all training audio. `codes`: decoded
    from stored codebook indexes. `online`: computed by the teacher in every pass over the data;
    nothing is stored."""
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    """Of the source `codes`."""


@dataclass
class DistillationConfig:
    """Distillation losses; several can be on at once."""

    codes: CodesConfig = field(default_factory=CodesConfig)
    """Codebook indexes."""
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    """The embeddings themselves."""

    @property
    def losses(self) -> dict[str, CodesConfig | EmbeddingsConfig]:
        """The sections that are on, by name."""
        sections: dict[str, CodesConfig | EmbeddingsConfig]
        sections = {"codes": self.codes, "embeddings": self.embeddings}
        return {name: section for name, section in sections.items() if section.weight > 0}


@dataclass
class OptimizerConfig:
    """AdamW and its schedule."""

    learning_rate: AboveZero = 1e-3
    """Peak learning rate."""
    betas: Annotated[list[float], Range(0, 1, open_high=True, length=2)] = field(
        default_factory=lambda: [0.9, 0.98]
    )
    """AdamW's moment decays."""
    weight_decay: NotNegative = 0.01
    """Decoupled weight decay of matrices; biases, norms and scales have none."""
    schedule: Literal["cosine", "noam"] = "cosine"
    """After the linear warm-up: `cosine` falls to final_fraction at the last step, `noam` with the
    inverse square root."""
    warmup_steps: Count = 500
    """Steps of linear warm-up."""
    final_fraction: Share = 0.02
    """Learning rate at the end of the cosine, as a part of the peak."""
    clip_grad_norm: NotNegative = 5.0
    """Largest norm of the gradient; 0: no clipping."""


@dataclass
class TrainingConfig:
    """How long, how precise, and what is written."""

    num_epochs: Positive = 30
    """Passes over the training cuts. A training for which it is raised goes on, at the learning
    rate that the longer schedule has there."""
    seed: Count = 42
    """Random seed, of initialization, order, augmentation and dropout."""
    init: str = ""
    """File of weights that the student begins with: `pretrained.pt` or a checkpoint of a student of
    the same sizes; empty: random ones."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the forward pass: `float32`, `bfloat16` or `float16`; losses are always float32."""
    accumulate: Positive = 1
    """Batches whose gradients are summed before a step."""
    average_period: Positive = 100
    """Steps between updates of the running average of the weights."""
    log_interval: Positive = 50
    """Steps between lines of the log."""
    valid_interval: Count = 0
    """Steps between validations; 0: at the end of every epoch."""
    save_interval: Positive = 1000
    """Steps between `checkpoint-<step>.pt` files, from which a killed training goes on."""
    keep_checkpoints: PositiveOrAll = 2
    """`checkpoint-<step>.pt` files kept."""
    keep_epochs: PositiveOrAll = -1
    """`epoch-N.pt` files kept; -1: all."""
    max_nonfinite: Count = 50
    """Batches with a loss or gradient that is not finite, after which training stops."""


@dataclass
class DecodingConfig:
    """Which weights, which search."""

    epoch: PositiveOrAll = -1
    """Epoch whose weights are decoded with; -1: the last."""
    avg: Positive = 1
    """Epochs up to that one to average."""
    use_averaged_model: bool = True
    """Average the running average of the weights over those epochs, not the weights at their
    ends."""
    methods: list[Method] = field(default_factory=lambda: ["greedy_search", "modified_beam_search"])
    """Any of `greedy_search`, `modified_beam_search`, `ctc_greedy_search`."""
    beam_size: Positive = 4
    """Hypotheses kept by modified beam search."""
    max_symbols_per_frame: Positive = 1
    """Tokens that greedy search may emit at a frame; 1 is what sherpa-onnx does."""
    blank_penalty: float = 0.0
    """Subtracted from the blank's logit: positive values trade deletions for insertions."""
    nbest: Count = 0
    """Hypotheses of each utterance written to `nbest-*.jsonl`; 0: no such file."""
    max_duration: AboveZero = 600.0
    """Seconds of audio decoded at once."""
    streaming: Literal["none", "simulated", "chunked"] = "simulated"
    """How a student with chunks is decoded: `simulated` (one masked forward), `chunked` (chunk by
    chunk with states; same result), or `none` (full context). A student without chunks always has
    full context."""
    chunk_size: Count = 0
    """Frames of 40 ms; 0: the first of model.chunk_size."""
    left_context: Annotated[int, Range(-1)] = 0
    """Frames of 40 ms; 0: model.left_context; -1: all."""
    tail_padding: Count = 0
    """Frames of 10 ms of silence appended to each utterance, for students that emit late."""


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
    """The transducer loss."""
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    """Teacher, targets and loss."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW and its schedule."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How long, how precise, what is written."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """Which weights, which search."""
