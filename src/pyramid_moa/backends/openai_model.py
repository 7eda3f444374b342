"""One model of an OpenAI-compatible server, in the event loop that asks it."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pyramid_moa.backends.hidden_states_file import new_name
from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.openai_endpoint import endpoint_of
from pyramid_moa.backends.openai_errors import (
    ServerError,
    StatusError,
    TooSlowError,
    UnreachableError,
    explained,
)
from pyramid_moa.backends.openai_hidden_states import served_hidden_states
from pyramid_moa.backends.openai_reply import model_ids, read_completion, token_count, token_counts
from pyramid_moa.backends.protocol import Completion, Failure, HiddenStates, Prompt, Sampling
from pyramid_moa.errors import BackendError, ConfigError

__all__ = ["OpenAIModel", "json_body", "request_body", "with_token_limit"]

# Fields that decide what comes back: with others' values the answer could not be read.
_OWN_FIELDS = frozenset(
    {"echo", "kv_transfer_params", "logprobs", "messages", "model", "n", "prompt", "stream"}
)
# Servers know one name or the other for the most tokens of an answer.
_LIMITS = ("max_completion_tokens", "max_tokens")
_CHECK_S = 10.0
_CHECK_RETRIES = 1
_SHOWN_MODELS = 10


class OpenAIModel:
    """Asks one model; belongs to the event loop that first uses it.

    Attributes:
        hidden_keys: the hidden states that answers carry.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        hidden_states: HiddenStates | None = None,
        for_clients: bool = False,
    ) -> None:
        """Prepare the client; nothing is sent yet.

        Args:
            spec: the model's entry.
            hidden_states: what to keep of the hidden states, where the server shares a folder
                with this machine; None keeps nothing.
            for_clients: whether failures are told to clients, who must not know the address.

        Raises:
            BackendError: somebody else can write to the folder that the server shares.
            ConfigError: the key's environment variable is not set, base_url is no address, or
                extra_body holds fields that are the backend's, that are no JSON, or a limit of
                tokens that is none.
        """
        from pyramid_moa.backends.openai_client import OpenAIClient

        _check_extra_body(spec)
        self._spec = spec
        self._hidden = served_hidden_states(spec, hidden_states)
        self.hidden_keys = self._hidden.keys if self._hidden else ()
        self._endpoint = endpoint_of(spec, for_clients=for_clients)
        self._client = OpenAIClient(
            self._endpoint,
            max_concurrency=spec.max_concurrency,
            timeout_s=spec.timeout_s,
            max_retries=spec.max_retries,
            longest_pause_s=spec.longest_pause_s,
        )

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Completion | Failure:
        """Answer one prompt; how many there are at once is for the caller to bound."""
        started = time.perf_counter()
        body = b""
        try:
            body, name = await self._post(prompt, sampling)
            completion = read_completion(
                body,
                chat=prompt.messages is not None,
                logprobs=self._spec.logprobs,
                max_tokens=sampling.max_tokens,
                latency_s=time.perf_counter() - started,
            )
            if self._hidden is None:
                return completion
            vectors = await self._hidden.fetch(name, body, sampling)
            return replace(completion, hidden_states=vectors)
        except (ServerError, BackendError, ValueError, RecursionError) as error:
            texts = [prompt.text or "", *(message.content for message in prompt.messages or ())]
            explained = self._explained(error, texts)
            # An answer that can't be used has to be paid for like any other.
            prompt_tokens, completion_tokens = token_counts(body)
            return Failure(
                message=str(explained),
                can_retry=explained.can_retry,
                latency_s=time.perf_counter() - started,
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                retry_after_s=error.retry_after_s if isinstance(error, StatusError) else None,
            )

    async def check(self) -> None:
        """Ask the server whether it is there, takes the key and knows the model.

        Servers that keep no list of models pass. Where hidden states are wanted, one token is
        asked for, to see that they come.

        Raises:
            BackendError: it is not, or does not; ``can_retry`` where it may be later.
        """
        from pyramid_moa.backends.openai_client import OpenAIClient

        # Of its own, with fewer retries: who opens a backend waits for this answer.
        client = OpenAIClient(
            self._endpoint,
            max_concurrency=1,
            timeout_s=min(self._spec.timeout_s, _CHECK_S),
            max_retries=min(self._spec.max_retries, _CHECK_RETRIES),
            longest_pause_s=self._spec.longest_pause_s,
        )
        try:
            self._check_model(model_ids(await client.get("/models")))
        except (ServerError, BackendError, ValueError) as error:
            if not (isinstance(error, StatusError) and error.status in (404, 405)):
                raise self._unusable(error) from error
        finally:
            await client.close()
        if self._hidden is not None:
            await self._check_hidden_states()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _post(self, prompt: Prompt, sampling: Sampling) -> tuple[bytes, str]:
        """Ask, and again where that may help: the answer, and the name of its hidden states."""
        path = "/completions" if prompt.messages is None else "/chat/completions"
        request = request_body(self._spec, prompt, sampling)
        name = ""

        def body() -> bytes:
            nonlocal name
            if self._hidden is None:
                return json_body(request)
            # Under the same name, a further try could be given what the one before left behind.
            name = new_name()
            return json_body({**request, **self._hidden.request_fields(name)})

        return await self._client.post(path, body), name

    async def _check_hidden_states(self) -> None:
        assert self._hidden is not None
        sampling = Sampling(max_tokens=1)
        try:
            body, name = await self._post(Prompt(text="1"), sampling)
            await self._hidden.fetch(name, body, sampling, wait_s=_CHECK_S)
        except (ServerError, BackendError, ValueError) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> BackendError:
        explained = self._explained(error)
        advice = ""
        if self._spec.port is not None and isinstance(error, UnreachableError | TooSlowError):
            advice = "; start it with pyramid-moa up --pyramid FILE"
        return BackendError(
            f"model {self._spec.name!r}: {explained}{advice}", can_retry=explained.can_retry
        )

    def _check_model(self, known: list[str] | None) -> None:
        if known is None or self._spec.model in known:
            return
        more = f" and {len(known) - _SHOWN_MODELS} more" if len(known) > _SHOWN_MODELS else ""
        raise BackendError(
            f"expected a model that the server has, found {self._spec.model!r}; it has "
            f"{', '.join(known[:_SHOWN_MODELS])}{more}"
        )

    def _explained(self, error: Exception, prompt: Sequence[str] = ()) -> BackendError:
        return explained(error, self._endpoint, model=self._spec.model, prompt=prompt)


