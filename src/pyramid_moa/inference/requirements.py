"""What a router needs against what the backends give: one clear error when the gate starts."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

from pyramid_moa.backends import (
    Backend,
    HiddenStates,
    Pooling,
    RecordedBackend,
    can_give_hidden_states,
)
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.errors import CheckpointError, ConfigError
from pyramid_moa.grading import load_grader
from pyramid_moa.router_model.card import RouterCard
from pyramid_moa.router_model.policy import OperatingPoint, PolicyKind
from pyramid_moa.router_model.router import Router

__all__ = [
    "check_options",
    "check_point",
    "check_pyramid",
    "check_requirements",
    "needed_hidden_states",
]


def needed_hidden_states(card: RouterCard) -> HiddenStates | None:
    """The hidden states that a router reads, None for none.

    Raises:
        CheckpointError: the checkpoint names none that there could be.
    """
    if card.hidden_key is None:
        return None
    layer, _, pooling = card.hidden_key.removeprefix("layer").partition("/")
    try:
        if pooling not in get_args(Pooling):
            raise ValueError(pooling)
        return HiddenStates(layers=(int(layer),), poolings=(cast("Pooling", pooling),))
    except ValueError as error:
        raise CheckpointError(
            f"expected a hidden state such as layer-1/answer_mean, found {card.hidden_key!r}"
        ) from error


def check_requirements(card: RouterCard, pyramid: Pyramid, backends: Mapping[str, Backend]) -> None:
    """Compare a router with the pyramid it is to serve and with what runs.

    Raises:
        CheckpointError: with everything that does not fit.
    """
    problems = _pyramid_problems(card, pyramid)
    needs_logprobs = {member.name: member.logprobs for member in card.members}
    for name in [*pyramid.member_names, *(spec.name for spec in pyramid.mid_oracles)]:
        backend = backends[name]
        if "stated" in card.feature_groups and not isinstance(backend, RecordedBackend):
            problems.append(f"{name}: its backend states no confidence, which the router reads")
        if needs_logprobs.get(name) and not backend.gives_logprobs:
            problems.append(f"{name}: its backend gives no token log-probabilities")
        reads_it = card.hidden_key is not None and name in pyramid.member_names
        if reads_it and card.hidden_key not in backend.hidden_keys:
            problems.append(f"{name}: its backend gives no hidden states {card.hidden_key}")
    _refuse(problems)
    _warn_of_strangers(card, pyramid)


def check_pyramid(card: RouterCard, pyramid: Pyramid) -> None:
    """Compare a router with what a pyramid's entries tell, before any model is loaded.

    Raises:
        CheckpointError: with everything that does not fit.
    """
    problems = _pyramid_problems(card, pyramid)
    needs_logprobs = {member.name: member.logprobs for member in card.members}
    for spec in pyramid.members:
        if needs_logprobs.get(spec.name) and spec.is_served and not spec.logprobs:
            problems.append(f"{spec.name}: has logprobs: false, and the router reads them")
        if card.hidden_key is not None and not can_give_hidden_states(spec):
            problems.append(
                f"{spec.name}: a server gives no hidden states {card.hidden_key}, which the "
                "router reads, unless it has a port or a hidden_states_dir"
            )
    _refuse(problems)


def _pyramid_problems(card: RouterCard, pyramid: Pyramid) -> list[str]:
    problems = []
    if card.hidden_key is not None and card.member_names != pyramid.member_names:
        problems.append(
            "members: the router reads hidden states and knows those of "
            f"{', '.join(card.member_names)}; the pyramid has {', '.join(pyramid.member_names)}"
        )
    # An alias in the YAML is the same grader.
    if card.grader not in (pyramid.grader, load_grader(pyramid.grader).name):
        problems.append(
            f"grader: the router was trained with {card.grader}; the pyramid has {pyramid.grader}"
        )
    return problems


def _warn_of_strangers(card: RouterCard, pyramid: Pyramid) -> None:
    """Say which members the router does not know: it reads their answers all the same."""
    if strangers := [name for name in pyramid.member_names if name not in card.member_names]:
        logging.getLogger(__name__).warning(
            "the router was trained on %s and reads answers of %s as strangers'; train --init "
            "makes it know them",
            _some(card.member_names),
            ", ".join(strangers),
        )


def _some(names: list[str]) -> str:
    """A few of them: a router that comes with the package knows dozens."""
    few = ", ".join(names[:4])
    return few if len(names) <= 4 else f"{few} and {len(names) - 4} others"


def _refuse(problems: list[str]) -> None:
    if problems:
        raise CheckpointError(
            "this checkpoint can't serve this pyramid: "
            + "; ".join(problems)
            + "; train a router on a run of this pyramid, or change the pyramid"
        )


def check_point(point: OperatingPoint, router: Router | None, pyramid: Pyramid) -> None:
    """Make sure that an operating point can be followed.

    Raises:
        CheckpointError: it goes step by step, and the router does not know what steps are worth,
            or those of other members; or it weighs the oracle's answer, and nobody judges that.
    """
    if router is None:
        if point.policy != "parallel" or point.rule != "failure":
            raise CheckpointError(
                f"operating point {point.name!r}: expected a router, found none; train one"
            )
        return
    judges = point.rule == "gain" or point.outvote is not None
    if judges and router.card.oracle != pyramid.oracle.name:
        raise CheckpointError(
            f"operating point {point.name!r}: the router judges the answers of "
            f"{router.card.oracle}; the pyramid's oracle is {pyramid.oracle.name}; train a router "
            "on a run of this pyramid, or take a point that does not weigh the oracle's answer"
        )
    if point.policy == "parallel":
        return
    if router.steps is None:
        raise CheckpointError(
            f"operating point {point.name!r}: expected a router that knows what steps are worth, "
            "found one that only asks all members at once; train again"
        )
    own = {*router.steps.members, router.steps.oracle}
    theirs = {name for tier in pyramid.tiers for name in tier}
    if own != theirs:
        raise CheckpointError(
            f"operating point {point.name!r}: the router knows what steps to {', '.join(own)} are "
            f"worth; the pyramid has {', '.join(theirs)}; train a router on a run of this pyramid"
        )


def check_options(
    router: str | Path | None,
    operating_point: str | None,
    threshold: float | None,
    policy: PolicyKind | None = None,
) -> None:
    """Refuse options of a gate that do not go together.

    Raises:
        ConfigError: an operating point or the sequential policy without a router, or a point
            beside a threshold; a threshold that is no number; no such policy.
    """
    if policy not in (None, *get_args(PolicyKind)):
        raise ConfigError(f"policy: expected parallel or sequential, found {policy!r}")
    if policy == "sequential" and router is None:
        raise ConfigError("policy sequential: expected a router that knows its steps, found none")
    if operating_point is not None and router is None:
        raise ConfigError(
            f"operating point {operating_point!r}: expected a router that has it, found none"
        )
    if operating_point is not None and threshold is not None:
        raise ConfigError("expected an operating point or a threshold, found both")
    if threshold is not None and not math.isfinite(threshold):
        raise ConfigError(f"threshold: expected a number, found {threshold}")
