"""The router on single questions."""

import numpy as np
import pytest

from pyramid_moa.errors import CheckpointError
from pyramid_moa.records import Generation

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
    assert 0 < one.p_oracle_right < 1
    assert router.score("What?", given) == one
    assert router.score("What?", dict(reversed(given.items()))) == one


def test_a_member_that_was_not_asked_is_scored_all_the_same(make_router):
    router = make_router()
    assert router.score("What?", answers(a="5", b="5", c=None)) == router.score(
        "What?", answers(a="5", b="5")
    )


def test_where_nobody_answered_the_ensemble_has_failed(make_router):
    scores = make_router().score("What?", {})
    assert scores.p_ensemble_fails == 1.0
    assert 0 < scores.p_oracle_right < 1


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
    from dataclasses import replace

    from pyramid_moa.errors import ConfigError
    from pyramid_moa.router_model.router import Router

    router = make_router()
    router.card = replace(router.card, grader="grader_of_a_checkpoint:f")
    router.save(tmp_path / "router")
    loaded = Router.load(tmp_path / "router")
    with pytest.raises(ConfigError, match="names a grader of its own"):
        loaded.score("1 + 1?", {})
    assert "grader_of_a_checkpoint" not in sys.modules