def request_body(spec: ModelSpec, prompt: Prompt, sampling: Sampling) -> dict[str, object]:
    """What a server is asked for one answer, with the entry's ``extra_body``."""
    request: dict[str, object] = {
        "model": spec.model,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if sampling.temperature > 0:
        request["seed"] = sampling.seed
    if sampling.stop:
        request["stop"] = list(sampling.stop)
    if prompt.messages is None:
        request["prompt"] = prompt.text
        if spec.logprobs:
            request["logprobs"] = 1
    else:
        request["messages"] = [
            {"role": message.role, "content": message.content} for message in prompt.messages
        ]
        if spec.logprobs:
            request["logprobs"] = True
    limit = {"max_tokens": sampling.max_tokens}
    return with_token_limit({**request, **spec.extra_body}, spec, limit)


def with_token_limit(
    body: Mapping[str, object], spec: ModelSpec, asked: Mapping[str, object]
) -> dict[str, object]:
    """A request with one limit of the answer's tokens, under the name that its server knows.

    Args:
        body: the request, with or without limits.
        spec: the model's entry, whose ``extra_body`` may have one.
        asked: what else may have one: the smaller of the two holds.
    """
    limits = [
        limit
        for given in (asked, spec.extra_body)
        for name in _LIMITS
        if isinstance(limit := given.get(name), int)
    ]
    limited = {name: value for name, value in body.items() if name not in _LIMITS}
    if limits:
        limited[spec.token_limit_field if "messages" in body else "max_tokens"] = min(limits)
    return limited


def json_body(request: Mapping[str, object]) -> bytes:
    """A request as JSON.

    Raises:
        ValueError: it holds what JSON or Unicode lacks.
    """
    text = json.dumps(request, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _check_extra_body(spec: ModelSpec) -> None:
    taken = sorted(_OWN_FIELDS & spec.extra_body.keys())
    if taken:
        raise ConfigError(
            f"model {spec.name!r}: extra_body: expected fields beyond those that are sent anyway, "
            f"found {', '.join(taken)}; remove them"
        )
    for name in _LIMITS:
        limit = spec.extra_body.get(name)
        if limit is not None and token_count(limit) in (None, 0):
            raise ConfigError(
                f"model {spec.name!r}: extra_body: {name}: expected a number of tokens, found "
                f"{limit!r}"
            )
    try:
        json.dumps(spec.extra_body, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        # YAML knows dates, sets and infinities.
        raise ConfigError(
            f"model {spec.name!r}: extra_body: expected what JSON can hold; {error}"
        ) from error
