"""How often answers may differ from the oracle's while an operating point keeps its promise."""

from collections.abc import Sequence

import numpy as np

from pyramid_moa.training.outcomes import BoolArray, FloatArray
from pyramid_moa.training.risk_bounds import least_accuracy, mean_below_p_value
from pyramid_moa.training.targets import Target

__all__ = ["most_that_differ"]

# An audit's false alarms are 5 % at most: half of it is spent here, half where audits are counted.
_LEVEL = 0.025
_HALVINGS = 40


def most_that_differ(
    targets: Sequence[Target],
    *,
    correct: BoolArray,
    oracle_correct: BoolArray,
    may_differ: BoolArray,
    reference: str,
) -> float | None:
    """The share of all answers that may differ from the oracle's while targets are kept.

    A live audit knows no gold, only that an answer and the oracle's are not equal. Of these
    differences some cost no accuracy: the oracle was the one that was wrong, or both were. Accuracy
    lost is what differs less what is harmless, so that as much may differ as may be lost and is
    harmless together. What is harmless is bounded from the questions that the promise rests on;
    where the oracle's answers are the reference, nothing is.

    Args:
        targets: what is promised; of several accuracies the one that allows least counts.
        correct: whether the point's answer is right, bool [n].
        oracle_correct: whether the oracle's is, bool [n].
        may_differ: whether the two can differ, bool [n].
        reference: ``gold`` or ``oracle``: what "right" means.

    Returns:
        The share, 1 at most; None where accuracy has no part in what is promised.
    """
    accuracies = [target for target in targets if not target.is_cost]
    return min(
        (
            _differ(
                target, _LEVEL / len(accuracies), correct, oracle_correct, may_differ, reference
            )
            for target in accuracies
        ),
        default=None,
    )


def _differ(
    target: Target,
    level: float,
    correct: BoolArray,
    oracle_correct: BoolArray,
    may_differ: BoolArray,
    reference: str,
) -> float:
    n, lost = len(correct), target.value
    if target.kind == "target_accuracy":
        # What the oracle is worth is a guess of its own: no audit finds out.
        level /= 2
        wrong = int((~oracle_correct).sum())
        oracle = 1.0 if reference == "oracle" else 1.0 - least_accuracy(wrong, n, 1 - level)
        lost = max(oracle - target.value, 0.0)
    if reference == "oracle":
        return min(lost, 1.0)
    gained = correct & ~oracle_correct
    # A gain is worth a loss that is made up for.
    harmless = 2.0 * gained + (~correct & ~oracle_correct & may_differ)
    return min(lost + _largest_mean(harmless.astype(np.float64), 2.0, level), 1.0)


def _largest_mean(values: FloatArray, most: float, level: float) -> float:
    """The largest mean, of values from 0 to ``most``, that they do not speak against."""
    low, high = float(values.mean()), most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle < most and float(mean_below_p_value(values - middle, most - middle)) > level:
            low = middle
        else:
            high = middle
    return high
