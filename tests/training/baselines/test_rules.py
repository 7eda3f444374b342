"""What holds of every rule: no leak, no chance, every call paid for."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.errors import ConfigError
from pyramid_moa.records import LogprobStatistics
from pyramid_moa.training.baselines.all_rules import all_rules, chosen_rules
from pyramid_moa.training.baselines.fixed_rules import ALL_AGREE
from pyramid_moa.training.baselines.ours import OurRule
from pyramid_moa.training.baselines.ours_anytime import AnytimeRule
from pyramid_moa.training.baselines.rule_run import rule_run
from pyramid_moa.training.head_to_head_cells import compute_cell
from pyramid_moa.training.state_fit import lambdas
from synthetic import quick_config, write_run

RULES = {rule.name: rule for rule in all_rules(quick_config())}
LEARNED = (
    "router",
    "router-anytime",
    "cascade-routing",
    "query-only",
    "scorer",
    "self-check",
    "hidden-probe",
)
HONEST = [name for name in RULES if name != "hindsight"]


def with_confidence(run):
    """Members that are surer where they are right."""
    rng = np.random.default_rng(0)
    generations = {
        name: [
            row if row.error else replace(row, confidence=float(row.correct + rng.normal()))
            for row in rows
        ]
        for name, rows in run.generations.items()
    }
    return replace(run, generations=generations)


def nobody(question):
    """No question of a pool is held out: there is no pool."""
    return False


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = write_run(tmp_path_factory.mktemp("runs") / "run", count=240, seed=3)
    return with_confidence(read_labelled_run(path))


@pytest.fixture(scope="module")
def data(run):
    return rule_run(run)


@pytest.fixture(scope="module")
def parts(data):
    order = np.random.default_rng(0).permutation(data.n)
    return np.sort(order[:180]), np.sort(order[180:])


@pytest.fixture(scope="module")
def fitted(data, parts):
    return {name: rule.fit(data, parts[0], 0, nobody) for name, rule in RULES.items()}


def other_labels(run, positions):
    """The same answers with every label of some queries turned round."""
    labels, generations = list(run.labels), {k: list(v) for k, v in run.generations.items()}
    queries = list(run.queries)
    for index in positions:
        own = labels[index]
        labels[index] = replace(
            own, vote_correct=not own.vote_correct, oracle_correct=not own.oracle_correct
        )
        queries[index] = replace(queries[index], gold="-1")
        for rows in generations.values():
            rows[index] = replace(rows[index], correct=not rows[index].correct)
    return replace(run, labels=labels, generations=generations, queries=queries)


def same(first, second):
    assert (first.called == second.called).all()
    assert (first.answer == second.answer).all()
    assert (first.failure is None) == (second.failure is None)
    if first.failure is not None:
        assert (first.failure.values == second.failure.values).all()
        assert (first.failure.answer == second.failure.answer).all()


@pytest.mark.parametrize("name", HONEST)
def test_test_labels_have_no_part(name, run, data, parts, fitted):
    train, test = parts
    turned = rule_run(other_labels(run, test))
    assert (turned.correct[test] != data.correct[test]).mean() > 0.9
    again = RULES[name].fit(turned, train, 0, nobody)
    same(again.train, fitted[name].train)
    same(again.decide(turned, test), fitted[name].decide(data, test))


def test_hindsight_alone_reads_them(run, data, parts, fitted):
    turned = rule_run(other_labels(run, parts[1]))
    choices = [fitted["hindsight"].decide(own, parts[1]) for own in (data, turned)]
    assert (choices[0].called != choices[1].called).any()


@pytest.mark.parametrize("name", LEARNED)
def test_training_labels_decide(name, run, data, parts, fitted):
    train, test = parts
    other = RULES[name].fit(rule_run(other_labels(run, train[::2])), train, 0, nobody)
    before, after = fitted[name].decide(data, test), other.decide(data, test)
    assert (before.failure.values != after.failure.values).any()


@pytest.mark.parametrize("name", RULES)
def test_the_shapes(name, data, parts, fitted):
    settings = len(fitted[name].dial)
    for positions, choices in (
        (parts[0], fitted[name].train),
        (parts[1], fitted[name].decide(data, parts[1])),
    ):
        assert choices.called.shape == (settings, len(positions), data.members + 1)
        assert choices.answer.shape == (settings, len(positions))
        # Whose answer is given was asked; for the vote at least one member.
        for column in range(data.members + 1):
            given = choices.answer == column
            assert choices.called[given][:, column].all()
        voted = choices.answer == data.vote
        assert choices.called[voted][:, :-1].any(axis=-1).all()


@pytest.mark.parametrize("name", LEARNED)
def test_scores_are_better_than_chance_where_there_is_a_signal(name, data, parts, fitted):
    failure = fitted[name].decide(data, parts[1]).failure
    auroc = roc_auc_score(data.vote_fails[parts[1]], failure.values)
    # The text of the question carries nothing in these sums, nor do texts without slips.
    assert auroc > {"query-only": 0.2, "scorer": 0.3, "self-check": 0.6}.get(name, 0.7)


def test_out_of_fold_scores_are_not_those_of_the_fit(data, parts):
    """On labels of pure chance a fit knows its own queries; out-of-fold scores don't."""
    train, _ = parts
    rng = np.random.default_rng(5)
    for name in ("query-only", "hidden-probe", "router"):
        aurocs = []
        for _ in range(2):
            correct = data.correct.copy()
            correct[:, data.vote] = rng.random(data.n) < 0.5
            correct[:, data.oracle] = ~correct[:, data.vote]
            labels = [
                replace(label, vote_correct=bool(own), oracle_correct=not own)
                for label, own in zip(data.run.labels, correct[:, data.vote], strict=True)
            ]
            chance = replace(
                data, correct=correct, run=replace(data.run, labels=labels), _remembered={}
            )
            scores = RULES[name].fit(chance, train, 0, nobody).train.failure.values
            aurocs.append(roc_auc_score(chance.vote_fails[train], scores))
        assert np.mean(aurocs) < 0.62, name


