"""What a router says of every set of members that may have answered.

Legend: n queries, M members.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import softmax

from pyramid_moa.router_model.network import RouterNetwork, chosen_places, head_logits
from pyramid_moa.router_model.set_scores import SetScores
from pyramid_moa.training.draws import draw, members_in
from pyramid_moa.training.examples import Examples

__all__ = ["score_sets"]


def score_sets(
    network: RouterNetwork, examples: Examples, held_out: torch.Tensor | None = None
) -> Sequence[SetScores]:
    """Score every set of members but the empty one.

    Args:
        network: fitted.
        examples: n queries of its members.
        held_out: which networks have left out which query, bool [n, S], where the network was
            fitted on these queries: each is scored by those alone.

    Returns:
        2**M - 1 entries: the set at place i has the members whose bits are set in i + 1.
    """
    count, seeds = len(examples), network.shape.seeds
    by = torch.ones(count, seeds) if held_out is None else held_out.float()
    by = (by / by.sum(1, keepdim=True)).T[..., None]  # [S, n, 1]
    known = torch.zeros(count, dtype=torch.bool)
    index = torch.arange(count)
    with torch.inference_mode():
        components = network.reduce_rows(examples.hidden, count)
        return [
            _score(network, by, members, examples, components, index, known)
            for members in (
                members_in(subset, examples.members) for subset in range(1, 1 << examples.members)
            )
        ]


def _score(
    network: RouterNetwork,
    by: torch.Tensor,
    members: torch.Tensor,
    examples: Examples,
    components: torch.Tensor,
    index: torch.Tensor,
    known: torch.Tensor,
) -> SetScores:
    drawn = draw(examples, components, index, members.expand(len(index), -1), known)
    logits, clusters = network.logits(drawn.inputs), drawn.inputs.clusters
    right = (softmax(logits.candidates, dim=-1) * by).sum(0)
    oracle = torch.logit((torch.sigmoid(logits.oracle) * by).sum(0), eps=1e-6)
    said = torch.sigmoid(head_logits(right, oracle[None], clusters)).double().numpy()
    best = right.double()[:, 1:].topk(min(2, len(members)), dim=1).values.numpy()
    choice = members[chosen_places(right[:, 1:], clusters)]
    answered = (clusters >= 0).any(1)
    return SetScores(
        right=best[:, 0],
        runner_up=best[:, -1] if len(members) > 1 else np.zeros(len(best)),
        nobody=right[:, 0].double().numpy(),
        oracle=said[:, 2],
        choice=torch.where(answered, choice, -1).numpy(),
    )
