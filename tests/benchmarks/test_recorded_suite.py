"""The pyramids that the router is measured on are those that the draw's rules and seed give."""

import hashlib
from collections import Counter

import pytest
from draw_suite import draw_suite, suite_text
from suite import PRICES, SUITE, import_pyramid, read_suite

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.prices import read_prices
from pyramid_moa.data_prep.recorded_table import find_recording, read_recordings

# Of the files as they were before any router was fitted on these pyramids. Another draw is another
# suite: figures measured on this one do not carry over.
SUITE_SHA256 = "70a1c784881912fbcc0b8de1135d34f08e5e157aa00c323eb05699d8f10472fb"
PRICES_SHA256 = "a77722bf93156eef8ecfee431fe1a14e01f731ed6589783357e31e37987a1c2b"

PYRAMIDS = {pyramid.name: pyramid for pyramid in read_suite().pyramids}
MODELS = {
    name: [one.split("::")[0] for one in (*pyramid.members, pyramid.oracle)]
    for name, pyramid in PYRAMIDS.items()
}
every_pyramid = pytest.mark.parametrize("name", PYRAMIDS)


@pytest.mark.parametrize(("path", "digest"), [(SUITE, SUITE_SHA256), (PRICES, PRICES_SHA256)])
def test_the_files_are_those_that_were_drawn(path, digest):
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def test_the_seed_draws_the_same_suite_again(shared_data):
    drawn = draw_suite(shared_data, seed=read_suite().seed)
    assert drawn == read_suite()
    assert suite_text(drawn).encode() == SUITE.read_bytes()


def test_another_seed_draws_another_suite(shared_data):
    drawn = draw_suite(shared_data, seed=read_suite().seed + 1)
    members = [pyramid.members for pyramid in drawn.pyramids]
    assert sum(own.members not in members for own in PYRAMIDS.values()) > len(PYRAMIDS) / 2


def test_there_are_enough_of_every_kind():
    pyramids = PYRAMIDS.values()
    assert len(PYRAMIDS) == len(read_suite().pyramids) >= 12
    for p in pyramids:
        folder = "recorded/" if p.dataset == "gsm8k" else "recorded_other/"
        assert all(table.startswith(folder) for table in p.tables)
    assert Counter(p.dataset for p in pyramids) == {"gsm8k": 12, "math-l5": 4, "crux": 4}
    assert Counter(p.difficulty for p in pyramids) == {"easy": 6, "hard": 14}
    assert {p.oracle_class for p in pyramids} == {"70b", "100b", "gpt-4o", "claude-3.5"}
    assert {len(p.members) for p in pyramids} == {3, 4, 5}
    assert sum(p.kind == "samples" for p in pyramids) >= 2
    assert any(len(p.tables) > 2 for p in pyramids)
    assert any("chain_selfcheck" in table for p in pyramids for table in p.tables)


def test_no_two_have_the_same_members():
    members = {(p.dataset, *p.tables, *sorted(p.members)) for p in PYRAMIDS.values()}
    assert len(members) == len(PYRAMIDS)


@every_pyramid
def test_members_are_small_and_oracles_are_not(name):
    costs = read_prices(PRICES)
    *members, oracle = [costs[model] for model in MODELS[name]]
    assert 3 <= len(members) <= 5
    assert all(1e9 <= member.active_parameters <= 34.5e9 for member in members)
    if oracle.active_parameters is None:
        assert oracle.name.startswith(("gpt-4o", "chatgpt-4o", "claude-3-5-sonnet"))
        assert "mini" not in oracle.name
    else:
        assert oracle.active_parameters >= 60e9
    prices = [(model.price.input + model.price.output) / 2 for model in (*members, oracle)]
    assert prices[-1] >= 4 * max(prices[:-1])
    assert prices[-1] > sum(prices[:-1])


@every_pyramid
def test_every_price_has_a_source(name):
    costs = read_prices(PRICES)
    for model in MODELS[name]:
        assert "price" in costs[model].source
        assert ("size not published" in costs[model].source) == (
            costs[model].active_parameters is None
        )


@every_pyramid
def test_single_models_are_as_accurate_as_the_rules_want(name):
    pyramid = PYRAMIDS[name]
    accuracies = pyramid.member_accuracies
    mean = sum(accuracies) / len(accuracies)
    assert len(accuracies) == len(pyramid.members)
    assert mean >= 0.7499 if pyramid.difficulty == "easy" else mean <= 0.6501
    assert pyramid.oracle_accuracy >= max(accuracies) + 0.0399
    assert min(accuracies) >= 0.1999 * pyramid.oracle_accuracy
    assert min(accuracies) >= 0.3999 * max(accuracies)
    assert pyramid.questions >= 250


@every_pyramid
def test_members_are_different_models_or_samples_of_one(name):
    models = Counter(model.partition(" + adapter")[0] for model in MODELS[name][:-1])
    if PYRAMIDS[name].kind == "samples":
        assert len(models) == 1
        assert len({member.rsplit("::", 1)[0] for member in PYRAMIDS[name].members}) == 1
    else:
        assert max(models.values()) == 1


def test_names_fit_one_recording_each(shared_data):
    recordings = {
        table: read_recordings([shared_data / table])
        for table in {table for pyramid in PYRAMIDS.values() for table in pyramid.tables}
    }
    for pyramid in PYRAMIDS.values():
        within = [recording for table in pyramid.tables for recording in recordings[table]]
        chosen = [find_recording(within, name) for name in (*pyramid.members, pyramid.oracle)]
        shared = set.intersection(*(set(recording.rows) for recording in chosen))
        assert len(shared) == pyramid.questions
        for table in pyramid.tables:  # none is given that nobody is in
            assert any(one is own for one in chosen for own in recordings[table])


@pytest.mark.parametrize("name", ["gsm8k-hard-gpt-4o", "gsm8k-train-easy"])
def test_a_pyramid_becomes_a_run(name, shared_data, tmp_path):
    pyramid = PYRAMIDS[name]
    folder = import_pyramid(pyramid, shared_data, tmp_path)
    run = read_labelled_run(folder)
    assert folder == tmp_path / name
    assert run.manifest.members == pyramid.members
    assert run.manifest.oracle == pyramid.oracle
    assert run.manifest.reference == "gold"
    assert run.manifest.price_note == ""
    assert all(cost.source for cost in run.manifest.costs)
    assert len(run.queries) == pyramid.questions
    accuracies = [
        sum(bool(row.correct) for row in run.generations[model]) / len(run.queries)
        for model in run.manifest.models
    ]
    assert accuracies == pytest.approx(
        [*pyramid.member_accuracies, pyramid.oracle_accuracy], abs=5e-5
    )
    # The user's prices stand, not what the table says the recording has cost.
    row, cost = run.generations[pyramid.oracle][0], run.manifest.costs[-1]
    assert row.cost_usd == pytest.approx(
        (row.prompt_tokens * cost.price.input + row.completion_tokens * cost.price.output) / 1e6
    )
