"""Does the server that hands out hidden states sample as it should? At temperature 1, both servers.

For each generated token, with the model's distribution there as transformers computes it: its
log-probability plus the distribution's entropy, and whether it repeats the token before it less the
probability that it does. Both are 0 on average where tokens follow the distribution, and sums of
martingale differences, so that their standard errors are those of independent draws.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
import torch
from label_cases.served import free_ports, served, write_pyramid

from pyramid_moa.backends.hidden_states_file import new_name, opt_in
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.embedded import EMBEDDED_ORACLE, embedded_path

__all__ = ["SamplingCheck", "measure_sampling"]

_MAX_TOKENS = 48
_CONCURRENCY = 32


@dataclass(frozen=True, kw_only=True)
class SamplingCheck:
    """What one server's tokens look like.

    Attributes:
        name: of the server.
        tokens: looked at.
        surprise: mean of log-probability plus entropy, in standard errors.
        repeats: mean of repeats less their probability, in standard errors.
        repeat_rate: share of tokens that repeat the one before.
        stated_error: largest difference between the server's log-probabilities and transformers'.
    """

    name: str
    tokens: int
    surprise: float
    repeats: float
    repeat_rate: float
    stated_error: float

    def row(self) -> str:
        """A line of the table."""
        return (
            f"| {self.name} | {self.tokens:,} | {self.surprise:+.2f} | {self.repeats:+.2f} | "
            f"{self.repeat_rate:.2%} | {self.stated_error:.1e} |"
        )


def measure_sampling(folder: Path, *, answers: int) -> list[SamplingCheck]:
    """Sample from a server with the connector, and from one without.

    Args:
        folder: for the servers' logs.
        answers: of each.
    """
    model = str(embedded_path(EMBEDDED_ORACLE))
    entries = [
        {
            "name": name,
            "backend": "vllm",
            "model": model,
            "dtype": "float32",
            "port": port,
            "kv_cache_bytes": 256 << 20,
            "max_model_len": 512,
            "extra_args": ["--enforce-eager"],
        }
        for name, port in zip(("with", "without"), free_ports(2), strict=True)
    ]
    path = write_pyramid(
        folder / "sampling.yaml",
        members=entries[:1],
        oracles=entries[1:],
        hidden_states={"layers": [-1]},
    )
    dataset = load_queries(f"word-problems?train={answers}&test=1&seed=14", limit=answers)
    questions = [query.question for query in dataset.queries]
    with served(path, folder / "logs"):
        return [
            _check(str(entry["name"]), model, asyncio.run(_sample(entry, questions)))
            for entry in entries
        ]


async def _sample(entry: dict[str, Any], questions: list[str]) -> list[dict[str, Any]]:
    room = asyncio.Semaphore(_CONCURRENCY)
    url = f"http://127.0.0.1:{entry['port']}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=300) as client:

        async def ask(number: int, question: str) -> dict[str, Any]:
            extra: dict[str, object] = {"return_token_ids": True}
            if entry["name"] == "with":
                extra["kv_transfer_params"] = opt_in(new_name())
            async with room:
                answer = await client.completions.create(
                    model=str(entry["name"]),
                    prompt=question,
                    max_tokens=_MAX_TOKENS,
                    temperature=1.0,
                    seed=number,
                    logprobs=0,
                    extra_body=extra,
                )
            return answer.choices[0].model_dump()

        return await asyncio.gather(*(ask(n, question) for n, question in enumerate(questions)))


@torch.inference_mode()
def _check(name: str, folder: str, choices: list[dict[str, Any]]) -> SamplingCheck:
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    surprise: list[float] = []
    excess: list[float] = []
    repeats, error = 0, 0.0
    for choice in choices:
        ids = choice["prompt_token_ids"] + choice["token_ids"]
        count = len(choice["token_ids"])
        table = model(torch.tensor([ids])).logits[0, -count - 1 : -1].log_softmax(-1)  # [T, V]
        chosen, before = torch.tensor(ids[-count:]), torch.tensor(ids[-count - 1 : -1])
        own = table.gather(1, chosen[:, None])[:, 0]
        stated = torch.tensor(choice["logprobs"]["token_logprobs"])
        error = max(error, float((own - stated).abs().max()))
        surprise += (own - (table.exp() * table).sum(-1)).tolist()
        repeated = (chosen == before).float()
        repeats += int(repeated.sum())
        excess += (repeated - table.gather(1, before[:, None])[:, 0].exp()).tolist()
    return SamplingCheck(
        name=name,
        tokens=len(surprise),
        surprise=_in_errors(surprise),
        repeats=_in_errors(excess),
        repeat_rate=repeats / len(surprise),
        stated_error=error,
    )


def _in_errors(values: list[float]) -> float:
    return float(np.mean(values) / (np.std(values) / np.sqrt(len(values))))
