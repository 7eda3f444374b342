"""Questions unlike those of training are told by their text."""

import json
import time

import numpy as np
import pytest

from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.errors import CheckpointError
from pyramid_moa.router_model.checkpoint import CheckpointFiles, read_checkpoint, write_checkpoint
from pyramid_moa.router_model.known_questions import PARTS, KnownQuestions, question_profile
from pyramid_moa.training.known_questions_fit import FALSE_ALARMS, FEWEST, fit_known_questions

STRANGERS = {
    "talk": "Hello, how are you today?",
    "poem": "Write a poem about autumn leaves falling in the park.",
    "fact": "What is the capital of Australia?",
    "translation": "Übersetze ins Englische: Der Hund schläft im Garten.",
    "code": "def f(x):\n    return [y for y in x if y > 1]\n\nWhat does f([1, 2, 3]) return?",
    "algebra": "If $x^2 + 3x - 4 = 0$, find the sum of \\frac{1}{x_1} and \\frac{1}{x_2}.",
    "mark": "?",
    "blank": "  \n ",
    "half of a pair": "\ud800" * 40,
    "endless": "word " * 100_000,
}


@pytest.fixture(scope="module")
def texts():
    rows = load_queries("word-problems?train=900&test=600&seed=1").queries
    by_split = {"train": [], "test": []}
    for row in rows:
        by_split["test" if row.split == "test" else "train"].append(row.question)
    return by_split


@pytest.fixture(scope="module")
def known(texts):
    return fit_known_questions(texts["train"])


def test_few_questions_of_the_kind_are_taken_for_others(known, texts):
    flagged = np.mean([known.distance(text).value > 1 for text in texts["test"]])
    assert known.questions == len(set(texts["train"]))
    assert known.false_alarms <= FALSE_ALARMS
    # Three standard deviations of so many, and those of the threshold's own draw.
    assert flagged <= FALSE_ALARMS + 3 * (FALSE_ALARMS / 600 + FALSE_ALARMS / 900) ** 0.5


@pytest.mark.parametrize("kind", STRANGERS)
def test_questions_of_other_kinds_are_far(known, kind):
    distance = known.distance(STRANGERS[kind])
    assert distance.value > 1
    assert distance.part in PARTS


def test_the_order_of_questions_and_the_run_change_nothing(known, texts):
    other = fit_known_questions([*reversed(texts["train"]), *texts["train"][:50]])
    assert other.told() == known.told()
    for name, value in known.tensors().items():
        assert np.array_equal(other.tensors()[name], value)


def test_too_few_questions_promise_nothing(texts):
    assert fit_known_questions(texts["train"][: FEWEST - 1]) is None
    assert fit_known_questions(texts["train"][:1] * 500) is None
    assert fit_known_questions(texts["train"][:FEWEST]) is not None


def test_questions_that_are_all_alike_are_known():
    sums = [f"What is {first} + {second}?" for first in range(20) for second in range(20)]
    known = fit_known_questions(sums)
    assert known.distance("What is 3 + 44?").value <= 1
    assert known.distance("Who wrote Hamlet?").value > 1


def test_it_is_told_in_a_fraction_of_a_millisecond(known, texts):
    started = time.process_time()
    for text in texts["test"]:
        known.distance(text)
    assert (time.process_time() - started) / len(texts["test"]) < 0.001


def test_each_word_counts_once_and_numbers_are_alike():
    one, other = (
        question_profile("Ann has 3 dogs, 3 dogs."),
        question_profile("Ann has 1,750 dogs, ."),
    )
    assert np.array_equal(one.words, other.words)
    assert len(one.words) == 6


def test_a_checkpoint_keeps_it(known, make_router, tmp_path):
    router = make_router()
    write_checkpoint(tmp_path / "c", router.card, router.network, known=known)
    card, _, _, read = read_checkpoint(tmp_path / "c")
    assert card.known_questions == known.told()
    for text in STRANGERS.values():
        assert read.distance(text) == known.distance(text)


def test_a_checkpoint_without_it_is_read(make_router, tmp_path):
    router = make_router()
    router.save(tmp_path / "c")
    assert json.loads((tmp_path / "c" / "router.json").read_text())["known_questions"] is None
    assert read_checkpoint(tmp_path / "c")[3] is None


@pytest.mark.parametrize(
    ("told", "tensors", "said"),
    [
        ({"signs": ["characters"]}, {}, "train again"),
        ({"parts": ["form"]}, {}, "train again"),
        ({"questions": "many"}, {}, "damaged"),
        ({}, {"words": np.zeros(4)}, "damaged"),
        ({}, {"spread": np.zeros(4)}, "damaged"),
        ({}, {"middle": np.full(4, np.nan)}, "damaged"),
        ({}, {"more": np.zeros(4)}, "damaged"),
    ],
)
def test_what_does_not_fit_is_refused(known, told, tensors, said):
    with pytest.raises(CheckpointError, match=said):
        KnownQuestions.from_checkpoint(
            {**known.told(), **told}, {**known.tensors(), **tensors}, source="here"
        )


def test_card_and_weights_have_to_agree_on_it(known, make_router, tmp_path):
    router = make_router()
    router.save(tmp_path / "without")
    written = write_checkpoint(tmp_path / "with", router.card, router.network, known=known)
    files = CheckpointFiles(tmp_path / "with")
    card = json.loads(files.card.read_text(encoding="utf-8"))
    assert card["known_questions"]["questions"] == written.known_questions["questions"]
    other = type(written)(**{**vars(written), "known_questions": None})
    files.card.write_text(other.to_json(), encoding="utf-8")
    with pytest.raises(CheckpointError, match="in one file alone"):
        read_checkpoint(files.folder)


def test_figures_on_questions_of_another_kind_are_remarked_on(known, texts):
    assert known.remark(texts["test"]) is None
    assert known.remark([]) is None
    mixed = [*texts["test"][:90], *list(STRANGERS.values())[:6] * 2]
    assert known.remark(mixed).startswith("12 of 102 questions are unlike")
