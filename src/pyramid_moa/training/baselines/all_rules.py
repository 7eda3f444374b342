"""The rules of the benchmark, in the order of its tables."""

from collections.abc import Sequence

from pyramid_moa.errors import ConfigError
from pyramid_moa.training.baselines.cascade_routing import CascadeRoutingRule
from pyramid_moa.training.baselines.fixed_rules import (
    HindsightRule,
    MembersOnly,
    OracleOnly,
    RandomRule,
    VoteRule,
)
from pyramid_moa.training.baselines.hidden_probe import HiddenProbeRule
from pyramid_moa.training.baselines.ours import OurRule
from pyramid_moa.training.baselines.ours_anytime import AnytimeRule
from pyramid_moa.training.baselines.query_only import QueryOnlyRule
from pyramid_moa.training.baselines.rule import Rule
from pyramid_moa.training.baselines.scorer import ScorerRule
from pyramid_moa.training.baselines.self_check import SelfCheckRule
from pyramid_moa.training.baselines.starts import Pool
from pyramid_moa.training.config import TrainConfig

__all__ = ["all_rules", "chosen_rules"]


def all_rules(config: TrainConfig, pools: Sequence[Pool] = ()) -> list[Rule]:
    """Every rule, the vote first.

    Args:
        config: how our router is trained.
        pools: what another one starts from.
    """
    router = OurRule(config=config)
    started = OurRule(config=config, starts=pools, name="router-from-pool")
    return [
        VoteRule(),
        router,
        AnytimeRule(router=router),
        *([started] if pools else []),
        *([AnytimeRule(router=started, name="anytime-from-pool")] if pools else []),
        CascadeRoutingRule(),
        QueryOnlyRule(),
        ScorerRule(),
        SelfCheckRule(),
        HiddenProbeRule(),
        RandomRule(),
        MembersOnly(),
        OracleOnly(),
        HindsightRule(),
    ]


def chosen_rules(
    config: TrainConfig, names: Sequence[str] | None, *, pools: Sequence[Pool] = ()
) -> list[Rule]:
    """Some rules, and the vote, with which all are compared.

    Args:
        config: how our router is trained.
        names: which; all where it is None.
        pools: what another router of ours starts from.

    Raises:
        ConfigError: there is no rule of a name.
    """
    rules = all_rules(config, pools)
    known = [rule.name for rule in rules]
    if names is None:
        return rules
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"expected rules among {', '.join(known)}; found {', '.join(sorted(unknown))}"
        )
    return [rule for rule in rules if rule.name in {"vote", *names}]
