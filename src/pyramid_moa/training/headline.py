"""The headline figures of an evaluation as functions of how often each question was drawn."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.training.deferral import cost_ratio, hindsight_escalates
from pyramid_moa.training.failure_scores import (
    Ranking,
    auroc,
    average_precision,
    brier_score,
    calibration_error,
    rank,
    ratio,
)
from pyramid_moa.training.outcomes import BoolArray, FloatArray, Outcomes

__all__ = ["HeadlineFigures"]

_SLACK = 1e-9  # counts of questions are whole numbers; sums of them must not miss by rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadlineFigures:
    """From weights [b, n] over the questions to the values [b] of every headline figure.

    Attributes:
        outcomes: the n queries.
    """

    outcomes: Outcomes
    _by_failure: Ranking = field(init=False)
    _by_vote_failure: Ranking = field(init=False)
    _by_disagreement: Ranking = field(init=False)

    def __post_init__(self) -> None:
        """Order the queries once for all resamples."""
        object.__setattr__(self, "_by_failure", rank(self.outcomes.p_ensemble_fails))
        object.__setattr__(self, "_by_vote_failure", rank(self.outcomes.p_vote_fails))
        object.__setattr__(self, "_by_disagreement", rank(1.0 - self.outcomes.vote_share))

    def __call__(self, weights: FloatArray) -> dict[str, FloatArray]:
        """Compute every figure.

        Args:
            weights: [b, n], rows sum to n.

        Returns:
            Values [b] by the figure's path in metrics.json; nan where a figure is undefined.
        """
        figures = self._accuracies(weights)
        figures |= self._costs(weights)
        figures |= self._failure_scores(weights)
        figures |= self._along_the_curve(weights, figures)
        figures |= _differences(figures)
        return figures

    def _accuracies(self, weights: FloatArray) -> dict[str, FloatArray]:
        rows = self.outcomes
        vote_rule = np.where(rows.vote_accepted, rows.vote_correct, rows.oracle_correct)
        columns = {
            **{f"members.{name}": rows.member_correct[:, k] for k, name in enumerate(rows.members)},
            **{f"mid_oracles.{name}": self._mid(k) for k, name in enumerate(rows.mid_oracles)},
            "vote.accuracy": rows.vote_correct,
            "ensemble.accuracy": rows.ensemble_correct,
            "oracle.accuracy": rows.oracle_correct,
            "hindsight.accuracy": rows.ensemble_correct | rows.oracle_correct,
            "vote_rule.accuracy": vote_rule,
            "vote_rule.escalation_rate": ~rows.vote_accepted,
            "operating_point.accuracy": rows.final_correct,
            "operating_point.escalation_rate": rows.escalated,
        }
        means = weights @ np.stack(list(columns.values()), axis=1).astype(np.float64) / rows.n
        return dict(zip(columns, means.T, strict=True))

    def _mid(self, place: int) -> BoolArray:
        assert self.outcomes.mid_correct is not None
        column: BoolArray = self.outcomes.mid_correct[:, place]
        return column

    def _costs(self, weights: FloatArray) -> dict[str, FloatArray]:
        figures: dict[str, FloatArray] = {}
        for name, (members, oracle, final) in self._prices().items():
            spent = {
                "ensemble": members,
                "hindsight": members + _where(hindsight_escalates(self.outcomes), oracle),
                "vote_rule": members + _where(~self.outcomes.vote_accepted, oracle),
                "operating_point": final,
            }
            totals = weights @ np.stack([*spent.values(), oracle], axis=1)  # [b, 5]
            ratios = cost_ratio(totals[:, :-1], totals[:, -1:])
            figures |= {f"{rule}.{name}": ratios[:, k] for k, rule in enumerate(spent)}
        return figures

    def _prices(self) -> dict[str, tuple[FloatArray, FloatArray, FloatArray]]:
        """Members, oracle and operating point, float [n] each, in USD and in FLOPs."""
        rows = self.outcomes
        return {
            "cost_ratio": (
                np.sum(rows.member_cost_usd, axis=1),
                rows.oracle_cost_usd,
                rows.final_cost_usd,
            ),
            "cost_ratio_flops": (
                np.sum(rows.member_flops, axis=1),
                rows.oracle_flops,
                rows.final_flops,
            ),
        }

    def _failure_scores(self, weights: FloatArray) -> dict[str, FloatArray]:
        rows = self.outcomes
        failed, vote_failed = ~rows.ensemble_correct, ~rows.vote_correct
        return {
            "failure_auroc": auroc(self._by_failure, failed, weights),
            "vote_failure_auroc": auroc(self._by_vote_failure, vote_failed, weights),
            "agreement_auroc": auroc(self._by_disagreement, vote_failed, weights),
            "failure_average_precision": average_precision(self._by_failure, failed, weights),
            "ece": calibration_error(rows.p_ensemble_fails, failed, weights),
            "brier": brier_score(rows.p_ensemble_fails, failed, weights),
        }

    def _along_the_curve(
        self, weights: FloatArray, figures: dict[str, FloatArray]
    ) -> dict[str, FloatArray]:
        """Figures that follow the router's order from no escalation to all."""
        rows, ranking = self.outcomes, self._by_failure
        order = ranking.order
        by_score = weights[:, order]  # [b, n]
        gain = rows.oracle_correct[order].astype(np.float64) - rows.ensemble_correct[order]
        weak, strong = figures["ensemble.accuracy"], figures["oracle.accuracy"]
        oracle_cost = rows.oracle_cost_usd[order]
        members_cost = weights @ np.sum(rows.member_cost_usd, axis=1)
        oracle_alone = weights @ rows.oracle_cost_usd

        rate = _from_zero(ranking.prefix_sums(by_score)) / rows.n  # [b, g + 1]
        gained = _from_zero(ranking.prefix_sums(by_score * gain)) / rows.n
        paid = _from_zero(ranking.prefix_sums(by_score * oracle_cost))

        def ratio_where(gain_needed: FloatArray) -> FloatArray:
            """Smallest cost ratio where the accuracy gained is enough; nan where it never is."""
            enough = gained >= (gain_needed - _SLACK)[:, None]
            first = np.argmax(enough, axis=1)[:, None]
            spent = members_cost + np.take_along_axis(paid, first, axis=1)[:, 0]
            return np.where(np.any(enough, axis=1), cost_ratio(spent, oracle_alone), np.nan)

        calls = figures["vote_rule.escalation_rate"] * rows.n
        before = np.cumsum(by_score, axis=1) - by_score
        asked = np.clip(calls[:, None] - before, 0.0, by_score)  # the first `calls` draws
        area = np.sum((gained[:, 1:] + gained[:, :-1]) / 2 * np.diff(rate, axis=1), axis=1)
        best_single = np.max(
            [
                strong,
                *(figures[f"members.{name}"] for name in rows.members),
                *(figures[f"mid_oracles.{name}"] for name in rows.mid_oracles),
            ],
            axis=0,
        )
        reached = figures["operating_point.accuracy"]
        return {
            "cost_ratio_at_parity": ratio_where(strong - weak),
            "router_at_vote_accuracy.cost_ratio": ratio_where(figures["vote_rule.accuracy"] - weak),
            "router_at_vote_cost.accuracy": weak + asked @ gain / rows.n,
            **{
                f"router_at_vote_cost.{name}": cost_ratio(
                    weights @ members + asked @ oracle[order], weights @ oracle
                )
                for name, (members, oracle, _) in self._prices().items()
            },
            "apgr": ratio(area, _whole(strong - weak)),
            "pgr": ratio(reached - weak, _whole(strong - weak)),
            "headroom_captured": ratio(
                reached - best_single, _whole(figures["hindsight.accuracy"] - best_single)
            ),
        }


