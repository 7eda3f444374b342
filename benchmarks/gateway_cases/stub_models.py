"""Models that answer after a fixed time: an HTTP server with as little to do as can be.

    python benchmarks/gateway_cases/stub_models.py COUNT DELAY_MS

Prints the ports of its models, one for each, and serves until it is ended. All give one answer,
so that the vote accepts it.
"""

import asyncio
import json
import sys

_TEXT = "Two spiders have 16 legs. #### 16"


def _body() -> bytes:
    tokens = _TEXT.split(" ")
    entries = [
        {"token": piece, "bytes": list(piece.encode()), "logprob": -0.1, "top_logprobs": []}
        for piece in [tokens[0], *(f" {token}" for token in tokens[1:])]
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": _TEXT},
        "finish_reason": "stop",
        "logprobs": {"content": entries},
    }
    usage = {"prompt_tokens": 20, "completion_tokens": len(entries)}
    return json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode()


async def _serve(count: int, delay_s: float) -> None:
    body = _body()
    models = json.dumps({"data": [{"id": "m"}]}).encode()
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"
    answer, listing = (head.format(len(own)).encode() + own for own in (body, models))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = 0
                if b"content-length:" in request:
                    length = int(request.partition(b"content-length:")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                if length:
                    await asyncio.sleep(delay_s)
                writer.write(answer if length else listing)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    servers = [await asyncio.start_server(talk, "127.0.0.1", 0) for _ in range(count)]
    ports = [str(server.sockets[0].getsockname()[1]) for server in servers]
    sys.stdout.write(f"{' '.join(ports)}\n")
    sys.stdout.flush()
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
