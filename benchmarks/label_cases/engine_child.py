"""One side of the pair "vLLM in this process": ``engine_child.py label|bare FOLDER QUERIES``.

``label`` labels the queries with a pyramid whose member and oracle both are the one engine, which
stays open; ``bare`` gives the same prompts to ``LLM.generate`` twice. Both engines are started from
the same entry, with its arguments; what is measured begins when they are up. Prefix caching is off
on both sides: the same prompts come again with every pair.
"""

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

from child import serve

from pyramid_moa.backends import ModelSpec, open_backend
from pyramid_moa.data_prep import label as label_module
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.pyramid import load_pyramid

_ARGUMENTS = ["--enforce-eager", "--no-enable-prefix-caching"]


def main(side: str, folder: Path, queries: int) -> None:
    """Start the engine and serve."""
    pyramid = load_pyramid("embedded")
    spec = replace(
        pyramid.oracle,
        backend="vllm",
        kv_cache_bytes=256 << 20,
        max_model_len=512,
        extra_args=_ARGUMENTS,
    )
    dataset = load_queries(f"word-problems?train={queries}&test=1&seed=11", limit=queries)
    if side == "label":
        pair = replace(pyramid, members=[replace(spec, name="member")], oracles=[spec])
        pair = replace(pair, hidden_states=None)
        backend = open_backend(spec)

        class Open:
            """The engine under another entry's name; it outlives each labelling."""

            def __init__(self, entry: ModelSpec) -> None:
                self.name = entry.name
                self.stream = backend.stream

            def close(self) -> None:
                """Stay open."""

        # Opened once, for every pair.
        label_module.open_model = lambda entry, *_, **__: Open(entry)  # type: ignore[assignment]

        def work() -> float:
            run = folder / "run"
            shutil.rmtree(run, ignore_errors=True)
            started = time.perf_counter()
            label(dataset, pair, run)
            return time.perf_counter() - started
    else:
        prompts = [pyramid.prompt.render(query.question) for query in dataset.queries]
        work = _bare(spec, [prompt.messages[-1].content for prompt in prompts if prompt.messages])
    serve(work)


def _bare(spec: ModelSpec, questions: list[str]):  # noqa: ANN202 - a closure for serve
    import os

    from pyramid_moa.backends.vllm_arguments import cpu_environment

    os.environ |= {**cpu_environment(), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    from transformers import AutoTokenizer
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=spec.model,
        dtype="float32",
        enforce_eager=True,
        enable_prefix_caching=False,
        kv_cache_memory_bytes=256 << 20,
        max_model_len=512,
        generation_config="vllm",
    )
    tokenizer = AutoTokenizer.from_pretrained(spec.model)
    parameters = SamplingParams(max_tokens=128, temperature=0.0, logprobs=0)

    def work() -> float:
        started = time.perf_counter()
        for _ in range(2):
            prompts = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": question}],
                    add_generation_prompt=True,
                    tokenize=False,
                )
                for question in questions
            ]
            llm.generate(prompts, parameters, use_tqdm=False)
        return time.perf_counter() - started

    return work


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