def _differences(figures: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """Paired differences: what the router has over agreement, the vote rule and the oracle."""
    pairs = {
        "failure_auroc_minus_agreement_auroc": ("failure_auroc", "agreement_auroc"),
        "vote_failure_auroc_minus_agreement_auroc": ("vote_failure_auroc", "agreement_auroc"),
        "router_minus_vote_rule_accuracy_at_vote_cost": (
            "router_at_vote_cost.accuracy",
            "vote_rule.accuracy",
        ),
        "router_minus_vote_rule_cost_ratio_at_vote_accuracy": (
            "router_at_vote_accuracy.cost_ratio",
            "vote_rule.cost_ratio",
        ),
        "operating_point_minus_vote_rule_accuracy": (
            "operating_point.accuracy",
            "vote_rule.accuracy",
        ),
        "operating_point_minus_vote_rule_cost_ratio": (
            "operating_point.cost_ratio",
            "vote_rule.cost_ratio",
        ),
        "operating_point_minus_oracle_accuracy": ("operating_point.accuracy", "oracle.accuracy"),
    }
    return {
        f"differences.{name}": figures[left] - figures[right]
        for name, (left, right) in pairs.items()
    }


def _where(asked: BoolArray, cost: FloatArray) -> FloatArray:
    """Cost of the rows that are asked; an unknown cost that is not paid does not matter."""
    return np.where(asked, cost, 0.0)


def _from_zero(sums: FloatArray) -> FloatArray:
    return np.pad(sums, ((0, 0), (1, 0)))


def _whole(difference: FloatArray) -> NDArray[np.float64]:
    """A difference of two shares, exactly zero where rounding alone is left."""
    return np.where(np.abs(difference) < _SLACK, 0.0, difference)
