"""The router on single questions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pyramid_moa.errors import CheckpointError
from pyramid_moa.records import Generation
from pyramid_moa.router_model.network import UNKNOWN, NetworkInputs
from pyramid_moa.router_model.router import Router

KEY = "layer-1/answer_mean"


def answers(hidden=None, **given):
    return {
        name: None
        if answer is None
        else Generation(
            query_id="q",
            model=name,
            response=f"It is {answer}",
            answer=answer,
            hidden_states=None if hidden is None else {KEY: hidden},
        )
        for name, answer in given.items()
    }


def test_scores_are_probabilities_and_always_the_same(make_router):
    router = make_router()
    given = answers(a="5", b="5", c="7")
    one = router.score("What?", given)
    assert 0 < one.p_ensemble_fails < 1
    assert 0 < one.p_vote_fails < 1
    assert 0 < one.p_oracle_right < 1
    assert router.score("What?", given) == one
    assert make_router().score("What?", given) == one


def from_network(router, question, given, numbers):
    """Probabilities [heads] and of every answer [M], by inputs that are put together by hand."""
    evidence = router.evidence(question, given)
    vectors = router.hidden_states(given)
    with torch.inference_mode():
        reduced = router.network.reduce(
            [torch.from_numpy(vector.astype(np.float32))[None] for vector in vectors]
        )
        probabilities, right = router.network.probabilities(
            NetworkInputs(
                answers=torch.from_numpy(evidence.answers)[None],
                relations=torch.from_numpy(evidence.relations)[None],
                clusters=torch.from_numpy(evidence.clusters)[None],
                question=torch.from_numpy(evidence.question)[None],
                members=torch.tensor([numbers]),
                components=reduced[:, [max(n, 0) for n in numbers]] if vectors else reduced,
            )
        )
    return probabilities[0].tolist(), right[0]


@pytest.mark.parametrize("hidden_key", [None, KEY])
@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ({"a": "5", "b": "5", "c": "7"}, [0, 1, 2]),
        ({"c": "5", "a": "7"}, [2, 0]),
        ({"b": "5", "stranger": "7", "another": "5"}, [1, UNKNOWN, UNKNOWN]),
        ({"a": None, "b": "7", "c": "8"}, [0, 1, 2]),
    ],
)
def test_the_score_is_the_networks(make_router, hidden_key, given, numbers):
    router = make_router(hidden_key=hidden_key)
    vector = np.linspace(-2, 2, 6).astype(np.float16) if hidden_key else None
    rows = answers(vector, **given)
    (fails, vote_fails, oracle), right = from_network(router, "What?", rows, numbers)
    scores = router.score("What?", rows)
    assert scores.p_ensemble_fails == fails
    assert scores.p_vote_fails == vote_fails
    assert scores.p_oracle_right == oracle
    assert scores.choice == int(right.argmax())
    chosen = list(rows.values())[scores.choice]
    assert chosen is not None
    assert chosen.answer is not None


def test_the_order_of_members_decides_nothing_but_ties(make_router):
    router = make_router()
    given = answers(a="5", b="5", c="7")
    turned = dict(reversed(given.items()))
    one, other = router.score("What?", given), router.score("What?", turned)
    assert one.p_ensemble_fails == pytest.approx(other.p_ensemble_fails, abs=1e-6)
    assert one.p_vote_fails == pytest.approx(other.p_vote_fails, abs=1e-6)
    assert one.p_oracle_right == pytest.approx(other.p_oracle_right, abs=1e-6)
    rows = [list(given.values())[one.choice], list(turned.values())[other.choice]]
    assert rows[0].answer == rows[1].answer


def test_a_member_that_was_not_asked_might_not_be_there(make_router):
    router = make_router()
    named = router.score("What?", answers(a="5", b="5", c=None))
    left_out = router.score("What?", answers(a="5", b="5"))
    for name in ("p_ensemble_fails", "p_vote_fails", "p_oracle_right"):
        assert getattr(named, name) == pytest.approx(getattr(left_out, name), abs=1e-6)
    assert named.choice == left_out.choice == 0


def test_a_member_that_failed_is_no_stranger_to_the_score(make_router):
    """Somebody who was asked in vain is another case than somebody who was not asked."""
    router = make_router()
    gone = Generation(query_id="q", model="c", error="gone")
    asked = router.score("What?", answers(a="5", b="5") | {"c": gone})
    assert asked.p_ensemble_fails != router.score("What?", answers(a="5", b="5")).p_ensemble_fails


def test_any_number_of_strangers_is_scored_by_what_they_say(make_router):
    router = make_router()
    for count in (1, 2, 9):
        names = [f"stranger-{k}" for k in range(count)]
        one = router.score("What?", answers(**dict.fromkeys(names, "5")))
        assert 0 < one.p_ensemble_fails < 1
        assert one.choice == 0
        renamed = answers(**dict.fromkeys([f"other-{k}" for k in range(count)], "5"))
        assert router.score("What?", renamed) == one
    known = router.score("What?", answers(a="5"))
    assert known != router.score("What?", answers(x="5"))


@pytest.mark.parametrize("given", [{}, {"a": None, "b": None}])
def test_where_nobody_answered_the_ensemble_has_failed(make_router, given):
    scores = make_router().score("What?", given)
    assert scores.p_ensemble_fails == scores.p_vote_fails == 1.0
    assert scores.choice is None
    assert 0 < scores.p_oracle_right < 1


def test_a_checkpoint_scores_like_the_router_that_was_saved(make_router, tmp_path):
    router = make_router(hidden_key=KEY)
    router.save(tmp_path / "router")
    loaded = Router.load(tmp_path / "router")
    for given in ({"a": "5", "b": "7", "c": "7"}, {"b": "5", "z": "5"}, {}):
        rows = answers(np.ones(6, np.float16), **given)
        assert loaded.score("What?", rows) == router.score("What?", rows)


def test_hidden_states_have_a_part_in_it(make_router):
    router = make_router(hidden_key=KEY)
    zeros = router.score("What?", answers(a="5", b="5", c="5"))
    some = router.score("What?", answers(np.full(6, 2.0, np.float16), a="5", b="5", c="5"))
    assert zeros != some
    vectors = router.hidden_states(answers(a="5", b=None))
    assert [vector.shape for vector in vectors] == [(6,)] * 3
    assert not np.any(vectors)
    assert make_router().hidden_states(answers(a="5")) == []


def test_hidden_states_of_another_model_are_refused(make_router):
    router = make_router(hidden_key=KEY)
    with pytest.raises(CheckpointError, match=r"'a': expected hidden states of length 6.*found 9"):
        router.score("What?", answers(np.zeros(9, np.float16), a="5"))


def test_the_graders_equality_decides_on_agreement(make_router):
    router = make_router()
    assert router.evidence("What?", answers(a="1,000", b="1000.0", c="1e3")).vote.share >= 2 / 3


def test_a_checkpoint_with_a_grader_of_its_own_runs_no_code(make_router, tmp_path):
    import sys

    from pyramid_moa.errors import ConfigError

    router = make_router()
    router.card = replace(router.card, grader="grader_of_a_checkpoint:f")
    router.save(tmp_path / "router")
    loaded = Router.load(tmp_path / "router")
    with pytest.raises(ConfigError, match="names a grader of its own"):
        loaded.score("1 + 1?", {})
    assert "grader_of_a_checkpoint" not in sys.modules
