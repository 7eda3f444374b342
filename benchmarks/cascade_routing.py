"""Cascade routing as its authors wrote it, beside the benchmark's own, on the same qualities.

    git clone https://github.com/eth-sri/cascade-routing build/source
    git -C build/source checkout 1788b90
    pip install hyperopt loguru
    python benchmarks/cascade_routing.py --source build/source --data ../shared/data

Their `CascadeRouter` (which needs those packages) is given for every set of members
that have answered what our rule reads too: ridge regressions of every model's correctness on the
question and on the set's agreement, with their default covariances; and the models' mean costs. It
looks for the best set of models still to be asked and answers with the most promising one's answer.
Ours goes backwards through the sets and answers with the vote. Both run at the same settings of
lambda. 5 folds by question, seed 0; curves are hulls of all settings (AIQ), paired 95 % intervals
over questions. Neither their code nor the folder of recorded answers is part of this repository.
"""

import argparse
import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from suite import import_pyramid, read_suite

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.progress import Progress
from pyramid_moa.training.baselines.cascade_routing import CascadeRoutingRule
from pyramid_moa.training.baselines.rule_run import Positions, RuleRun, rule_run
from pyramid_moa.training.baselines.subset_votes import subset_vote
from pyramid_moa.training.baselines.text_design import TextDesign
from pyramid_moa.training.baselines.text_features import question_counts, question_numbers
from pyramid_moa.training.bootstrap import percentile_interval
from pyramid_moa.training.csv_table import csv_text
from pyramid_moa.training.head_to_head_cells import CellCache
from pyramid_moa.training.head_to_head_curves import average_improvement
from pyramid_moa.training.head_to_head_folds import folds_of
from pyramid_moa.training.head_to_head_pooling import question_weights
from pyramid_moa.training.outcomes import FloatArray
from pyramid_moa.training.state_fit import lambdas as all_lambdas

PYRAMIDS = ("gsm8k-easy-70b", "math-l5-hard-gpt-4o", "crux-hard-claude-3.5")
_FOLDS, _SEED = 5, 0
_PENALTIES = (1.0, 10.0, 100.0, 1000.0)  # as ours tries
_DIRECTIONS = 8


def main() -> None:
    """Run both on some pyramids and write cascade_routing.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=Path("build/source"), help="their checkout")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/cascade-routing"))
    parser.add_argument("--pyramids", nargs="+", default=list(PYRAMIDS))
    parser.add_argument("--lambdas", type=int, default=18, help="settings of both dials")
    options = parser.parse_args()
    known = [pyramid.name for pyramid in read_suite().pyramids]
    if strangers := sorted(set(options.pyramids) - set(known)):
        parser.error(f"no pyramid {', '.join(strangers)}; there are {', '.join(known)}")
    for folder, what in ((options.data, "recorded answers"), (options.source, "source of theirs")):
        if not folder.is_dir():
            sys.stdout.write(f"{folder}: no {what} here; see --help\n")
            return
    theirs = _load(options.source)
    cache = CellCache(options.out / "cache")
    rows = []
    for pyramid in read_suite().pyramids:
        if pyramid.name not in options.pyramids:
            continue
        run = options.out / "runs" / pyramid.name
        if not run.exists():
            import_pyramid(pyramid, options.data, run.parent)
        data = rule_run(read_labelled_run(run))
        rows.append(compare(pyramid.name, data, theirs, cache, lambdas=options.lambdas))
        sys.stdout.write(f"{rows[-1]}\n")
        sys.stdout.flush()
    write_text_atomically(options.out / "cascade_routing.csv", csv_text(rows))
    sys.stdout.write(f"table: {options.out / 'cascade_routing.csv'}\n")


def compare(
    name: str, data: RuleRun, theirs: types.SimpleNamespace, cache: CellCache, *, lambdas: int
) -> dict[str, Any]:
    """Cross-validate both on a run; AIQ of each, and theirs less ours with its interval."""
    division = folds_of(data.hashes, folds=_FOLDS, seed=_SEED, name=name)
    rule = CascadeRoutingRule()
    # Hulls over all settings favour whoever has more of them: both have the same.
    places = np.linspace(0, len(all_lambdas()) - 1, lambdas).round().astype(int)
    settings = all_lambdas()[places]
    ours = [np.zeros((lambdas, data.n)) for _ in range(2)]
    own = [np.zeros((lambdas, data.n)) for _ in range(2)]
    with Progress(name, total=2 * _FOLDS) as progress:
        for fold in range(_FOLDS):
            train, test = np.flatnonzero(division != fold), np.flatnonzero(division == fold)
            cell = cache.cell(rule, data, division, folds=_FOLDS, fold=fold, seed=_SEED)
            assert np.array_equal(cell.dial, all_lambdas())
            ours[0][:, test], ours[1][:, test] = cell.correct[places], cell.cost[places]
            progress.advance(note=f"fold {fold + 1}, ours")
            for columns, found in zip(
                own, their_choices(data, train, test, theirs, settings), strict=True
            ):
                columns[:, test] = found
            progress.advance(note=f"fold {fold + 1}, theirs")
    weights = question_weights({name: data.hashes}, seed=0, resamples=1000)[name]
    oracle = weights @ data.cost[:, data.oracle]
    most = float(data.cost.sum() / data.cost[:, data.oracle].sum())

    def aiq(correct: FloatArray, cost: FloatArray) -> FloatArray:
        accuracy = weights @ correct.T / weights.sum(axis=1, keepdims=True)
        return average_improvement(weights @ cost.T / oracle[:, None], accuracy, most)

    values = {"theirs": aiq(own[0], own[1]), "ours": aiq(ours[0], ours[1])}
    less = values["theirs"] - values["ours"]
    low, high = percentile_interval(less[1:]) or (None, None)
    return {
        "pyramid": name,
        "n": data.n,
        **{f"aiq_{whose}": float(value[0]) for whose, value in values.items()},
        "theirs_less_ours": float(less[0]),
        "interval_low": low,
        "interval_high": high,
    }


def their_choices(
    data: RuleRun,
    train: Positions,
    test: Positions,
    theirs: types.SimpleNamespace,
    settings: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Whether their answer is right, and what it cost in USD, [K, n] each."""
    models = [*np.argsort(data.cost[train, :-1].mean(axis=0), kind="stable").tolist(), data.oracle]
    qualities = expected_correctness(data, train, models)
    computer = theirs.quality(qualities, len(models))
    everybody = [[True] * len(models)] * len(train)
    computer.fit_covariances(train.tolist(), everybody)
    mean = data.cost[train][:, models].mean(axis=0)
    router = theirs.router(
        quality_computer=computer,
        cost_computer=theirs.cost(mean / mean[-1]),
        models=list(range(len(models))),
        max_expected_cost=np.inf,
        force_order=False,
    )
    router.gamma = 0.0
    correct, cost = np.zeros((len(settings), len(test))), np.zeros((len(settings), len(test)))
    for place, value in enumerate(settings):
        router.lambdas = [float(value)] * len(models)
        for number, position in enumerate(test.tolist()):
            answers: list[Any] = [None] * len(models)
            while (chosen := router.predict([position], [answers])[0]) is not None:
                answers[chosen] = True
                cost[place, number] += data.cost[position, models[chosen]]
            given = models[router.select_answer([position], [answers])[0]]
            correct[place, number] = data.correct[position, given]
    return correct, cost


