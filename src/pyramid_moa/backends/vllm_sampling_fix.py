"""Mends sampling of vLLM's CPU builds in the mode that hands out hidden states.

That mode samples through vLLM's rejection sampler, whose ``expand_kernel`` for CPUs converts a
tensor that isn't int64 to one that is, and writes into the copy (vLLM issue 55005): temperatures
are then whatever lay in memory. A GPU runs another kernel.
"""

import torch

__all__ = ["expands_rightly", "mend_cpu_sampling"]

_KERNEL = "vllm.v1.sample.rejection_sampler.expand_kernel"


def mend_cpu_sampling() -> bool:
    """Replace the kernel where vLLM runs on a CPU and its own is wrong; say whether it was."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or expands_rightly():
        return False
    from vllm.triton_utils.dispatcher import register_kernels

    register_kernels({_KERNEL: _expand})
    return True


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
