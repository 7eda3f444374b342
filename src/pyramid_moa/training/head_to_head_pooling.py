"""Means over runs, and paired bootstrap intervals over the questions that the runs share.

A resample draws questions, not rows: a question that stands in several runs is drawn for all of
them at once. Legend: b resamples, the first of which is the sample itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pyramid_moa.training.bootstrap import percentile_interval, resample_weights
from pyramid_moa.training.head_to_head_curves import cost_to_reach
from pyramid_moa.training.head_to_head_figures import RELATIVE_COSTS
from pyramid_moa.training.outcomes import FloatArray

__all__ = ["Estimate", "Measured", "Pool", "question_weights"]

Hashes = Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: the figure, None where it is undefined.
        interval: 95 %, ``[low, high]``, None where it is unknown.
        runs: over how many runs it is a mean.
    """

    value: float | None
    interval: list[float] | None
    runs: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """A rule on a run.

    Attributes:
        run: its name.
        rule: its name.
        figures: by figure its values, float [b].
        relative: accuracy less ABC's at costs relative to ABC's, float [b, places].
    """

    run: str
    rule: str
    figures: Mapping[str, FloatArray]
    relative: FloatArray


def question_weights(
    runs: Mapping[str, Hashes], *, seed: int, resamples: int
) -> dict[str, FloatArray]:
    """Weigh every run's queries by how often their questions were drawn.

    Args:
        runs: by run the hashes of its n questions.
        seed: of the resamples.
        resamples: how many.

    Returns:
        By run float [1 + resamples, n]; the first row is all ones.
    """
    questions = sorted({text for hashes in runs.values() for text in hashes})
    place = {text: number for number, text in enumerate(questions)}
    drawn = resample_weights(len(questions), seed=seed, resamples=resamples)
    weights = np.concatenate([np.ones((1, len(questions))), *drawn])
    return {name: weights[:, [place[text] for text in hashes]] for name, hashes in runs.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Rules on some runs, and the vote rule on the same.

    Attributes:
        measured: one a run and rule.
        reference: the rule that others are compared with.
    """

    measured: Sequence[Measured]
    reference: str = "vote"
    _by_rule: dict[str, dict[str, Measured]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Sort by rule and run."""
        for entry in self.measured:
            self._by_rule.setdefault(entry.rule, {})[entry.run] = entry

    @property
    def rules(self) -> list[str]:
        """Names, in the order in which they were measured."""
        return list(self._by_rule)

    def runs(self, rule: str) -> list[str]:
        """Runs that a rule was measured on."""
        return list(self._by_rule[rule])

    def values(self, rule: str, name: str) -> dict[str, float]:
        """A figure on each run that a rule was measured on; nan where it is undefined."""
        return {run: float(own.figures[name][0]) for run, own in self._by_rule[rule].items()}

    def figure(self, rule: str, name: str) -> Estimate:
        """Mean over the runs on which it is defined, for the reference as well if for any.

        So means of rules with other cheapest settings are over the same runs.
        """
        others = self._by_rule[self.reference]
        known = {run for run, entry in others.items() if np.isfinite(entry.figures[name][0])}
        return _mean(
            [
                entry.figures[name]
                for run, entry in self._by_rule[rule].items()
                if run in known or not known
            ]
        )

    def difference(self, rule: str, name: str) -> Estimate:
        """Mean over runs of the difference to the reference, where both are defined."""
        others = self._by_rule[self.reference]
        return _mean(
            [
                entry.figures[name] - others[run].figures[name]
                for run, entry in self._by_rule[rule].items()
                if run in others
            ]
        )

    def relative_curve(self, rule: str) -> FloatArray:
        """Mean over runs of accuracy less ABC's, float [b, places]; nan where a run lacks it."""
        curves = [entry.relative for entry in self._by_rule[rule].values()]
        mean: FloatArray = np.mean(curves, axis=0)
        return mean

    def cost_at_abc_accuracy(self, rule: str) -> Estimate:
        """Where the mean relative curve reaches ABC's accuracy: cost over ABC's.

        It begins where every run's curve does. Where ABC's accuracy is reached there already, it is
        that cost, which is then too large.
        """
        curve = self.relative_curve(rule)
        known = np.isfinite(curve[0])
        if not known.any():
            return Estimate(value=None, interval=None, runs=len(self.runs(rule)))
        shown = curve[:, known]
        # A resample may begin a place later than the sample itself.
        shown = np.where(np.isfinite(shown), shown, shown[[0]])
        at = np.broadcast_to(RELATIVE_COSTS[known], shown.shape)
        values = cost_to_reach(at, shown, np.zeros(len(shown)))
        return _estimate(values, runs=len(self.runs(rule)))


def _mean(values: Sequence[FloatArray]) -> Estimate:
    """Mean of [b] values over the runs for which the sample itself has one."""
    defined = [own for own in values if np.isfinite(own[0])]
    if not defined:
        return Estimate(value=None, interval=None, runs=0)
    stacked = np.array(defined)
    known = np.isfinite(stacked)
    counts = known.sum(axis=0)
    sums = np.where(known, stacked, 0.0).sum(axis=0)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return _estimate(means, runs=len(defined))


def _estimate(values: FloatArray, *, runs: int) -> Estimate:
    value = float(values[0]) if np.isfinite(values[0]) else None
    interval = percentile_interval(values[1:]) if value is not None and len(values) > 1 else None
    return Estimate(value=value, interval=interval, runs=runs)
