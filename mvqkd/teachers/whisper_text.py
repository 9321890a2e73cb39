"""N-best texts of Whisper (Radford et al. 2022), by transformers' beam search."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mvqkd.errors import UserError
from mvqkd.geometry import SAMPLE_RATE, SHIFT_SAMPLES
from mvqkd.teachers.hugging_face import load_network, open_checkpoint, refuse_quantized
from mvqkd.teachers.transcribers import TextHypothesis, Transcription, count_parameters
from mvqkd.teachers.whisper import WhisperTeacher

_MULTILINGUAL = 51865
"""Tokens of the smallest vocabulary that knows languages."""
_STEP = 2 * SAMPLE_RATE
"""Windows are multiples of this, in samples."""
_TOKENS_A_SECOND = 12
"""A search ends after as many, and 16 more: speech has about 4, a loop has no end."""


class WhisperTranscriber:
    """A `Transcriber` on transformers' `WhisperForConditionalGeneration`.

    Whisper was trained on windows of 30 s. Here the window ends at the first multiple of 2 s that
    leaves `silence` seconds after the audio, so that short utterances cost less; `silence=30` gives
    whole windows. Utterances with the same window are a batch.

    Args:
        model: the network.
        tokenizer: `decode(ids, skip_special_tokens=True)`.
        mel_filters: (201, mel bins) of its feature extractor.
        prompt: token ids that the decoder begins with, the first of them its start.
        no_speech: id of the token for windows without speech; None: the network has none.
        suppress: ids that are never written, such as brackets and annotations of noise.
        suppress_first: ids that are not written first.
        beam_size: hypotheses that the search keeps and returns.
        silence: seconds after the audio, at least, as far as a window of 30 s goes.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        mel_filters: Tensor,
        *,
        prompt: list[int],
        no_speech: int | None,
        suppress: list[int] | None = None,
        suppress_first: list[int] | None = None,
        beam_size: int,
        silence: float = 2.0,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._encoder = WhisperTeacher(model.get_encoder(), mel_filters, None, silence=silence)
        self._encoder.wanted = [self._encoder.num_layers]
        self._encoder.eval().to(model.device)
        self._prompt = prompt
        self._no_speech = no_speech
        self._suppress = suppress
        self._suppress_first = suppress_first
        self._beam_size = beam_size
        self._silence = round(silence * SAMPLE_RATE)
        self._window = self._encoder.window * SHIFT_SAMPLES
        self.max_seconds = self._window / SAMPLE_RATE
        self.num_parameters = count_parameters(model)
        self.settings: dict[str, Any] = {
            "method": "beam_search",
            "beam_size": beam_size,
            "silence": silence,
            "prompt": prompt,
        }

    def __call__(self, waveforms: Tensor, lens: Tensor) -> list[Transcription]:
        """See `Transcriber.__call__`."""
        steps = torch.div(lens + self._silence + _STEP - 1, _STEP, rounding_mode="floor")
        windows = (steps * _STEP).clamp(max=self._window)
        found: list[Transcription] = [Transcription([])] * len(lens)
        for window in windows.unique().tolist():
            rows = (windows == window).nonzero().squeeze(1)
            audio = waveforms[rows, :window]
            audio = F.pad(audio, (0, window - audio.shape[1]))
            texts = self._transcribe(audio, lens[rows].clamp(max=window))
            for row, transcription in zip(rows.tolist(), texts, strict=True):
                found[row] = transcription
        return found

    @torch.inference_mode()
    def _transcribe(self, audio: Tensor, lens: Tensor) -> list[Transcription]:
        """Of windows of one length, (N, S)."""
        frames = audio.shape[1] // SHIFT_SAMPLES
        mel = self._encoder.log_mel(audio, lens)[..., :frames]
        received = torch.full((len(mel),), frames, device=mel.device)
        encoded = self._encoder.encode(mel, received)[self._encoder.num_layers]
        sequences = self._search(encoded, audio.shape[1] / SAMPLE_RATE)
        scores, lengths, finished, no_speech = self._score(encoded, sequences)
        sequences = sequences.view(len(audio), self._beam_size, -1)
        transcriptions = []
        for row, of_row in enumerate(sequences.tolist()):
            hypotheses = []
            for rank, ids in enumerate(of_row):
                number = row * self._beam_size + rank
                hypotheses.append(
                    TextHypothesis(
                        text=self._tokenizer.decode(ids, skip_special_tokens=True).strip(),
                        log_prob=scores[number],
                        length=lengths[number],
                        finished=finished[number],
                    )
                )
            silent = None if no_speech is None else no_speech[row * self._beam_size]
            transcriptions.append(Transcription(hypotheses, silent))
        return transcriptions

    def _search(self, encoded: Tensor, seconds: float) -> Tensor:
        """(N, T, D) -> (N * beam_size, U) token ids, the prompt first, the best of each first."""
        import transformers
        from transformers.modeling_outputs import BaseModelOutput

        limit = self._model.config.max_target_positions - len(self._prompt)
        config = transformers.GenerationConfig(
            num_beams=self._beam_size,
            num_return_sequences=self._beam_size,
            length_penalty=1.0,
            max_length=len(self._prompt) + min(limit, 16 + math.ceil(_TOKENS_A_SECOND * seconds)),
            decoder_start_token_id=self._prompt[0],
            eos_token_id=self._model.config.eos_token_id,
            pad_token_id=self._model.config.eos_token_id,
            suppress_tokens=self._suppress,
            begin_suppress_tokens=self._suppress_first,
        )
        prompt = torch.tensor([self._prompt] * len(encoded), device=encoded.device)
        # Not Whisper's own `generate`, which wants spectrograms of whole windows.
        found: Any = transformers.GenerationMixin.generate(
            self._model,
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
            decoder_input_ids=prompt,
            attention_mask=encoded.new_ones(encoded.shape[:2], dtype=torch.int64),
            decoder_attention_mask=torch.ones_like(prompt),
            generation_config=config,
        )
        return found

    def _score(
        self, encoded: Tensor, sequences: Tensor
    ) -> tuple[list[float], list[int], list[bool], list[float] | None]:
        """Log-probability, length with the end, whether it has one, and probability of no speech,
        of each of the sequences that `_search` found."""
        begin, end = len(self._prompt), self._model.config.eos_token_id
        scores: list[float] = []
        silent: list[float] = []
        written = sequences[:, begin:]
        ended = (written == end).cumsum(1)
        valid = (ended == 0) | ((ended == 1) & (written == end))
        # Utterance by utterance: the logits of a vocabulary of 50 000 take room.
        for row, x in enumerate(encoded):
            mine = slice(row * self._beam_size, (row + 1) * self._beam_size)
            logits = self._model(
                encoder_outputs=(x.expand(self._beam_size, -1, -1),),
                decoder_input_ids=sequences[mine, :-1],
                use_cache=False,
            ).logits.float()
            log_probs = logits.log_softmax(-1)
            chosen = log_probs[:, begin - 1 :].gather(2, written[mine, :, None]).squeeze(2)
            scores += (chosen * valid[mine]).sum(1).tolist()
            if self._no_speech is not None:
                silent += log_probs[:, 0, self._no_speech].exp().tolist()
        lengths = valid.sum(1).tolist()
        finished = (ended > 0).any(1).tolist()
        return scores, lengths, finished, silent if self._no_speech is not None else None


