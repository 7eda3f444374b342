"""A file of questions in, a file of answers out; nothing lost or half-written in between."""

import json
from dataclasses import replace

import pytest

from pyramid_moa.backends.model_spec import Price
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.errors import BackendError, DataError
from pyramid_moa.inference.answer import answer_file
from pyramid_moa.inference.budget import Budget
from pyramid_moa.router_model.card import TypicalCall
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.known_questions_fit import fit_known_questions

COUNT = 70


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"id": f"q{k}", "question": f"What is {k}?", "answer": str(k)} for k in range(COUNT)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_queries(str(path))


@pytest.fixture
def gate(fake_gate):
    def third(text):
        number = int(text.removeprefix("What is ").removesuffix("?"))
        return "0" if number % 3 else "1"

    return fake_gate({"a": "0", "b": third, "oracle": "2"})


def test_questions_unlike_those_of_training_are_said(fake_gate, dataset, tmp_path):
    router = Router.load("pretrained:numeric")
    router.known = fit_known_questions([f"What is {k}?" for k in range(300)])
    for text, count in (("What is {}?", 0), ("Write a poem about {} swans.", 1)):
        path, said = tmp_path / "other.jsonl", []
        rows = [json.dumps({"question": text.format(k + 150)}) for k in range(8)]
        path.write_text("\n".join(rows))
        gate, _ = fake_gate({"a": "1", "b": "1", "oracle": "2"}, router=router)
        queries = load_queries(str(path))
        answer_file(gate, queries, tmp_path / text[:5], identity="", say=said.append)
        assert len(said) == count
    assert said[0].startswith("8 of 8 questions are unlike those that the router was trained on")


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_times(rows):
    return [{k: v for k, v in row.items() if not k.endswith("_s")} for row in rows]


def test_one_row_a_question_with_its_reason(gate, dataset, tmp_path):
    out = tmp_path / "new" / "answers.jsonl"
    totals = answer_file(gate[0], dataset, out, identity="x")
    rows = read(out)
    assert [row["query_id"] for row in rows] == [f"q{k}" for k in range(COUNT)]
    assert rows[0]["question"] == "What is 0?"
    assert (rows[0]["answer"], rows[0]["answered_by"], rows[0]["escalated"]) == (
        "2",
        "oracle",
        True,
    )
    assert (rows[1]["answer"], rows[1]["answered_by"]) == ("0", "a")
    assert rows[0]["reason"] == "1 of 2 members agree: the oracle is asked"
    assert rows[0]["members"]["b"] == {"answer": "1", "error": None}
    assert rows[0]["models_called"] == ["a", "b", "oracle"]
    assert totals.questions == COUNT
    assert totals.escalated == sum(row["escalated"] for row in rows) == 24
    assert totals.cost_usd == pytest.approx(sum(row["cost_usd"] for row in rows))
    assert totals.oracle_cost_usd == pytest.approx(COUNT * 0.002)
    assert (totals.unanswered, totals.degraded) == (0, 0)
    assert [path.name for path in out.parent.iterdir()] == ["answers.jsonl"]


def test_a_run_that_died_goes_on_where_it_was(gate, dataset, tmp_path):
    whole = tmp_path / "whole.jsonl"
    answer_file(gate[0], dataset, whole, identity="x")
    for backend in gate[1].values():
        backend.asked.clear()
    out = tmp_path / "answers.jsonl"
    reply = gate[1]["a"].reply

    def dying(text):
        return BackendError("killed") if text == "What is 40?" else reply

    gate[1]["a"].reply = dying
    with pytest.raises(BackendError, match="killed"):
        answer_file(gate[0], dataset, out, identity="x")
    assert not out.exists()
    partial = tmp_path / "answers.jsonl.partial"
    assert len(read(partial)) == 1 + 32
    # Killed in the middle of a write: the last line is cut, with a character torn apart.
    with partial.open("ab") as file:
        file.write('{"query_id": "q32", "question": "ü'.encode()[:-1])
    gate[1]["a"].reply = reply
    gate[1]["a"].asked.clear()
    said = []
    totals = answer_file(gate[0], dataset, out, identity="x", say=said.append)
    assert gate[1]["a"].asked == [f"What is {k}?" for k in range(32, COUNT)]
    assert said == [f"{partial}: going on after 32 answers that are there"]
    assert without_times(read(out)) == without_times(read(whole))
    assert totals.questions == COUNT
    assert not partial.exists()


@pytest.mark.parametrize("lines", [0, 1, 2, 33])
def test_wherever_it_was_cut(gate, dataset, tmp_path, lines):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "answers.jsonl"
    answer_file(gate[0], dataset, whole, identity="x")
    head = json.dumps({"identity": partial_identity(gate, dataset, tmp_path)}) + "\n"
    rows = whole.read_text().splitlines(keepends=True)
    text = "".join([head, *rows][: lines + 1])
    (tmp_path / "answers.jsonl.partial").write_text(text + '{"query')
    answer_file(gate[0], dataset, out, identity="x")
    assert without_times(read(out)) == without_times(read(whole))


def partial_identity(gate, dataset, folder):
    """What the head of a partial file says."""
    gate[1]["a"].reply, reply = BackendError("no"), gate[1]["a"].reply
    with pytest.raises(BackendError):
        answer_file(gate[0], dataset, folder / "probe.jsonl", identity="x")
    gate[1]["a"].reply = reply
    partial = folder / "probe.jsonl.partial"
    (head,) = read(partial)
    partial.unlink()
    return head["identity"]


