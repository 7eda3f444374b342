"""The same stored generations through evaluate and through the gate: the same to the last bit."""

import asyncio
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.inference.gate import Gate
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.evaluate import evaluate
from pyramid_moa.training.examples import gather_examples
from pyramid_moa.training.step_fit import scored_sets_of


@pytest.fixture
def captured(monkeypatch):
    """Whatever the network is given, and what it makes of it."""
    rows = []
    read = Router.read_evidence

    def remember(self, evidence, members, hidden):
        reading = read(self, evidence, members, hidden)
        parts = (evidence.answers, evidence.relations, evidence.clusters, evidence.question)
        seen = [part.tobytes() for part in parts]
        rows.append(((seen, list(members)), [v.tobytes() for v in hidden], reading.scores))
        return reading

    monkeypatch.setattr(Router, "read_evidence", remember)
    return rows


@pytest.fixture(params=["imported", "labelled", "vote"])
def setting(request, tmp_path):
    """Run folder and checkpoint: without and with hidden states and failed rows; the vote rule."""
    run = "imported" if request.param == "imported" else "labelled"
    checkpoint = {"imported": "trained", "labelled": "trained_on_hidden", "vote": None}
    name = checkpoint[request.param]
    router = shutil.copytree(request.getfixturevalue(name), tmp_path / "ck") if name else None
    return request.getfixturevalue(f"{run}_run"), router


def same_decisions(rows, decisions, queries):
    assert rows["query_id"] == [query.query_id for query in queries]
    for index, decision in enumerate(decisions):
        assert decision.query_id == rows["query_id"][index]
        assert decision.answer == rows["final_answer"][index], decision.query_id
        assert decision.ensemble_answer == rows["ensemble_answer"][index]
        assert decision.escalated == rows["escalated"][index]
        assert list(decision.models_called) == rows["models_called"][index]
        assert decision.p_ensemble_fails == rows["p_ensemble_fails"][index]
        assert decision.p_oracle_right == rows["p_oracle_right"][index]
        assert decision.cost_usd == pytest.approx(rows["cost"][index], rel=1e-12)


@pytest.mark.parametrize("how", ["sync", "async"])
def test_evaluate_and_the_gate_decide_alike(setting, captured, tmp_path, how):
    run, router = setting
    evaluate(run, tmp_path / "report", router=router, split="all")
    replayed = list(captured)
    captured.clear()
    rows = pq.read_table(tmp_path / "report" / "decisions.parquet").to_pydict()
    queries = read_labelled_run(run).queries
    with Gate.from_run(run, router=router) as gate:
        if how == "sync":
            decisions = gate.answer_many(queries)
        else:
            decisions = asyncio.run(gate.aanswer_many(queries))
    same_decisions(rows, decisions, queries)
    assert 0 < sum(rows["escalated"]) < len(queries)
    if router is not None:
        assert len(captured) == len(queries)
        # After these evaluate reads partial states, for the points that go step by step.
        assert captured == replayed[: len(queries)]


SEQUENTIAL = ["imported", "labelled", "three_tiers"]


@pytest.fixture(params=SEQUENTIAL)
def stepwise(request, tmp_path):
    """Run folder and checkpoint of pyramids that are asked step by step."""
    names = {
        "imported": ("imported_run", "trained"),
        "labelled": ("labelled_run", "trained_on_hidden"),
        "three_tiers": ("three_tier_run", "trained_on_three_tiers"),
    }
    run, router = (request.getfixturevalue(name) for name in names[request.param])
    return run, shutil.copytree(router, tmp_path / "ck")


def test_evaluate_and_the_gate_take_the_same_steps(stepwise, captured, tmp_path):
    run, router = stepwise
    evaluate(run, tmp_path / "report", router=router, split="all", policy="sequential")
    replayed = list(captured)
    captured.clear()
    rows = pq.read_table(tmp_path / "report" / "decisions.parquet").to_pydict()
    queries = read_labelled_run(run).queries
    with Gate.from_run(run, router=router, policy="sequential") as gate:
        decisions = gate.answer_many(queries)
        alone = [gate.answer_many([query])[0] for query in queries[:20]]
        live = asyncio.run(gate.aanswer_many(queries[:20]))
    paths = set()
    for index, decision in enumerate(decisions):
        assert decision.answer == rows["final_answer"][index]
        assert list(decision.models_called) == rows["models_called"][index]
        assert decision.escalated == rows["escalated"][index]
        assert decision.cost_usd == pytest.approx(rows["cost"][index], rel=1e-12)
        assert decision.policy == "sequential"
        paths.add(decision.path)
    assert len(paths) > 3  # some are content sooner than others
    for one, other, again in zip(decisions, alone, live, strict=False):
        assert (one.answer, one.path, one.reason) == (other.answer, other.path, other.reason)
        assert (one.answer, one.path, one.reason) == (again.answer, again.path, again.reason)
    # Beside everybody's score, which the report shows, both read the same sets bit by bit.
    seen = {repr(row) for row in replayed}
    assert all(repr(row) in seen for row in captured)


