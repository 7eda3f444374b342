"""vLLM in this process: requests join and leave the batch as there is room."""

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pyramid_moa.backends.answer_text import answer_text
from pyramid_moa.backends.hidden_states_file import (
    WAIT_S,
    new_name,
    opt_in,
    read_states,
    states_path,
)
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
from pyramid_moa.backends.vllm_engine import start_engine
from pyramid_moa.errors import BackendError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["VllmBackend"]

# Requests that wait for a place in the batch, beside those that have one, so that no place is
# empty while finished ones are looked at.
_WAITING = 32
_LOOK_AGAIN_S = 0.001


@dataclass(kw_only=True)
class _Request:
    """A prompt under way.

    Attributes:
        ids: tokens of the prompt.
        sampling: how to answer it.
        started: when it was handed to the engine (time.perf_counter).
        name: under which its hidden states will appear, or None.
        output: what the engine answered, when it has.
        finished: when that was.
    """

    ids: list[int]
    sampling: Sampling
    started: float
    name: str | None
    output: Any = None
    finished: float = 0.0


class VllmBackend:
    """One model on a vLLM engine of this process.

    Any number of threads may ask at once: their requests share the batch. One of them at a time
    turns the crank, and hands the others what is theirs.
    """

    gives_logprobs = True

    def __init__(self, spec: ModelSpec, *, hidden_states: HiddenStates | None = None) -> None:
        """Start the engine.

        Args:
            spec: the model's entry; ``model`` is a Hugging Face id or a folder.
            hidden_states: what to keep of the hidden states; None keeps nothing.

        Raises:
            MissingExtraError: vLLM is not installed.
            ConfigError: extra_args holds what vLLM does not know.
            BackendError: vLLM can't load the model, or it lacks a layer that is asked for.
        """
        self.name = spec.name
        self.hidden_keys = hidden_states.keys if hidden_states else ()
        self._engine = start_engine(spec, hidden_states)
        try:
            config = self._engine.llm.vllm_config
            self._tokenizer = _tokenizer(spec)
            self._prompts = PromptTokens(
                self._tokenizer, model=spec.name, context=int(config.model_config.max_model_len)
            )
            self._most_under_way = int(config.scheduler_config.max_num_seqs) + _WAITING
        except BaseException:
            self._engine.close()
            raise
        self._numbers = itertools.count()
        # What the thread at the crank is to do with the engine before its next step.
        self._to_add: deque[tuple[str, _Request]] = deque()
        self._to_abort: deque[str] = deque()
        # Touched at the crank only.
        self._under_way: dict[str, _Request] = {}
        self._unwritten: dict[str, _Request] = {}
        # Guarded by the condition.
        self._turn = threading.Condition()
        self._at_the_crank = False
        self._ready: dict[str, Completion | Failure] = {}
        self._gone: BackendError | None = None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion | Failure]:
        """Answer prompts; see ``Backend.generate``. Latencies include the wait for a place.

        Raises:
            BackendError: the engine has failed, or the backend has been closed.
        """
        outcomes = dict(self.stream(prompts, sampling))
        return [outcomes[number] for number in range(len(prompts))]

    async def agenerate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> list[Completion | Failure]:
        """Do the same in a thread."""
        return await asyncio.to_thread(self.generate, prompts, sampling)

    def stream(
        self, prompts: Iterable[Prompt], sampling: Sampling
    ) -> Iterator[tuple[int, Completion | Failure]]:
        """Answer prompts, a full batch at once; see ``Backend.stream``.

        Raises:
            BackendError: the engine has failed, or the backend has been closed.
        """
        todo = iter(enumerate(prompts))
        mine: dict[str, int] = {}
        try:
            while True:
                for number, prompt in itertools.islice(todo, self._most_under_way - len(mine)):
                    ids = self._prompts.ids(prompt, sampling)
                    if isinstance(ids, Failure):
                        yield number, ids
                    else:
                        mine[self._ask(ids, sampling)] = number
                if not mine:
                    return
                for request_id, outcome in self._wait_for(mine.keys()):
                    yield mine.pop(request_id), outcome
        finally:
            self._give_up(mine)

    def close(self) -> None:
        """Give back the engine's memory; a second time does nothing."""
        with self._turn:
            self._gone = self._gone or BackendError(
                f"model {self.name!r}: the backend has been closed"
            )
            self._turn.wait_for(lambda: not self._at_the_crank)
            self._at_the_crank = True
        try:
            self._engine.close()
        finally:
            self._leave_the_crank()

    def _ask(self, ids: list[int], sampling: Sampling) -> str:
        request_id = str(next(self._numbers))
        name = new_name() if self.hidden_keys else None
        request = _Request(ids=ids, sampling=sampling, started=time.perf_counter(), name=name)
        self._to_add.append((request_id, request))
        return request_id

    def _give_up(self, request_ids: Iterable[str]) -> None:
        with self._turn:
            for request_id in request_ids:
                self._ready.pop(request_id, None)
                self._to_abort.append(request_id)

    def _wait_for(self, mine: Collection[str]) -> list[tuple[str, Completion | Failure]]:
        """Wait until some of these requests are answered, at the crank where nobody else is."""
        while True:
            with self._turn:
                self._turn.wait_for(
                    lambda: not self._at_the_crank or self._gone or self._ready.keys() & mine
                )
                found = [(key, self._ready.pop(key)) for key in mine if key in self._ready]
                if found:
                    return found
                if self._gone is not None:
                    raise self._gone
                self._at_the_crank = True
            try:
                done = self._step()
                with self._turn:
                    # Given up while the step was made: nobody will come for them.
                    given_up = set(self._to_abort)
                    self._ready.update({key: done[key] for key in done if key not in given_up})
            except Exception as error:  # the engine lets through errors of many packages
                self._gone = BackendError(
                    f"model {self.name!r}: the vLLM engine has failed ({type(error).__name__}: "
                    f"{first_line(error)})"
                )
                raise self._gone from error
            finally:
                self._leave_the_crank()

    def _leave_the_crank(self) -> None:
        with self._turn:
            self._at_the_crank = False
            self._turn.notify_all()

    def _step(self) -> dict[str, Completion | Failure]:
        """Do one step of the engine: what is finished by it."""
        engine = self._engine.llm
        done = self._add_and_abort()
        if engine.has_unfinished_requests():
            self._note(engine.step(), done)
        elif self._unwritten:
            if self._engine.in_process:
                # The engine hands hidden states out a step after the answer.
                self._note(engine.step(), done)
            time.sleep(_LOOK_AGAIN_S)
        for request_id, request in list(self._unwritten.items()):
            outcome = self._with_hidden_states(request)
            if outcome is not None:
                del self._unwritten[request_id]
                done[request_id] = outcome
        return done

    def _note(self, outputs: Iterable[Any], done: dict[str, Completion | Failure]) -> None:
        for output in outputs:
            request = self._under_way.pop(output.request_id, None)
            if request is None:
                continue  # given up meanwhile
            request.output = output.outputs[0]
            request.finished = time.perf_counter()
            if request.name is None or request.output.finish_reason not in ("stop", "length"):
                done[output.request_id] = self._outcome(request, {})
            else:
                self._unwritten[output.request_id] = request

    def _add_and_abort(self) -> dict[str, Completion | Failure]:
        # Taken first: all of these were asked before, and so are added below at the latest.
        given_up = [self._to_abort.popleft() for _ in range(len(self._to_abort))]
        refused: dict[str, Completion | Failure] = {}
        while self._to_add:
            request_id, request = self._to_add.popleft()
            try:
                self._add(request_id, request)
                self._under_way[request_id] = request
            except ValueError as error:
                refused[request_id] = Failure(
                    message=f"vLLM refuses the prompt: {first_line(error)}", can_retry=False
                )
        known = [key for key in given_up if self._under_way.pop(key, None) is not None]
        if known:
            self._engine.llm.abort_request(known)
        for request_id in given_up:
            self._unwritten.pop(request_id, None)
            refused.pop(request_id, None)
        return refused

    def _add(self, request_id: str, request: _Request) -> None:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        parameters = SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed if sampling.temperature > 0 else None,
            stop=list(sampling.stop) or None,
            logprobs=0,
            # Stop texts are looked for in text; otherwise it is made once, when all is there.
            detokenize=bool(sampling.stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={"kv_transfer_params": opt_in(request.name)} if request.name else None,
        )
        self._engine.llm.add_request(request_id, tokens_input(request.ids), parameters)

    def _with_hidden_states(self, request: _Request) -> Completion | Failure | None:
        """An answer with its hidden states; None where they have not been written yet."""
        folder = self._engine.storage
        assert folder is not None
        assert request.name is not None
        try:
            vectors = read_states(states_path(folder, request.name), self.hidden_keys)
        except BackendError as error:
            return Failure(
                message=str(error), can_retry=False, latency_s=request.finished - request.started
            )
        if vectors is not None:
            return self._outcome(request, vectors)
        if time.perf_counter() < request.finished + WAIT_S:
            return None
        return Failure(
            message="vLLM left no hidden states; see its log",
            can_retry=True,
            latency_s=request.finished - request.started,
        )

    def _outcome(
        self, request: _Request, vectors: "dict[str, NDArray[np.float16]]"
    ) -> Completion | Failure:
        output = request.output
        latency_s = request.finished - request.started
        if output.finish_reason not in ("stop", "length"):
            return Failure(
                message=f"vLLM gave no whole answer: it ended with {output.finish_reason!r}",
                can_retry=True,
                latency_s=latency_s,
            )
        ids = list(output.token_ids)
        answer = answer_text(self._tokenizer, ids, request.sampling.stop)
        values = [entry[token].logprob for entry, token in zip(output.logprobs, ids, strict=True)]
        return Completion(
            text=answer.text,
            finish_reason="stop" if answer.stopped else output.finish_reason,
            prompt_tokens=len(request.ids),
            completion_tokens=len(ids),
            latency_s=latency_s,
            tokens=tuple(
                Token(start=start, end=end, logprob=value)
                for (start, end), value in zip(answer.spans, values, strict=True)
            ),
            hidden_states=vectors,
        )


def _tokenizer(spec: ModelSpec) -> Any:  # noqa: ANN401 - untyped library
    """The tokenizer as transformers loads it, so that prompts are the same for both."""
    from transformers import AutoTokenizer

    return cast(
        "Any",
        AutoTokenizer.from_pretrained(spec.model, revision=spec.revision, trust_remote_code=False),
    )