def expected_correctness(
    data: RuleRun, train: Positions, models: list[int]
) -> Callable[[int, frozenset[int]], FloatArray]:
    """Every model's expected correctness, float [models], of a query and who has answered."""
    from sklearn.linear_model import RidgeCV

    counts, numbers = question_counts(data), question_numbers(data)
    design = TextDesign(counts[train], numbers[train], directions=_DIRECTIONS, seed=_SEED)
    about = design.columns(counts, numbers)
    tables = {}
    for subset in range(1 << data.members):
        columns = about
        if subset:
            columns = np.hstack([about, subset_vote(data, subset).features])
        centre, spread = columns[train].mean(axis=0), columns[train].std(axis=0)
        scaled = (columns - centre) / np.where(spread > 0, spread, 1.0)
        fits = [RidgeCV(_PENALTIES).fit(scaled[train], data.correct[train, m]) for m in models]
        tables[subset] = np.column_stack([fit.predict(scaled) for fit in fits])

    def of(position: int, answered: frozenset[int]) -> FloatArray:
        # What the oracle says is not read: asking it is the last step of ours.
        subset = sum(1 << models[place] for place in answered if models[place] != data.oracle)
        row: FloatArray = tables[subset][position]
        return row

    return of


def _load(source: Path) -> types.SimpleNamespace:
    """Their classes, without their package's own imports of API clients."""
    package = types.ModuleType("selection")
    package.__path__ = [str(source / "src" / "selection")]
    sys.modules["selection"] = package
    router = importlib.import_module("selection.cascade_router").CascadeRouter
    quality = importlib.import_module("selection.quality_computer").BaseQualityComputer
    cost = importlib.import_module("selection.cost_computer").BaseCostComputer

    class Quality(quality):
        is_independent = False  # as in their classification

        def __init__(self, of: Callable[[int, frozenset[int]], FloatArray], models: int) -> None:
            super().__init__()
            self._of, self._models = of, models

        def predict(
            self, questions: list[int], model_answers: list[list[Any]]
        ) -> tuple[FloatArray, object]:
            answered = [
                frozenset(i for i, answer in enumerate(own) if answer is not None)
                for own in model_answers
            ]
            rows = [self._of(*pair) for pair in zip(questions, answered, strict=True)]
            return np.array(rows), self.predict_covariances(questions, model_answers)

    class Cost(cost):
        def __init__(self, mean: FloatArray) -> None:
            super().__init__()
            self._mean = mean

        def predict(self, questions: list[int], model_answers: list[list[Any]]) -> FloatArray:
            return np.tile(self._mean, (len(questions), 1))

    return types.SimpleNamespace(router=router, quality=Quality, cost=Cost)


if __name__ == "__main__":
    main()