def load_whisper(
    name: str,
    *,
    beam_size: int,
    device: torch.device,
    revision: str | None = None,
    language: str | None = None,
    silence: float = 2.0,
) -> WhisperTranscriber:
    """Load a checkpoint of the Hugging Face hub, or a folder.

    Args:
        name: id on the hub, or folder.
        beam_size, silence: see `WhisperTranscriber`.
        device: where it runs.
        revision: branch, tag or commit on the hub.
        language: code such as `en`, of multilingual networks; None: English.

    Raises:
        UserError: the checkpoint cannot be read or has no decoder, or does not know the language.
    """
    import transformers

    config, extractor = open_checkpoint(name, revision)
    if config.architectures == ["WhisperEncoder"]:
        raise UserError(
            f"hf:{name} is an encoder alone, which writes no text",
            remedy="name a checkpoint with decoder and tokenizer",
        )
    refuse_quantized(name, revision, config)
    transformers.utils.logging.disable_progress_bar()
    model = load_network(
        transformers.WhisperForConditionalGeneration, name, revision, unneeded="proj_out"
    )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"hf:{name} has no tokenizer: {error}", remedy="add its tokenizer.json"
        ) from error
    prompt = ["<|startoftranscript|>"]
    if config.vocab_size >= _MULTILINGUAL:
        prompt += [f"<|{language or 'en'}|>", "<|transcribe|>"]
    elif language not in (None, "en"):
        raise UserError(f"hf:{name} knows English alone, not {language}")
    ids: Any = tokenizer.convert_tokens_to_ids([*prompt, "<|notimestamps|>"])
    if None in ids or tokenizer.unk_token_id in ids[1:]:
        raise UserError(
            f"hf:{name} lacks one of the tokens {', '.join(prompt)}",
            remedy="name a language that it knows, as language=en",
        )
    generation = model.generation_config
    return WhisperTranscriber(
        model.eval().requires_grad_(False).to(device),
        tokenizer,
        torch.from_numpy(extractor.mel_filters),
        prompt=ids,
        no_speech=ids[-1] - 1,  # the two are neighbours in all vocabularies
        suppress=generation.suppress_tokens,
        suppress_first=generation.begin_suppress_tokens,
        beam_size=beam_size,
        silence=silence,
    )
