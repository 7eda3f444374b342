"""Requests in the OpenAI form handed on to a server as they are, whole or token by token."""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.openai_endpoint import endpoint_of
from pyramid_moa.backends.openai_errors import ServerError, StatusError, explained
from pyramid_moa.backends.openai_model import json_body, with_token_limit
from pyramid_moa.backends.openai_reply import read_json
from pyramid_moa.errors import BackendError

__all__ = ["OpenAIRelay", "RelayError"]

_CHECK_S = 5.0
# A stream says its own length only in its end: with what surrounds each token, no answer is longer.
_MOST_BYTES = 128 << 20
# Objects and lists in one another: what is nested deeper can be read, and not be written again.
_DEEPEST = 100
_Object = dict[str, object]


class RelayError(BackendError):
    """A server did not answer a request that was handed on.

    Attributes:
        status: the HTTP status of its answer; None where none came.
        retry_after_s: seconds after which it wants to be asked again, where it says so.
    """

    def __init__(
        self,
        message: str,
        *,
        can_retry: bool,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Keep what the server said."""
        super().__init__(message, can_retry=can_retry)
        self.status = status
        self.retry_after_s = retry_after_s


class OpenAIRelay:
    """One model of an OpenAI-compatible server, for requests that others have written.

    It belongs to the event loop that uses it. Cancelling a call closes its connection at once.
    """

    def __init__(self, spec: ModelSpec) -> None:
        """Prepare the client; nothing is sent yet.

        Args:
            spec: the model's entry; errors call it by its name in the pyramid.

        Raises:
            ConfigError: the key's environment variable is not set, or base_url is no address.
        """
        from pyramid_moa.backends.openai_client import OpenAIClient

        self._spec = spec
        self._endpoint = endpoint_of(spec, for_clients=True)
        self._client = OpenAIClient(
            self._endpoint,
            max_concurrency=spec.max_concurrency,
            timeout_s=spec.timeout_s,
            max_retries=spec.max_retries,
            longest_pause_s=spec.longest_pause_s,
        )
        # Of its own: whoever asks whether a server is there waits for the answer.
        self._checking = OpenAIClient(
            self._endpoint,
            max_concurrency=1,
            timeout_s=_CHECK_S,
            max_retries=0,
            longest_pause_s=spec.longest_pause_s,
        )

    async def complete(self, path: str, request: Mapping[str, object]) -> _Object:
        """Hand a request on and wait for the whole answer.

        Args:
            path: ``/chat/completions`` or ``/completions``.
            request: its body; the model's name and the entry's own fields are put in.

        Returns:
            The answer as the server gave it.

        Raises:
            RelayError: there is no answer.
        """
        body = self._body(request)
        try:
            reply = _read(await self._client.post(path, lambda: json_body(body)))
        except (ServerError, BackendError, ValueError, RecursionError) as error:
            raise self._explained(error, request) from error
        if not isinstance(reply, dict) or not isinstance(reply.get("choices"), list):
            raise self._explained(
                BackendError("expected an answer with choices, found none", can_retry=True), request
            )
        return cast("_Object", reply)

    async def stream(
        self, path: str, request: Mapping[str, object]
    ) -> AsyncGenerator[_Object, None]:
        """Hand a request on and give its answer as it comes.

        Args:
            path: ``/chat/completions`` or ``/completions``.
            request: its body; that it is streamed, with usage in the end, is put in.

        Yields:
            Each chunk as the server gave it.

        Raises:
            RelayError: there is no answer, or it broke off.
        """
        body = {
            **self._body(request),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        size = 0
        begun: set[int] = set()
        finished: set[int] = set()
        try:
            async with aclosing(self._client.stream(path, lambda: json_body(body))) as events:
                async for data in events:
                    chunk = _chunk(data)
                    # A chunk is at most a few tokens with what surrounds them.
                    size += len(data)
                    if size > _MOST_BYTES:
                        raise BackendError("the answer is larger than anything asked for")
                    for index, is_last in _choices(chunk):
                        begun.add(index)
                        if is_last:
                            finished.add(index)
                    yield chunk
            if not finished or begun > finished:
                raise BackendError("the answer broke off before its end", can_retry=True)
        except (ServerError, BackendError, ValueError, RecursionError) as error:
            raise self._explained(error, request) from error

    async def check(self) -> None:
        """Ask the server for its list of models, which some do not keep.

        Raises:
            RelayError: it is not there, or refuses the key.
        """
        try:
            await self._checking.get("/models")
        except ServerError as error:
            if not (isinstance(error, StatusError) and error.status in (404, 405)):
                raise self._explained(error, {}) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
        await self._checking.close()

    def _body(self, request: Mapping[str, object]) -> _Object:
        body = {**self._spec.extra_body, **request, "model": self._spec.model}
        return with_token_limit(body, self._spec, request)

    def _explained(self, error: Exception, request: Mapping[str, object]) -> RelayError:
        said = explained(error, self._endpoint, model=self._spec.model, prompt=_texts(request))
        if not isinstance(error, StatusError):
            return RelayError(str(said), can_retry=said.can_retry)
        return RelayError(
            str(said),
            can_retry=said.can_retry,
            status=error.status,
            retry_after_s=error.retry_after_s,
        )


def _read(data: bytes) -> object:
    """Read what is handed on.

    Raises:
        BackendError: it is no JSON, or none that could be.
    """
    value = read_json(data)
    # So few brackets can't be too deep, and a stream's chunks have no more.
    if data.count(b"{") + data.count(b"[") > _DEEPEST and _is_too_deep(value):
        raise BackendError(f"expected at most {_DEEPEST} levels, found more", can_retry=True)
    return value


def _is_too_deep(value: object) -> bool:
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        own = [outer.values() if isinstance(outer, dict) else outer for outer in level]
        level = [inner for values in own for inner in values if isinstance(inner, dict | list)]
    return bool(level)


def _chunk(data: bytes) -> _Object:
    """Read what an event of a stream holds.

    Raises:
        BackendError: it is an error, or no chunk of an answer.
    """
    chunk = _read(data)
    if not isinstance(chunk, dict):
        raise BackendError("expected chunks that are JSON objects", can_retry=True)
    if error := chunk.get("error"):
        said = error.get("message") if isinstance(error, dict) else error
        # What breaks an answer off, such as an engine that runs out of memory, passes.
        raise BackendError(f"the server reports an error: {said}", can_retry=True)
    return cast("_Object", chunk)


def _choices(chunk: Mapping[str, object]) -> Iterator[tuple[int, bool]]:
    """The choices that a chunk goes on with, and whether it ends them."""
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            index = choice.get("index")
            yield index if isinstance(index, int) else 0, bool(choice.get("finish_reason"))


def _texts(request: Mapping[str, object]) -> Sequence[str]:
    """Every text of a prompt, which no message may quote."""
    found: list[str] = []
    pending: list[object] = [request.get("prompt"), request.get("messages")]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.values())
    return found
