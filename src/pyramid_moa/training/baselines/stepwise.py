"""Rules that go step by step, one member at a time, as the benchmark reads them."""

from pyramid_moa.router_model.state_values import StateValues, single_members
from pyramid_moa.training.baselines.rule import Choices, FailureScores
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.outcomes import FloatArray
from pyramid_moa.training.state_fit import SetEvidence, fit_state_values
from pyramid_moa.training.state_walk import Walk

__all__ = ["fit_steps", "stepwise_choices"]


def fit_steps(
    evidence: SetEvidence,
    data: RuleRun,
    train: Positions,
    *,
    dial: FloatArray,
    penalty: float,
    realised: bool = False,
) -> StateValues:
    """Fit what sets of members are worth, asked one by one, at their mean prices.

    Args:
        evidence: of the training queries.
        data: the run.
        train: positions of those queries.
        dial: as in ``fit_state_values``, like the rest.
        penalty: likewise.
        realised: likewise.
    """
    cost = data.cost[train].mean(axis=0)
    return fit_state_values(
        evidence,
        data.correct[train],
        groups=single_members(data.members),
        prices=cost / cost[-1],
        dial=dial,
        penalty=penalty,
        realised=realised,
    )


def stepwise_choices(walked: Walk, *, failure: FailureScores | None = None) -> Choices:
    """What became of queries, as choices.

    Args:
        walked: the way of each.
        failure: scores to hand on.
    """
    return Choices(called=walked.called, answer=walked.answer, failure=failure)
