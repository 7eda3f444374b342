"""What every set of members that have answered is worth: qualities, and the value of going on.

Legend: K settings of lambda, n queries, d features of a set.
"""

from dataclasses import dataclass

import numpy as np

from pyramid_moa.training.baselines.rule_run import Positions, RuleRun
from pyramid_moa.training.baselines.subset_votes import subset_vote
from pyramid_moa.training.baselines.text_design import TextDesign
from pyramid_moa.training.baselines.text_features import question_counts, question_numbers
from pyramid_moa.training.outcomes import FloatArray

__all__ = ["StateValues", "Step", "fit_state_values", "question_design"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """The steps there are from a set, and what each is worth.

    Attributes:
        stop: expected quality of the set's vote, float [n]; -inf for the empty set.
        oracle: expected quality of the oracle's answer, float [n].
        values: of stopping, of the oracle, and of each member in ``members``, less their costs,
            float [2 + members, K, n].
        members: those that have not answered.
    """

    stop: FloatArray
    oracle: FloatArray
    values: FloatArray
    members: list[int]


@dataclass(frozen=True, kw_only=True, eq=False)
class StateValues:
    """Fitted regressions of every set.

    Attributes:
        design: of the question's text.
        ridges: one a set.
        members: m.
        prices: what each model's call costs in expected accuracy, float [K, m + 1].
    """

    design: TextDesign
    ridges: "list[_Ridge]"
    members: int
    prices: FloatArray

    def step(self, data: RuleRun, subset: int, positions: Positions) -> Step:
        """Look at the steps from a set, for queries whose answers of the set are known."""
        columns = _columns(self.design, data, subset, positions)
        return _step(self.ridges[subset].predict(columns), subset, self.members, self.prices)


def question_design(data: RuleRun, train: Positions, *, directions: int, seed: int) -> TextDesign:
    """Fit the embedding of questions on training queries."""
    return TextDesign(
        question_counts(data)[train],
        question_numbers(data)[train],
        directions=directions,
        seed=seed,
    )


def fit_state_values(
    data: RuleRun, train: Positions, design: TextDesign, *, lambdas: FloatArray, penalty: float
) -> StateValues:
    """Fit every set, from the largest to the empty one.

    Args:
        data: the run.
        train: positions of the queries that are fitted on.
        design: of their questions.
        lambdas: accuracy that the price of one oracle call has to buy, [K]; with none of them
            only qualities are fitted.
        penalty: of the ridge regressions.
    """
    members = data.members
    cost = data.cost[train].mean(axis=0)
    prices = lambdas[:, None] * cost / cost[-1]  # [K, m + 1]
    correct = data.correct[train].astype(np.float64)
    sets = 1 << members
    ridges: list[_Ridge | None] = [None] * sets
    worth: dict[int, FloatArray] = {}  # [K, n] by set
    for subset in reversed(range(sets)):
        columns = _columns(design, data, subset, train)
        stop = (
            np.take_along_axis(correct, subset_vote(data, subset).answer[train, None], axis=1)
            if subset
            else np.zeros((len(train), 1))
        )
        later = [worth[subset | 1 << j].T for j in _others(subset, members)]
        targets = np.hstack([stop, correct[:, [data.oracle]], *later])
        ridge = _fit_ridge(columns, targets, penalty)
        ridges[subset] = ridge
        worth[subset] = _step(ridge.predict(columns), subset, members, prices).values.max(axis=0)
    return StateValues(
        design=design,
        ridges=[ridge for ridge in ridges if ridge is not None],
        members=members,
        prices=prices,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ridge:
    centre: FloatArray  # [d]
    scale: FloatArray  # [d]
    slopes: FloatArray  # [d, targets]
    offsets: FloatArray  # [targets]

    def predict(self, columns: FloatArray) -> FloatArray:
        values: FloatArray = ((columns - self.centre) / self.scale) @ self.slopes + self.offsets
        return values


def _fit_ridge(columns: FloatArray, targets: FloatArray, penalty: float) -> _Ridge:
    centre, spread = columns.mean(axis=0), columns.std(axis=0)
    scale = np.where(spread > 1e-12, spread, 1.0)
    scaled = (columns - centre) / scale
    offsets = targets.mean(axis=0)
    gram = scaled.T @ scaled + penalty * np.eye(scaled.shape[1])
    slopes = np.linalg.solve(gram, scaled.T @ (targets - offsets))
    return _Ridge(centre=centre, scale=scale, slopes=slopes, offsets=offsets)


def _step(predicted: FloatArray, subset: int, members: int, prices: FloatArray) -> Step:
    """Bring predictions [n, 2 + others * K] into order."""
    others, settings = _others(subset, members), len(prices)
    stop, oracle = np.clip(predicted[:, :2].T, 0.0, 1.0)
    if not subset:
        stop = np.full_like(stop, -np.inf)  # nobody has answered yet
    later = predicted[:, 2:].T.reshape(len(others), settings, len(predicted))
    values = np.concatenate(
        [
            np.broadcast_to(stop, (1, settings, len(stop))),
            (oracle - prices[:, -1:])[None],
            later - prices.T[others][:, :, None],
        ]
    )
    return Step(stop=stop, oracle=oracle, values=values, members=others)


def _others(subset: int, members: int) -> list[int]:
    return [member for member in range(members) if not subset >> member & 1]


def _columns(design: TextDesign, data: RuleRun, subset: int, positions: Positions) -> FloatArray:
    about = design.columns(question_counts(data)[positions], question_numbers(data)[positions])
    if not subset:
        return about
    return np.hstack([about, subset_vote(data, subset).features[positions]])