def test_the_vote_rule(data, parts, fitted):
    choices = fitted["vote"].decide(data, parts[1])
    assert fitted["vote"].dial == pytest.approx([0, 2 / 3, ALL_AGREE, 2])
    share, empty = data.share[parts[1]], data.winner[parts[1]] < 0
    asked = choices.called[..., data.oracle]
    assert (asked[0] == empty).all()
    assert (asked[1] == (share < 0.6)).all()
    assert (asked[2] == (share < 0.99)).all()
    assert asked[3].all()
    assert choices.called[..., :-1].all()


def test_random_asks_for_the_share_of_its_dial(data, parts, fitted):
    asked = fitted["random"].decide(data, parts[1]).called[..., data.oracle].mean(axis=1)
    assert asked == pytest.approx(fitted["random"].dial, abs=0.15)
    assert (np.diff(asked) >= 0).all()


def test_hindsight_wins_what_can_be_won(data, parts):
    cell = compute_cell(RULES["hindsight"], data, *parts, 0)
    correct = data.correct[parts[1]]
    either = correct[:, data.oracle] | correct[:, data.vote]
    assert cell.correct[0].mean() == correct[:, data.vote].mean()
    assert cell.correct[-1].mean() == either.mean()
    assert cell.escalated[-1].sum() == (either & ~correct[:, data.vote]).sum()


def test_query_only_skips_the_members_where_it_escalates(data, parts, fitted):
    called = fitted["query-only"].decide(data, parts[1]).called
    asked = called[..., data.oracle]
    assert (called[..., :-1] == ~asked[..., None]).all()
    cell = compute_cell(RULES["query-only"], data, *parts, 0)
    assert cell.cost[-1] == pytest.approx(data.cost[parts[1], data.oracle])
    assert cell.cost[0] == pytest.approx(data.cost[parts[1], :-1].sum(axis=1))


@pytest.mark.parametrize("name", ["scorer", "self-check"])
def test_cascades_begin_with_the_cheapest_and_keep_their_budgets(name, data, parts, fitted):
    cell = compute_cell(RULES[name], data, *parts, 0)
    cheapest = data.cost[parts[0], :-1].mean(axis=0).argmin()
    assert cell.train_cost[0] == pytest.approx(data.cost[parts[0], cheapest].mean())
    low, high = cell.train_cost[0], data.cost[parts[0]].sum(axis=1).mean()
    budgets = np.linspace(low, high, len(cell.dial))
    assert (cell.train_cost <= budgets * (1 + 1e-9)).all()
    assert (np.diff(cell.train_accuracy) >= 0).all()


@pytest.mark.parametrize("name", ["cascade-routing", "router-anytime"])
def test_steps_spend_more_as_lambda_falls(name, data, parts):
    cell = compute_cell(RULES[name], data, *parts, 0)
    steps = len(lambdas())
    assert (np.diff(cell.dial[:steps]) < 0).all()
    assert cell.train_cost[0] < 0.3 * cell.train_cost[steps - 1]
    assert cell.train_accuracy[steps - 1] > cell.train_accuracy[0]
    # No member is asked twice, and nobody after the oracle: at most all of them.
    assert (cell.cost <= data.cost[parts[1]].sum(axis=1) + 1e-12).all()


