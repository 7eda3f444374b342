"""Mends sampling of vLLM's CPU builds; a GPU runs other code.

The mode that hands out hidden states samples through vLLM's rejection sampler, whose
``expand_kernel`` for CPUs converts a tensor that isn't int64 to one that is, and writes into the
copy (vLLM issue 55005): temperatures are then whatever lay in memory. And in every mode a request
with a seed whose prompt comes in chunks ends the whole engine, with "CPU Generator does not use
offset".
"""

from typing import Any

import torch

__all__ = ["expands_rightly", "mend_cpu_kernel", "mend_cpu_seeds"]

_KERNEL = "vllm.v1.sample.rejection_sampler.expand_kernel"


def mend_cpu_kernel() -> bool:
    """Replace the kernel where vLLM's own is wrong; say whether it was."""
    if expands_rightly():
        return False
    from vllm.triton_utils.dispatcher import register_kernels

    register_kernels({_KERNEL: _expand})
    return True


def mend_cpu_seeds(model_runner: Any) -> None:  # noqa: ANN401 - untyped library
    """Take back what a chunk that ends no prompt has drawn, as vLLM does on a GPU.

    vLLM samples after every chunk, throws away what belongs to none but the last, and winds the
    requests' generators back by an offset, which those of a CPU lack.
    """
    keep_books = getattr(model_runner, "_bookkeeping_sync", None)
    if keep_books is None:
        return  # another way of sampling, without this fault

    def mended(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - as the library has it
        batch = model_runner.input_batch
        thrown_away = model_runner.discard_request_mask.np[: batch.num_reqs].nonzero()[0]
        held = {row: batch.generators.pop(row) for row in thrown_away if row in batch.generators}
        for row, generator in held.items():
            # One that goes on after a pause has given tokens: it need not be wound back to be
            # right, and can't be.
            if not model_runner.requests[batch.req_ids[row]].output_token_ids:
                generator.manual_seed(generator.initial_seed())
        try:
            return keep_books(*args, **options)
        finally:
            batch.generators.update(held)

    model_runner._bookkeeping_sync = mended


def expands_rightly() -> bool:
    """Try vLLM's kernel on a small case of every type that the sampler gives it."""
    from vllm.v1.sample.rejection_sampler import expand_batch_to_tokens

    ends = torch.tensor([2, 3], dtype=torch.int32)
    for dtype in (torch.float32, torch.int32, torch.int64):
        wanted = torch.tensor([7, 7, 1], dtype=dtype)
        found = expand_batch_to_tokens(torch.tensor([7, 0], dtype=dtype), ends, 3, 0, 1)
        if not torch.equal(found, wanted):
            return False
    return True


def _expand(
    output: torch.Tensor,
    values: torch.Tensor,
    ends: torch.Tensor,
    replace_from: int,
    replace_to: int,
    longest: int | None = None,
) -> None:
    """Repeat each of B values for its tokens, into ``output`` of shape [ends[-1]].

    Args:
        output: where they go.
        values: shape [B].
        ends: shape [B], one past the last token of each.
        replace_from: a value that is to be replaced.
        replace_to: by what.
        longest: of the kernel that this stands in for.
    """
    del longest
    replaced = values.masked_fill(values == replace_from, replace_to)
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    output.copy_(replaced.repeat_interleave(counts))
