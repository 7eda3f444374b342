"""Requests in the OpenAI form handed on to a server as they are, whole or token by token."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.openai_endpoint import endpoint_of
from pyramid_moa.backends.openai_reply import MAX_TEXT_CHARACTERS, read_json
from pyramid_moa.errors import BackendError

__all__ = ["OpenAIRelay", "RelayError"]

_CHECK_S = 5.0
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
            spec: the model's entry.

        Raises:
            ConfigError: the key's environment variable is not set, or base_url is no address.
        """
        from pyramid_moa.backends.openai_client import open_client, response_type

        self._spec = spec
        self._endpoint = endpoint_of(spec)
        self._response_type = response_type()
        options: dict[str, Any] = {
            "max_concurrency": spec.max_concurrency,
            "timeout_s": spec.timeout_s,
            "max_retries": spec.max_retries,
        }
        self._client = open_client(self._endpoint, **options)
        self._live_client = open_client(self._endpoint, **options, live=True)

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
        import openai

        try:
            answer: Any = await self._client.post(
                path, body=self._body(request), cast_to=self._response_type
            )
            reply = read_json(answer.content)
        except (openai.OpenAIError, BackendError, ValueError, RecursionError) as error:
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
        import openai

        from pyramid_moa.backends.openai_client import transport_error

        live = {"stream": True, "stream_options": {"include_usage": True}}
        size, finished = 0, False
        try:
            chunks: Any = await self._live_client.post(
                path,
                body={**self._body(request), **live},
                cast_to=object,
                stream=True,
                stream_cls=openai.AsyncStream[object],
            )
            async with chunks:
                async for chunk in chunks:
                    if not isinstance(chunk, dict):
                        raise BackendError("expected chunks that are JSON objects", can_retry=True)
                    # A chunk is at most a few tokens with what surrounds them.
                    size += len(str(chunk.get("choices")))
                    if size > MAX_TEXT_CHARACTERS:
                        raise BackendError("the answer is larger than anything asked for")
                    finished = finished or _finishes(chunk)
                    yield cast("_Object", chunk)
            if not finished:
                raise BackendError("the answer broke off before its end", can_retry=True)
        except (
            openai.OpenAIError,
            BackendError,
            ValueError,
            RecursionError,
            transport_error(),
        ) as error:
            # While a body is read, errors of the HTTP library come through as they are.
            raise self._explained(error, request) from error

    async def check(self) -> None:
        """Ask the server for its list of models, which some do not keep.

        Raises:
            RelayError: it is not there, or refuses the key.
        """
        import openai

        client = self._client.with_options(timeout=_CHECK_S, max_retries=0)
        try:
            await client.get("/models", cast_to=self._response_type)
        except openai.OpenAIError as error:
            if not (isinstance(error, openai.APIStatusError) and error.status_code in (404, 405)):
                raise self._explained(error, {}) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
        await self._live_client.close()

    def _body(self, request: Mapping[str, object]) -> _Object:
        body = {**self._spec.extra_body, **request, "model": self._spec.model}
        # Servers know one name or the other for the limit; clients send either.
        names = ("max_completion_tokens", "max_tokens")
        limits = [body.pop(name) for name in names if name in body]
        if limits:
            body[self._spec.token_limit_field if "messages" in body else "max_tokens"] = limits[0]
        return body

    def _explained(self, error: Exception, request: Mapping[str, object]) -> RelayError:
        import openai

        from pyramid_moa.backends.openai_client import transport_error
        from pyramid_moa.backends.openai_errors import explained

        said = explained(error, self._endpoint, model=self._spec.model, prompt=_texts(request))
        if isinstance(error, openai.APIStatusError):
            wait = error.response.headers.get("retry-after", "")
            return RelayError(
                str(said),
                can_retry=said.can_retry,
                status=error.status_code,
                retry_after_s=float(wait) if wait.isascii() and wait.isdigit() else None,
            )
        # A connection that breaks off, and an error amid a stream, may be better luck next time.
        broke_off = isinstance(error, transport_error()) or type(error) is openai.APIError
        return RelayError(str(said), can_retry=said.can_retry or broke_off)


def _finishes(chunk: Mapping[str, object]) -> bool:
    choices = chunk.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") for choice in choices
    )


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
