"""Models that fail as they are told to: real servers of OpenAI's API, in a process of their own.

    python benchmarks/gateway_cases/faulty_models.py NAME...

Prints the ports of its models, one for each, and then does what it reads: a line of JSON is a mood
for each model, and is answered with a line when all of them are in it; the line "hung up" is
answered with when clients of models that hang have hung up since, on the system's clock. The last
model is the oracle. Members agree on a question that holds the word "easy", and each has an answer
of its own to any other; all repeat the question's number, so that an answer to another question is
seen.
"""

import asyncio
import json
import random
import re
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["MOODS", "answer_text"]

MOODS = (
    "well",
    "slow",  # answers, after a while
    "hangs",  # takes the request and says nothing
    "errors",  # 500
    "refuses",  # nobody listens
    "garbage",  # 200, and nothing that could be read
    "busy",  # 429
    "dies",  # breaks off in the middle of its answer
    "stalls",  # says nothing more in the middle of its answer
    "flaps",  # well and failing by turns
    "random",  # mostly well; else any of the others but refusing
)
_SLOW_S = 0.4
_FLAP_S = 1.5
# Of requests in the mood "random", so many are answered as they should be.
_WELL_SHARE = 0.8
_GARBAGE = (b"<html>no</html>", b'{"choices": [{}]}', b'{"choices": [{"mess', b"[]", b"\xff\xfe")


def answer_text(number: int, *, easy: bool, place: int, oracle: bool) -> str:
    """What a model says to a question."""
    value = 1000 + number if easy or oracle else 2000 + number + 7 * place
    return f"Question {number} is one for sums. #### {value}"


def _body(text: str, *, chat: bool) -> bytes:
    tokens = re.findall(r"\S+\s*", text)
    content = [{"token": t, "logprob": -0.1, "bytes": list(t.encode())} for t in tokens]
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "logprobs": {"content": content},
    }
    if not chat:
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 20, "completion_tokens": len(tokens)}
    return json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode()


def _events(text: str, *, chat: bool) -> list[bytes]:
    tokens = re.findall(r"\S+\s*", text)
    chunks: list[dict[str, Any]] = [
        {
            "index": 0,
            "finish_reason": None,
            **({"delta": {"content": token}} if chat else {"text": token}),
            "logprobs": {"content": [{"token": token, "logprob": -0.1}]} if chat else None,
        }
        for token in tokens
    ]
    last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
    chunks.append({"index": 0, "finish_reason": "stop", **last})
    usage = {"prompt_tokens": 20, "completion_tokens": len(tokens)}
    datas = [json.dumps({"id": "x", "choices": [chunk]}) for chunk in chunks]
    datas += [json.dumps({"id": "x", "choices": [], "usage": usage}), "[DONE]"]
    return [f"data: {data}\n\n".encode() for data in datas]


def _piece(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


class _Model:
    """One model's server: a listener that comes and goes, and its open connections."""

    def __init__(self, place: int, *, oracle: bool) -> None:
        self.port = 0
        self.mood = "well"
        self.hung_up: list[float] = []
        self._place, self._oracle = place, oracle
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._draw = random.Random(place)

    async def turn(self, mood: str) -> None:
        self.mood = mood
        if mood == "refuses":
            if self._server is not None:
                self._server.close()
                self._server = None
            for writer in list(self._writers):
                writer.transport.abort()
        elif self._server is None:
            self._server = await asyncio.start_server(
                self._talk, "127.0.0.1", self.port, backlog=1024
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
                request = json.loads(await reader.readexactly(int(length))) if length else None
                if not await self._answer(request, reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(
        self,
        request: dict[str, Any] | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Answer one request; whether the connection is still good for another."""
        mood = self._mood_now()
        if mood == "hangs":
            await reader.read(1)
            self.hung_up.append(time.monotonic())
            return False
        if mood in ("errors", "busy"):
            status = "500 Out of order" if mood == "errors" else "429 Busy\r\nretry-after: 1"
            self._send(writer, b'{"error": {"message": "no"}}', status)
            return True
        if request is None:
            self._send(writer, b'{"data": [{"id": "m"}]}')
            return True
        if mood == "slow":
            await asyncio.sleep(_SLOW_S)
        if mood == "garbage":
            self._send(writer, self._draw.choice(_GARBAGE))
            return True
        text = self._text(request)
        chat = "messages" in request
        if request.get("stream"):
            return await self._stream(mood, _events(text, chat=chat), reader, writer)
        body = _body(text, chat=chat)
        if mood in ("dies", "stalls"):
            self._send(writer, body, cut_at=len(body) // 2)
            if mood == "stalls":
                await reader.read(1)
            return False
        self._send(writer, body)
        return True

    async def _stream(
        self,
        mood: str,
        events: list[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for place, event in enumerate(events):
            if place == 3 and mood == "dies":
                await writer.drain()
                return False
            if place == 3 and mood == "stalls":
                await reader.read(1)
                return False
            writer.write(_piece(event))
            # A pause of the loop, so that pieces go out one by one.
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        return True

    def _send(
        self,
        writer: asyncio.StreamWriter,
        body: bytes,
        status: str = "200 OK",
        *,
        cut_at: int | None = None,
    ) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:cut_at])

    def _mood_now(self) -> str:
        if self.mood == "flaps":
            # Models take their turns one after another.
            is_well = int(time.monotonic() / _FLAP_S + self._place) % 2
            return "well" if is_well else self._draw.choice(("errors", "dies", "hangs"))
        if self.mood == "random":
            if self._draw.random() < _WELL_SHARE:
                return "well"
            return self._draw.choice([m for m in MOODS if m not in ("refuses", "flaps", "random")])
        return self.mood

    def _text(self, request: dict[str, Any]) -> str:
        # Whatever form a question has; some have no number.
        asked = json.dumps(request.get("messages", request.get("prompt")))
        found = re.search(r"\d+", asked)
        number = int(found[0][:9]) if found else 0
        easy = "easy" in asked
        return answer_text(number, easy=easy, place=self._place, oracle=self._oracle)


async def _serve(names: list[str], say: Callable[[str], None]) -> None:
    models = {
        name: _Model(place, oracle=place == len(names) - 1) for place, name in enumerate(names)
    }
    for model in models.values():
        await model.turn("well")
    say(" ".join(str(model.port) for model in models.values()))
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line == "hung up\n":
            say(json.dumps([at for model in models.values() for at in model.hung_up]))
            for model in models.values():
                model.hung_up.clear()
            continue
        for name, mood in json.loads(line).items():
            await models[name].turn(mood)
        say("done")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1:], _say))
