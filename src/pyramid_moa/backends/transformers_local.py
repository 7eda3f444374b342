"""Hugging Face transformers in this process: batched, left-padded, with a key-value cache."""

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, StoppingCriteriaList
from transformers.utils import logging as transformers_logging

from pyramid_moa.backends.answer_text import answer_text
from pyramid_moa.backends.generation_recorder import GenerationRecorder
from pyramid_moa.backends.hidden_layers import layer_numbers
from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.prompt_tokens import PromptTokens, first_line
from pyramid_moa.backends.protocol import (
    Completion,
    Failure,
    HiddenStates,
    Prompt,
    Sampling,
    Token,
)
from pyramid_moa.backends.stop_texts import StopTexts
from pyramid_moa.errors import BackendError

__all__ = ["TransformersBackend"]

# Batches whose prompts are drawn at once: rows of like length are then found among them.
_DRAWN_BATCHES = 4


class TransformersBackend:
    """One causal language model in this process."""

    gives_logprobs = True

    def __init__(self, spec: ModelSpec, *, hidden_states: HiddenStates | None = None) -> None:
        """Load model and tokenizer, from safetensors only.

        Args:
            spec: the model's entry; ``model`` is a Hugging Face id or a folder.
            hidden_states: what to keep of the hidden states; None keeps nothing.

        Raises:
            BackendError: there is no such model, or a layer is asked for that it lacks.
        """
        self.name = spec.name
        self._spec = spec
        self._hidden = hidden_states
        self.hidden_keys = hidden_states.keys if hidden_states else ()
        # One forward pass at a time: hooks belong to the pass under way.
        self._lock = threading.Lock()
        if Path(spec.model).is_absolute() and not Path(spec.model).is_dir():
            raise BackendError(
                f"model {spec.name!r}: no such folder: {spec.model}; expected a folder with "
                "config.json, tokenizer.json and model.safetensors, or a Hugging Face id"
            )
        try:
            self._device = _device(spec.device)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                spec.model, revision=spec.revision, trust_remote_code=False
            )
            # The progress bar of loading weights is noise beside our own.
            transformers_logging.disable_progress_bar()
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                spec.model,
                revision=spec.revision,
                dtype=_dtype(spec.dtype, self._device),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            self._model, report = loaded
            if missing := sorted(report["missing_keys"]):
                # The library would go on with random numbers in their place.
                raise ValueError(f"weights are missing: {', '.join(missing[:5])}")
            self._model.eval().to(self._device)
        except Exception as error:  # the library lets through errors of many packages
            raise BackendError(
                f"model {spec.name!r}: transformers can't load {spec.model!r} "
                f"({type(error).__name__}: {first_line(error)}); expected a Hugging Face id that "
                "can be reached, or a folder with config.json, tokenizer.json and "
                "model.safetensors"
            ) from error
        self._tokenizer.padding_side = "left"
        self._eos = _eos_ids(self._model, self._tokenizer)
        # What the pyramid's sampling says holds for every model alike. A model's own defaults (a
        # repetition penalty, top-k) would come in silently, and before the log-probabilities.
        self._model.generation_config = GenerationConfig()
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token_id = self._eos[0]
        context = getattr(self._text_config, "max_position_embeddings", None)
        self._prompts = PromptTokens(
            self._tokenizer, model=spec.name, context=int(context or 1 << 20)
        )
        if hidden_states is not None:
            count = int(self._text_config.num_hidden_layers)
            layer_numbers(hidden_states, count=count, model=spec.name)

    @property
    def _text_config(self) -> Any:  # noqa: ANN401 - untyped library
        """Where a model takes pictures too, the part of its configuration that is about text."""
        return self._model.config.get_text_config()

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion | Failure]:
        """Answer prompts; see ``Backend.generate``."""
        with self._lock, torch.inference_mode():
            ids = [self._prompts.ids(prompt, sampling) for prompt in prompts]
            outcomes: list[Completion | Failure | None] = [
                row if isinstance(row, Failure) else None for row in ids
            ]
            # Rows of like length share a batch; the order of ties is the order of the prompts, so
            # that the same prompts always fall into the same batches.
            todo = sorted(
                (index for index, outcome in enumerate(outcomes) if outcome is None),
                key=lambda index: len(cast("list[int]", ids[index])),
            )
            for first in range(0, len(todo), self._spec.batch_size):
                batch = todo[first : first + self._spec.batch_size]
                rows = [cast("list[int]", ids[index]) for index in batch]
                for index, outcome in zip(batch, self._run(rows, sampling), strict=True):
                    outcomes[index] = outcome
            return cast("list[Completion | Failure]", outcomes)

    async def agenerate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> list[Completion | Failure]:
        """Do the same in a thread."""
        return await asyncio.to_thread(self.generate, prompts, sampling)

    def stream(
        self, prompts: Iterable[Prompt], sampling: Sampling
    ) -> Iterator[tuple[int, Completion | Failure]]:
        """Answer prompts, some batches at a time; see ``Backend.stream``."""
        todo, first = iter(prompts), 0
        while drawn := list(islice(todo, _DRAWN_BATCHES * self._spec.batch_size)):
            yield from enumerate(self.generate(drawn, sampling), start=first)
            first += len(drawn)

    def close(self) -> None:
        """Forget the model, so that its memory can be used again."""
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(self, rows: list[list[int]], sampling: Sampling) -> list[Completion]:
        started = time.perf_counter()
        padded = self._tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(self._device)
        prompt_length = padded["input_ids"].shape[1]
        stop_texts = self._stop_texts(sampling, prompt_length)
        recorder = GenerationRecorder(
            prompt_length=prompt_length,
            end_ids=self._eos,
            stop_texts=stop_texts,
            hidden_states=self._hidden,
        )
        try:
            with recorder.watching(self._model), _seeded(sampling, self._device):
                output = self._model.generate(
                    **padded,
                    generation_config=self._generation_config(sampling),
                    logits_processor=[recorder],
                    stopping_criteria=StoppingCriteriaList([stop_texts] if stop_texts else []),
                )
        except torch.OutOfMemoryError as error:
            raise BackendError(
                f"model {self.name!r}: out of memory with {len(rows)} rows of {prompt_length} "
                f"prompt tokens; choose a batch_size below {self._spec.batch_size}"
            ) from error
        new_ids = output[:, prompt_length:]
        recorder.finish(output)
        seconds = (time.perf_counter() - started) / len(rows)
        return [
            self._completion(row, new_ids[index], recorder, index, sampling, seconds)
            for index, row in enumerate(rows)
        ]

    def _stop_texts(self, sampling: Sampling, prompt_length: int) -> StopTexts | None:
        if not sampling.stop:
            return None
        return StopTexts(
            sampling.stop,
            decode=lambda ids: cast(
                "list[str]",
                self._tokenizer.batch_decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                ),
            ),
            prompt_length=prompt_length,
        )

    def _completion(
        self,
        prompt_ids: list[int],
        new_ids: torch.Tensor,
        recorder: GenerationRecorder,
        index: int,
        sampling: Sampling,
        seconds: float,
    ) -> Completion:
        logprobs = recorder.logprobs(index)
        answer = answer_text(self._tokenizer, new_ids[: len(logprobs)].tolist(), sampling.stop)
        return Completion(
            text=answer.text,
            finish_reason="stop" if answer.stopped or recorder.ended(index) else "length",
            prompt_tokens=len(prompt_ids),
            completion_tokens=len(logprobs),
            latency_s=seconds,
            tokens=tuple(
                Token(start=start, end=end, logprob=logprob)
                for (start, end), logprob in zip(answer.spans, logprobs, strict=True)
            ),
            hidden_states=recorder.hidden_states(index),
        )

    def _generation_config(self, sampling: Sampling) -> GenerationConfig:
        sample = sampling.temperature > 0
        return GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            do_sample=sample,
            temperature=sampling.temperature if sample else None,
            top_p=sampling.top_p if sample else None,
            top_k=0 if sample else None,
            eos_token_id=list(self._eos),
            pad_token_id=self._tokenizer.pad_token_id,
            bos_token_id=self._tokenizer.bos_token_id,
            use_cache=True,
        )


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(name: str, device: torch.device) -> "torch.dtype | str":
    if name == "auto":
        # bfloat16 pays where memory bandwidth is what is short: on a GPU, as the weights are
        # stored; a CPU without the right instructions emulates it slowly.
        return "auto" if device.type == "cuda" else torch.float32
    return cast("torch.dtype", getattr(torch, name))


def _eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:  # noqa: ANN401 - untyped library
    from_config = model.generation_config.eos_token_id
    if isinstance(from_config, int):
        from_config = [from_config]
    ids = list(from_config or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ids:
        ids.append(tokenizer.eos_token_id)
    if not ids:
        raise BackendError(f"{tokenizer.name_or_path!r} has no end-of-text token")
    return tuple(ids)


@contextmanager
def _seeded(sampling: Sampling, device: torch.device) -> Iterator[None]:
    """Seed the sampling without touching anybody else's random numbers."""
    if sampling.temperature == 0:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(sampling.seed)
        yield
