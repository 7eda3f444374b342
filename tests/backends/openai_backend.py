"""The OpenAI backend on a server that answers as a test tells it to: opened, asked, closed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from faulty_server import FaultyServer, Request, chat_reply, faulty_server, text_reply

from pyramid_moa.backends.model_spec import ModelSpec
from pyramid_moa.backends.openai_api import OpenAIBackend
from pyramid_moa.backends.protocol import Completion, Failure, Message, Prompt, Sampling

KEY = "sk-not-a-real-key-0123456789"
QUESTION = "How many legs do seven spiders and a centipede have together?"
GREEDY = Sampling(max_tokens=20)


def chat(question: str = QUESTION) -> Prompt:
    """A conversation of one question."""
    return Prompt(messages=(Message(role="user", content=question),))


def echo(request: Request) -> dict[str, Any]:
    """Answer with the prompt, and with the model where they are asked for."""
    if request.body is None:
        return {"data": [{"id": "model-x"}]}
    return (chat_reply if "messages" in request.body else text_reply)(request.prompt)


def spec_for(server: FaultyServer, **fields: Any) -> ModelSpec:
    """An entry for that server, which is asked once and not for long unless said otherwise."""
    given = {"base_url": server.base_url, "max_retries": 0, "timeout_s": 5.0, **fields}
    return ModelSpec(name="member", model="model-x", backend="openai", **given)


@contextmanager
def backend_of(server: FaultyServer, **fields: Any) -> Iterator[OpenAIBackend]:
    """A backend on that server, closed at the end."""
    backend = OpenAIBackend(spec_for(server, **fields))
    try:
        yield backend
    finally:
        backend.close()


def ask(
    answer: Callable[[Request], Any], prompt: Prompt | None = None, **fields: Any
) -> Completion | Failure:
    """What becomes of one prompt where a server answers so."""
    with faulty_server(answer) as server, backend_of(server, **fields) as backend:
        return backend.generate([prompt or chat()], GREEDY)[0]


def failure(answer: Callable[[Request], Any], **fields: Any) -> Failure:
    """What is said of one prompt where a server answers so, and fails."""
    outcome = ask(answer, **fields)
    assert isinstance(outcome, Failure), outcome
    return outcome


def texts(outcomes: Sequence[Completion | Failure]) -> list[str]:
    """The answers, or what is said of failures."""
    return [o.text if isinstance(o, Completion) else f"failed: {o.message}" for o in outcomes]
