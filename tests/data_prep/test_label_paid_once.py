"""``label`` against a server that counts: what has been answered is never asked for again."""

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from faulty_server import Reply, chat_reply, faulty_server

from label_case import assert_same_run, write_questions
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.labelled_run import read_labelled_run
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.errors import BackendError, BudgetError

QUESTIONS = 300
# From the server's last byte until the row is in the journal, on a busy machine.
ON_ITS_WAY_S = 0.5
MODELS = ("a", "b", "o")


class Counting:
    """Answers each question with its number, and remembers when."""

    def __init__(self):
        self.asked = Counter()
        self.answered = []
        self.wrong = lambda model, question: None
        self.delay_s = 0.004
        self._lock = threading.Lock()

    def __call__(self, request):
        if request.body is None:
            return {"data": [{"id": name} for name in MODELS]}
        model, question = request.body["model"], request.prompt
        with self._lock:
            self.asked[model, question] += 1
        wrong = self.wrong(model, question)
        if wrong is not None:
            return wrong
        time.sleep(self.delay_s)
        with self._lock:
            self.answered.append((time.monotonic(), (model, question)))
        return chat_reply(f"#### {question.split()[0]}")


@pytest.fixture
def counting():
    return Counting()


@pytest.fixture
def case(tmp_path, counting):
    """A folder with questions and a pyramid on a counting server."""
    with faulty_server(counting) as server:
        entries = "".join(
            f"  - {{name: {name}, backend: openai, model: {name}, base_url: {server.base_url}, "
            f"max_concurrency: 4, max_retries: 0, price: {{input: 1, output: 2}}}}\n"
            for name in MODELS
        ).splitlines(keepends=True)
        (tmp_path / "pyramid.yaml").write_text(
            f"members:\n{''.join(entries[:-1])}oracles:\n{entries[-1]}"
            "sampling: {max_tokens: 16}\n"
        )
        write_questions(tmp_path / "questions.jsonl", QUESTIONS)
        yield tmp_path


def label_here(case, run, **options):
    questions = load_queries(str(case / "questions.jsonl"))
    return label(questions, load_pyramid(case / "pyramid.yaml"), run, **options)


def start(case, run):
    command = [sys.executable, "-m", "pyramid_moa", "label", "--resume", "--out", str(run)]
    command += ["--dataset", str(case / "questions.jsonl")]
    command += ["--pyramid", str(case / "pyramid.yaml")]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.timeout(300)
def test_killed_at_any_moment_nothing_that_was_answered_is_asked_again(case, counting):
    run = case / "run"
    moments = random.Random()
    for _ in range(3):
        process, begun = start(case, run), len(counting.answered)
        while len(counting.answered) == begun and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 1.0))
        killed_at = time.monotonic()
        process.kill()
        process.communicate(timeout=30)
        settled = {key for when, key in counting.answered if when < killed_at - ON_ITS_WAY_S}
        before = Counter(counting.asked)
        # As many as were under way, or had just been answered, may have to be asked again.
        time.sleep(0.1)
        label_some = start(case, run)
        time.sleep(2.0)
        label_some.kill()
        label_some.communicate(timeout=30)
        assert all(counting.asked[key] == before[key] for key in settled)
    label_here(case, run, resume=True)
    assert set(counting.asked) == {
        (name, query.question)
        for name in MODELS
        for query in load_queries(str(case / "questions.jsonl")).queries
    }
    again = sum(count - 1 for count in counting.asked.values())
    # Six kills with four requests under way each, and what was answered on the last metres.
    assert again < len(counting.asked) / 4
    finished = read_labelled_run(run)
    assert [row.answer for row in finished.generations["a"]] == [str(n) for n in range(QUESTIONS)]
    assert not list((run / "journal").iterdir())
    label_here(case, case / "unbroken")
    assert_same_run(run, case / "unbroken")


def test_the_budget_lets_what_is_under_way_finish(case, counting):
    run = case / "run"
    with pytest.raises(BudgetError, match="stopped at --max-usd"):
        label_here(case, run, max_usd=0.002)
    asked = counting.asked.total()
    assert len(counting.answered) == asked > 8
    rows = [
        json.loads(line)
        for path in (run / "journal").iterdir()
        for line in path.read_text().split("\n")
        if line
    ]
    assert len(rows) == asked
    assert sum(row["cost_usd"] for row in rows) <= 0.002
    # All that the money allows: the next answer might have been too dear.
    assert sum(row["cost_usd"] for row in rows) > 0.002 - 60e-6
    label_here(case, run, resume=True)
    assert counting.asked.total() == len(counting.asked) == 3 * QUESTIONS


def test_a_server_that_has_gone_ends_the_run_and_resume_goes_on(case, counting):
    run = case / "run"

    def gone(model, question):
        if len(counting.answered) > 100:
            return Reply(status=503, body={"error": {"message": "going down"}})
        return None

    counting.wrong = gone
    with pytest.raises(BackendError, match=r"a has failed 100 times in a row.*--resume goes on"):
        label_here(case, run)
    assert counting.asked.total() < QUESTIONS
    counting.wrong = lambda model, question: None
    assert label_here(case, run, resume=True).counts["failed"] == 0
    answered = Counter(key for _, key in counting.answered)
    assert set(answered.values()) == {1}
    assert len(answered) == 3 * QUESTIONS


def test_a_server_that_is_unwell_leaves_failed_rows_and_resume_asks_for_those(case, counting):
    run = case / "run"
    counting.wrong = lambda model, question: (
        Reply(status=500, body=b"oops") if model == "b" and question.startswith("7 ") else None
    )
    counts = label_here(case, run).counts
    assert counts["failed_by_model"] == {"a": 0, "b": 1, "o": 0}
    assert counts["retryable"] == 1
    counting.wrong = lambda model, question: None
    assert label_here(case, run, resume=True).counts["failed"] == 0
    assert [key for key, count in counting.asked.items() if count > 1] == [
        ("b", "7 apples and 0 are how many?")
    ]


def test_a_key_that_is_revoked_ends_the_run_and_the_rest_is_asked_with_a_new_one(case, counting):
    counting.wrong = lambda model, question: (
        Reply(status=401) if len(counting.answered) > 40 else None
    )
    with pytest.raises(BackendError, match=r"a has failed 100 times in a row.*wants an API key"):
        label_here(case, case / "run")
    counting.wrong = lambda model, question: None
    assert label_here(case, case / "run", resume=True).counts["failed"] == 0


def test_what_was_billed_and_can_not_be_used_counts(case, counting):
    """A model that thinks until its tokens are spent and then says nothing."""
    nothing = chat_reply("")
    nothing["choices"][0] |= {"message": {"content": None}, "finish_reason": "length"}
    nothing["usage"] = {"prompt_tokens": 10, "completion_tokens": 16}
    counting.wrong = lambda model, question: nothing
    with pytest.raises(BudgetError):
        label_here(case, case / "run", max_usd=0.002)
    # Each answer costs 42 millionths of a dollar.
    assert 40 <= counting.asked.total() <= 48