def test_a_router_scores_sets_live_as_in_training(stepwise):
    """What values of steps were fitted on is what the gate reads."""
    run, checkpoint = stepwise
    data, router = read_labelled_run(run), Router.load(checkpoint)
    key = router.card.hidden_key
    examples = gather_examples(data, router.features, hidden_key=key).take(range(40))
    evidence = scored_sets_of(router.network, examples)
    for index in range(40):
        question, answers = data.queries[index].question, data.answers_before_oracle(index)
        signs = router.question_columns(question)
        assert signs == pytest.approx(evidence.columns(0)[[index]], abs=1e-6)
        for subset in range(1, 1 << examples.members):
            asked = [name for place, name in enumerate(answers) if subset >> place & 1]
            live = router.read(question, {name: answers[name] for name in asked}).of_set
            assert live.columns == pytest.approx(evidence.columns(subset)[[index]], abs=1e-4)
            number = int(evidence.answer(subset)[index])
            assert number == (
                -1 if live.choice[0] < 0 else list(answers).index(asked[live.choice[0]])
            )


def test_a_run_with_a_mid_oracle_is_replayed_whole(three_tier_run):
    """Every model of it can be asked; members and oracle are those of the pyramid."""
    data = read_labelled_run(three_tier_run)
    with Gate.from_run(three_tier_run) as gate:
        decisions = gate.answer_many(data.queries)
        pyramid, asked = gate._pyramid, gate._backends["mid-oracle"]
        prompts = [pyramid.prompt.render(query.question) for query in data.queries]
        said = asked.generate(prompts, pyramid.sampling)
    assert pyramid.tiers == data.manifest.tiers
    assert [spec.price for spec in pyramid.models] == [cost.price for cost in data.manifest.costs]
    rows = data.generations["mid-oracle"]
    assert [getattr(outcome, "text", None) for outcome in said] == [row.response for row in rows]
    votes = [label.vote_answer for label in data.labels]
    assert [decision.ensemble_answer for decision in decisions] == votes


def test_one_query_alone_is_decided_as_among_others(setting, captured):
    run, router = setting
    queries = read_labelled_run(run).queries[:40]
    gate = Gate.from_run(run, router=router)
    together = gate.answer_many(queries)
    many = list(captured)
    captured.clear()
    alone = [gate.answer_many([query])[0] for query in reversed(queries)][::-1]
    assert captured[::-1] == many
    for one, other in zip(together, alone, strict=True):
        assert (one.answer, one.p_ensemble_fails) == (other.answer, other.p_ensemble_fails)


def test_failed_rows_were_among_them(labelled_run, trained_on_hidden):
    """What the run is built for: members and oracle that failed, on both ways."""
    queries = read_labelled_run(labelled_run).queries
    decisions = Gate.from_run(labelled_run, router=trained_on_hidden).answer_many(queries)
    failed = [[row.error is not None for row in decision.generations] for decision in decisions]
    assert failed[3][:3] == [True, False, False]
    assert failed[7] == [True, True, True, False]
    assert failed[8] == [True, True, True, True]
    assert decisions[7].answered_by == "oracle"
    assert decisions[8].degraded
    assert decisions[8].answer is None


def test_the_hidden_states_are_those_of_the_run(labelled_run, trained_on_hidden, captured):
    data = read_labelled_run(labelled_run)
    Gate.from_run(labelled_run, router=trained_on_hidden).answer_many(data.queries[:20])
    for index, (_, hidden, _) in enumerate(captured):
        for name, vector in zip(data.manifest.members, hidden, strict=True):
            stored = data.hidden_states[name]["layer-1/answer_mean"][index]
            assert vector == stored.astype(np.float16).tobytes()


def test_a_question_that_was_never_asked_fails_on_every_model(imported_run):
    decision = Gate.from_run(imported_run).answer("Who?")
    assert decision.degraded
    assert decision.generations[0].error == "no recorded answer of large"
