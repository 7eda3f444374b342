"""What hidden states cost: a server with the connector against the same server without.

Both serve a Llama of random weights large enough that Python is not what is measured. The same
prompts go to both, with as many requests at once and the same number of tokens; with the connector
the pooled states are fetched as well. Beside it: the second pass that transformers would need to
get at the same states, over prompts and answers that are known by then.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from label_cases.pairs import Pairs, measure_pairs
from label_cases.served import free_ports, served, write_pyramid

from pyramid_moa.backends import Completion, Failure, open_backend
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.embedded import EMBEDDED_ORACLE, embedded_path

__all__ = ["HiddenStatesCost", "measure_hidden_states"]

_MAX_TOKENS = 48
_CONCURRENCY = 16


@dataclass(frozen=True, kw_only=True)
class HiddenStatesCost:
    """Seconds.

    Attributes:
        parameters: of the model.
        pairs: with the connector against without.
        second_pass_s: of transformers over the same tokens, each time.
    """

    parameters: int
    pairs: Pairs
    second_pass_s: list[float]


def measure_hidden_states(folder: Path, *, queries: int, pairs: int) -> HiddenStatesCost:
    """Measure both servers and the second pass.

    Args:
        folder: for the model and the servers' logs.
        queries: prompts of each measurement.
        pairs: how many.
    """
    parameters = _make_model(folder / "model")
    ports = free_ports(2)
    entries = [
        {
            "name": name,
            "backend": "vllm",
            "model": str(folder / "model"),
            "dtype": "float32",
            "port": port,
            "kv_cache_bytes": 512 << 20,
            "max_model_len": 512,
            "max_concurrency": _CONCURRENCY,
            "extra_args": ["--enforce-eager", "--no-enable-prefix-caching"],
        }
        for name, port in zip(("with", "without"), ports, strict=True)
    ]
    # `up` has the members' servers leave hidden states, and the oracle's none.
    path = write_pyramid(
        folder / "hidden-states.yaml",
        members=entries[:1],
        oracles=entries[1:],
        sampling={"max_tokens": _MAX_TOKENS},
        hidden_states={
            "layers": [-1, 6],
            "poolings": ["last_prompt", "last_position", "answer_mean"],
        },
    )
    pyramid = load_pyramid(path)
    sampling = pyramid.sampling
    dataset = load_queries(f"word-problems?train={queries}&test=1&seed=13", limit=queries)
    prompts = [pyramid.prompt.render(query.question) for query in dataset.queries]
    second_pass: list[float] = []
    with served(path, folder / "logs"):
        wanted = open_backend(pyramid.members[0], hidden_states=pyramid.hidden_states)
        plain = open_backend(pyramid.oracle)
        again = _SecondPass(folder / "model")

        def ours() -> float:
            started = time.perf_counter()
            outcomes = [outcome for _, outcome in wanted.stream(prompts, sampling)]
            seconds = time.perf_counter() - started
            for outcome in outcomes:
                assert isinstance(outcome, Completion), outcome
                assert len(outcome.hidden_states) == 6
                assert outcome.completion_tokens == _MAX_TOKENS
            second_pass.append(again.run(outcomes))
            return seconds

        def theirs() -> float:
            started = time.perf_counter()
            outcomes = [outcome for _, outcome in plain.stream(prompts, sampling)]
            assert all(isinstance(outcome, Completion) for outcome in outcomes)
            return time.perf_counter() - started

        try:
            found = measure_pairs(ours, theirs, queries=queries, pairs=pairs)
        finally:
            wanted.close()
            plain.close()
    return HiddenStatesCost(parameters=parameters, pairs=found, second_pass_s=second_pass[1:])


class _SecondPass:
    """Transformers over prompts and answers, in batches of the same size."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def run(self, outcomes: list[Completion | Failure]) -> float:
        """Seconds of a pass over as many tokens as these answers took.

        Of each prompt, and of each answer but its last token, in the batches of a server.
        """
        lengths = [
            (outcome.prompt_tokens or 0) + (outcome.completion_tokens or 0) - 1
            for outcome in outcomes
            if isinstance(outcome, Completion)
        ]
        started = time.perf_counter()
        for first in range(0, len(lengths), _CONCURRENCY):
            longest = max(lengths[first : first + _CONCURRENCY])
            ids = torch.full((len(lengths[first : first + _CONCURRENCY]), longest), 7)
            self._model.base_model(ids, output_hidden_states=True)
        return time.perf_counter() - started


def _make_model(folder: Path) -> int:
    """A Llama of random weights with the embedded models' tokenizer; how many parameters."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(embedded_path(EMBEDDED_ORACLE))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=896,
        intermediate_size=2432,
        num_hidden_layers=12,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=512,
        # No answer ends before its last token.
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).to(torch.float32)
    # The end token of the tokenizer is never the likeliest.
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 0.0
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
