"""``label`` against a bare asyncio client, both on one vLLM server with the same concurrency.

The pyramid's member and oracle are the same server under its two names; the bare client sends the
same requests with the ``openai`` package, as many at once, and looks at nothing.
"""

import asyncio
import shutil
import time
from pathlib import Path

import openai
from label_cases.pairs import Pairs, measure_pairs
from label_cases.served import free_ports, served, write_pyramid

from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.embedded import EMBEDDED_ORACLE, embedded_path

__all__ = ["measure_over_http"]

_CONCURRENCY = 32
_MAX_TOKENS = 128


def measure_over_http(folder: Path, *, queries: int, pairs: int) -> Pairs:
    """Measure both.

    Args:
        folder: for the run and the server's log.
        queries: answered twice by each side, by "member" and "oracle".
        pairs: how many.
    """
    model, (port,) = str(embedded_path(EMBEDDED_ORACLE)), free_ports(1)
    entry = {
        "name": "oracle",
        "backend": "vllm",
        "model": model,
        "dtype": "float32",
        "port": port,
        "kv_cache_bytes": 256 << 20,
        "max_model_len": 512,
        "max_concurrency": _CONCURRENCY,
        "extra_args": ["--enforce-eager", "--no-enable-prefix-caching"],
    }
    # The member is somebody's server for `up`: it is the oracle's.
    member = {
        "name": "member",
        "backend": "openai",
        "model": "oracle",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "max_concurrency": _CONCURRENCY,
    }
    path = write_pyramid(
        folder / "over-http.yaml",
        members=[member],
        oracles=[entry],
        sampling={"max_tokens": _MAX_TOKENS},
    )
    dataset = load_queries(f"word-problems?train={queries}&test=1&seed=12", limit=queries)
    pyramid = load_pyramid(path)
    questions = [query.question for query in dataset.queries]

    def ours() -> float:
        shutil.rmtree(folder / "run", ignore_errors=True)
        started = time.perf_counter()
        label(dataset, pyramid, folder / "run", strict=True)
        return time.perf_counter() - started

    def theirs() -> float:
        started = time.perf_counter()
        for name in ("oracle", model):
            asyncio.run(_ask(f"http://127.0.0.1:{port}/v1", name, questions))
        return time.perf_counter() - started

    with served(path, folder / "logs"):
        return measure_pairs(ours, theirs, queries=2 * queries, pairs=pairs)


async def _ask(base_url: str, model: str, questions: list[str]) -> None:
    room = asyncio.Semaphore(_CONCURRENCY)
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as client:

        async def ask(question: str) -> None:
            async with room:
                await client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": question}],
                    max_tokens=_MAX_TOKENS,
                    temperature=0.0,
                    logprobs=True,
                )

        await asyncio.gather(*map(ask, questions))