@pytest.mark.parametrize("name", HONEST)
def test_one_class_in_training(name, run, parts):
    """A vote that never fails teaches nothing: a documented fallback, no error and no nan."""
    train, test = parts
    generations = {
        model: [replace(row, correct=True) for row in rows]
        for model, rows in run.generations.items()
    }
    labels = [replace(label, vote_correct=True, oracle_correct=True) for label in run.labels]
    sure = rule_run(replace(run, labels=labels, generations=generations))
    fitted = RULES[name].fit(sure, train, 0, nobody)
    choices = fitted.decide(sure, test)
    if choices.failure is not None:
        assert np.isfinite(choices.failure.values).all()
    assert fitted.fell_back == (name in LEARNED and name != "cascade-routing")


def test_what_is_absent(imported_run, data):
    imported = rule_run(read_labelled_run(imported_run))
    assert "hidden states" in RULES["hidden-probe"].absent(imported)
    assert "confidence" in RULES["self-check"].absent(imported)
    assert all(rule.absent(data) is None for rule in RULES.values())


def test_self_check_reads_log_probabilities_where_no_confidence_was_recorded(run, parts):
    """The logistic curves take any scale: a confidence and a log-probability decide alike."""
    train, test = parts
    rule = RULES["self-check"]

    def moved(row):
        return replace(row, confidence=None, logprobs=LogprobStatistics(mean=row.confidence))

    members = run.manifest.members
    generations = dict(run.generations)
    generations |= {name: [moved(row) for row in run.generations[name]] for name in members}
    data, other = rule_run(run), rule_run(replace(run, generations=generations))
    assert rule.absent(other) is None
    first, second = (rule.fit(own, train, 0, nobody).decide(own, test) for own in (data, other))
    same(first, second)

    first_answer = int(np.flatnonzero(data.clusters[:, 1] >= 0)[0])
    rows = list(generations[members[1]])
    rows[first_answer] = replace(rows[first_answer], logprobs=None)
    lacking = rule_run(replace(run, generations=generations | {members[1]: rows}))
    assert "token log-probabilities" in rule.absent(lacking)


def test_rules_by_name():
    config = quick_config()
    assert [rule.name for rule in chosen_rules(config, ["scorer"])] == ["vote", "scorer"]
    assert len(chosen_rules(config, None)) == len(RULES)
    with pytest.raises(ValueError, match=r"expected rules among vote, router.*found oracle"):
        chosen_rules(config, ["oracle"])


def test_anytime_may_ask_everybody_as_the_router_does(data, parts, fitted):
    """The router's own settings follow those of the steps, and decide alike."""
    anytime, router = (fitted[name].decide(data, parts[1]) for name in ("router-anytime", "router"))
    settings = len(router.answer)
    assert (anytime.answer[-settings:] == router.answer).all()
    assert (anytime.called[-settings:] == router.called).all()
    assert (anytime.failure.values == router.failure.values).all()
    # Before them the oracle is asked at once, and nobody beside it.
    alone = -settings - 1
    assert fitted["router-anytime"].dial[alone] < 0
    assert (anytime.answer[alone] == data.oracle).all()
    assert anytime.called[alone, :, data.oracle].all()
    assert not anytime.called[alone, :, : data.oracle].any()
    # Step by step not everybody is asked, and not in the same order.
    asked = anytime.called[:alone, :, :-1].mean(axis=(0, 1))
    assert (asked > 0).any()
    assert asked.mean() < 1


def test_anytime_falls_back_with_the_same_dial(run, data, parts, fitted):
    """A fold in which nothing can be learned stands beside others in which something was."""
    train, test = parts
    fitted_on = set(train.tolist())
    labels = [
        replace(label, vote_correct=True) if i in fitted_on else label
        for i, label in enumerate(run.labels)
    ]
    generations = {
        model: [replace(row, correct=True) if i in fitted_on else row for i, row in enumerate(rows)]
        for model, rows in run.generations.items()
    }
    sure = rule_run(replace(run, labels=labels, generations=generations))
    cell = compute_cell(RULES["router-anytime"], sure, train, test, 0)
    assert bool(cell.fell_back)
    assert (cell.dial == fitted["router-anytime"].dial).all()
    steps = len(lambdas())
    assert not cell.escalated[:steps].any()
    assert cell.escalated[-1].all()
    with pytest.raises(ConfigError, match="a router of all labels, found 50"):
        AnytimeRule(router=OurRule(config=quick_config(), labels=50))