def test_what_calls_usually_take_is_part_of_a_budgets_identity(fake_gate, dataset, tmp_path):
    """An interrupted file is gone on with only where calls are planned as they were."""

    def router_of(usd):
        router = Router.load("pretrained:numeric")
        calls = {"a": TypicalCall(cost_usd=usd), "b": TypicalCall(cost_usd=usd)}
        router.card = replace(router.card, typical_calls=calls)
        return router

    def answer(usd, budget, *, ends=False, price=None):
        replies = {"a": "1", "b": "1", "oracle": "2"}
        gate, backends = fake_gate(replies, router=router_of(usd))
        if price is not None:
            for spec in gate.rules.pyramid.models:
                object.__setattr__(spec, "price", price)
        if ends:
            backends["a"].reply = BackendError("killed")
        answer_file(gate, dataset, tmp_path / "answers.jsonl", identity="x", budget=budget)

    limit = Budget(max_usd=1.0)
    with pytest.raises(BackendError):
        answer(0.1, limit, ends=True)
    with pytest.raises(DataError, match="another pyramid or another router"):
        answer(0.2, limit)
    # What is spent counts by the pyramid's own prices.
    with pytest.raises(DataError, match="other prices"):
        answer(0.1, limit, price=Price(input=9.0, output=9.0))
    answer(0.1, limit)
    # Without a budget nothing is planned by it.
    with pytest.raises(BackendError):
        answer(0.1, None, ends=True)
    answer(0.2, None)


@pytest.mark.parametrize("what", ["identity", "questions"])
def test_answers_of_something_else_are_refused_and_kept(gate, dataset, tmp_path, what):
    out = tmp_path / "answers.jsonl"
    gate[1]["oracle"].reply = BackendError("killed")
    with pytest.raises(BackendError):
        answer_file(gate[0], dataset, out, identity="x")
    partial = tmp_path / "answers.jsonl.partial"
    before = partial.read_bytes()
    other = load_queries(str(tmp_path / "questions.jsonl"), limit=5)
    with pytest.raises(DataError, match="another pyramid or another router"):
        answer_file(
            gate[0],
            dataset if what == "identity" else other,
            out,
            identity="y" if what == "identity" else "x",
        )
    assert partial.read_bytes() == before
    assert not out.exists()


@pytest.mark.parametrize("content", [b"no json\n", b"\xff\xfe\n", b"{}\n", b"{}"])
def test_a_partial_file_of_something_else_is_refused(gate, dataset, tmp_path, content):
    (tmp_path / "answers.jsonl.partial").write_bytes(content)
    with pytest.raises(DataError, match=r"answers\.jsonl\.partial"):
        answer_file(gate[0], dataset, tmp_path / "answers.jsonl", identity="x")
    assert (tmp_path / "answers.jsonl.partial").read_bytes() == content


def test_earlier_answers_stay_until_the_new_ones_are_whole(gate, dataset, tmp_path):
    out = tmp_path / "answers.jsonl"
    out.write_text("earlier")
    gate[1]["oracle"].reply = BackendError("killed")
    with pytest.raises(BackendError):
        answer_file(gate[0], dataset, out, identity="x")
    assert out.read_text() == "earlier"
    gate[1]["oracle"].reply = "2"
    answer_file(gate[0], dataset, out, identity="x")
    assert len(read(out)) == COUNT


def test_a_folder_in_the_place_of_the_answers(gate, dataset, tmp_path):
    with pytest.raises(DataError, match="found a folder"):
        answer_file(gate[0], dataset, tmp_path, identity="x")
    assert not gate[1]["a"].asked


def test_failures_are_counted(fake_gate, dataset, tmp_path):
    from pyramid_moa.backends import Failure

    gone = Failure(message="gone", can_retry=False)
    gate, _ = fake_gate({"a": gone, "oracle": gone})
    totals = answer_file(gate, dataset, tmp_path / "a.jsonl", identity="x")
    assert (totals.unanswered, totals.degraded, totals.escalated) == (COUNT, COUNT, COUNT)
    assert read(tmp_path / "a.jsonl")[0]["members"]["a"] == {"answer": None, "error": "gone"}


def test_any_text_can_be_written(fake_gate, tmp_path):
    questions = tmp_path / "q.jsonl"
    rows = [{"question": "\u2028 über \U0001f600"}, {"question": "half"}]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    gate, _ = fake_gate({"a": "5 \ud83d half a pair", "oracle": "6"})
    answer_file(gate, load_queries(str(questions)), tmp_path / "a.jsonl", identity="x")
    lines = (tmp_path / "a.jsonl").read_bytes().split(b"\n")
    assert json.loads(lines[0])["question"] == "\u2028 über \U0001f600"
    assert json.loads(lines[1])["response"] == "5 \ufffd half a pair"


def test_an_empty_partial_file_was_killed_before_its_head(gate, dataset, tmp_path):
    (tmp_path / "answers.jsonl.partial").touch()
    answer_file(gate[0], dataset, tmp_path / "answers.jsonl", identity="x")
    assert len(read(tmp_path / "answers.jsonl")) == COUNT


def test_two_processes_do_not_share_a_file(gate, dataset, tmp_path):
    import fcntl

    out = tmp_path / "answers.jsonl"
    with (tmp_path / "answers.jsonl.partial").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is answering"):
            answer_file(gate[0], dataset, out, identity="x")
    assert not out.exists()


def test_a_file_of_somebody_else_is_not_emptied(gate, dataset, tmp_path):
    other = tmp_path / "answers.jsonl.partial"
    other.write_text("mine, without a line end", encoding="utf-8")
    with pytest.raises(DataError, match="found something else"):
        answer_file(gate[0], dataset, tmp_path / "answers.jsonl", identity="x")
    assert other.read_text(encoding="utf-8") == "mine, without a line end"
