"""When a run says nothing of steps."""

import pytest

from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.training.step_fit import typical_calls, why_no_steps


@pytest.mark.parametrize(
    ("questions", "reason"),
    [
        (["00000000", "00000004", "00000004"], "2 different questions are too few"),
        (["00000000", "00000001"], None),
    ],
)
def test_steps_are_seen_on_questions_that_their_fit_can_do_without(imported_run, questions, reason):
    run = read_labelled_run(imported_run)
    why = why_no_steps(run, typical_calls(run, range(20)), questions)
    assert why is None if reason is None else reason in why
