"""Members left out at random: one router learns to score whatever part of a pyramid has spoken."""

from dataclasses import dataclass

import torch

from pyramid_moa.router_model.features import NO_ANSWER, NOT_ASKED
from pyramid_moa.router_model.network import UNKNOWN, NetworkInputs
from pyramid_moa.router_model.vote_figures import same_answers
from pyramid_moa.training.examples import Examples

__all__ = [
    "Drawn",
    "all_members",
    "draw",
    "draw_members",
    "draw_strangers",
    "first_members",
    "members_in",
    "served_whole",
]

# More members than these are no pyramid that somebody serves, but models whose answers are there to
# learn from; of them a draw takes some.
_MOST_SERVED = 8
_PLACES_OF_MANY = 6
_FEWEST_OF_MANY = 2
_NOBODY = -1
# Share of the draws in which the router must do without knowing who answers.
_STRANGERS = 0.25


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """B queries with some of their members, and what is right.

    Attributes:
        inputs: what the network reads.
        target: int [B]: 0 where none of the answers is right, else 1 + its place.
        oracle_right: [B].
    """

    inputs: NetworkInputs
    target: torch.Tensor
    oracle_right: torch.Tensor


def served_whole(members: int) -> bool:
    """Whether so many members are a pyramid that is served as it is."""
    return members <= _MOST_SERVED


def all_members(examples: Examples, count: int) -> torch.Tensor:
    """Everybody at the own place: int [count, M]."""
    return torch.arange(examples.members).expand(count, -1)


def first_members(examples: Examples, count: int) -> torch.Tensor:
    """Those who are asked first at their own places: int [count, members of the first tier]."""
    return torch.arange(examples.asked_first).expand(count, -1)


def members_in(subset: int, members: int) -> torch.Tensor:
    """The members of a set, one bit each, in rising order: int [size of the set]."""
    return torch.tensor([number for number in range(members) if subset >> number & 1])


def draw_members(
    members: int, count: int, generator: torch.Generator, *, first_tier: int | None = None
) -> torch.Tensor:
    """Draw who is asked.

    Half of the draws from a small pyramid ask as it is served: everybody, or all up to some tier.
    The others, and all draws from many members, ask a random number of random members.

    Args:
        members: M.
        count: of draws.
        generator: drawn from.
        first_tier: how many are asked first; the others follow one by one. All, where left out.

    Returns:
        Members by number in rising order, -1 for a place that stays empty: int [count, places].
    """
    whole = served_whole(members)
    places = members if whole else _PLACES_OF_MANY
    order = torch.rand(count, members, generator=generator).argsort(1)[:, :places]
    fewest = 1 if whole else _FEWEST_OF_MANY
    sizes = torch.randint(fewest, places + 1, (count, 1), generator=generator)
    if whole:
        everybody = torch.rand(count, 1, generator=generator) < 0.5
        sizes = torch.where(everybody, places, sizes)
    order = torch.where(torch.arange(places) < sizes, order, members)
    order = order.sort(1).values
    if whole and first_tier is not None and first_tier < members:
        up_to = torch.randint(first_tier, members + 1, (count, 1), generator=generator)
        tiers = torch.where(torch.arange(members) < up_to, torch.arange(members), members)
        order = torch.where(everybody, tiers, order)
    return torch.where(order == members, _NOBODY, order)


def draw_strangers(count: int, generator: torch.Generator) -> torch.Tensor:
    """In which draws nobody is known: bool [count]."""
    return torch.rand(count, generator=generator) < _STRANGERS


def draw(
    examples: Examples,
    components: torch.Tensor,
    index: torch.Tensor,
    members: torch.Tensor,
    strangers: torch.Tensor,
) -> Drawn:
    """Put the inputs of a batch together.

    Args:
        examples: n queries.
        components: reduced hidden states [n, M, K], or [n, 0, K].
        index: queries, int [B].
        members: who is asked, int [B, P], -1 for an empty place.
        strangers: where members are not known by who they are, bool [B].
    """
    rows, empty = index[:, None], members == _NOBODY
    chosen = members.clamp(min=0)
    clusters = torch.where(empty, NOT_ASKED, examples.clusters[rows, chosen])
    clusters = same_answers(clusters)
    right = (examples.right[rows, chosen] > 0) & (clusters > NO_ANSWER)
    first = right.to(torch.uint8).argmax(1, keepdim=True)
    target = torch.where(right.any(1), 1 + clusters.gather(1, first)[:, 0], 0)
    relations = examples.relations[rows[..., None], chosen[:, :, None], chosen[:, None, :]]
    own = components[rows, chosen] if components.shape[1] else components[index]
    return Drawn(
        inputs=NetworkInputs(
            answers=examples.answers[rows, chosen],
            relations=relations,
            clusters=clusters,
            question=examples.question[index],
            members=torch.where(empty | strangers[:, None], UNKNOWN, chosen),
            components=own,
        ),
        target=target,
        oracle_right=examples.oracle_right[index],
    )
