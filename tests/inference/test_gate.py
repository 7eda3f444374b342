"""One query through the pyramid: who is asked, what is answered, what it costs."""

import asyncio
import itertools
import json

import pytest

from pyramid_moa.backends import Failure
from pyramid_moa.errors import BackendError, CheckpointError, ConfigError
from pyramid_moa.inference import gate as gate_module
from pyramid_moa.inference.course import Course
from pyramid_moa.inference.gate import Gate
from pyramid_moa.records import Query
from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.router import Router

GONE = Failure(message="the server is gone", can_retry=True, latency_s=0.5)


def queries(count):
    return [Query(query_id=f"q{k}", question=f"What is {k}?") for k in range(count)]


def test_all_agree_so_the_oracle_is_not_asked(fake_gate):
    gate, backends = fake_gate({"a": "It is 5", "b": "5.0", "c": "#### 5", "oracle": "6"})
    decision = gate.answer("What is 2 + 3?")
    assert decision.answer == "5"
    assert decision.response == "It is 5"
    assert decision.answered_by == "a"
    assert not decision.escalated
    assert decision.rule == "vote"
    assert decision.models_called == ("a", "b", "c")
    assert decision.p_ensemble_fails == 0.0
    assert decision.p_oracle_right is None
    assert decision.reason == "3 of 3 members agree: accepted"
    assert backends["oracle"].asked == []
    assert backends["a"].asked == ["What is 2 + 3?"]


def test_one_disagrees_so_the_oracle_is_asked(fake_gate):
    gate, backends = fake_gate({"a": "5", "b": "7", "c": "5", "oracle": "It is 6"})
    decision = gate.answer("What?")
    assert decision.answer == "6"
    assert decision.answered_by == "oracle"
    assert decision.escalated
    assert decision.ensemble_answer == "5"
    assert decision.models_called == ("a", "b", "c", "oracle")
    assert decision.reason == "2 of 3 members agree: the oracle is asked"
    assert [row.model for row in decision.generations] == ["a", "b", "c", "oracle"]
    assert backends["oracle"].asked == ["What?"]


def test_the_text_is_of_the_first_listed_member_behind_the_vote(fake_gate):
    gate, _ = fake_gate(
        {"a": "7", "b": "x 5", "c": "y 5", "oracle": "6"},
        point=OperatingPoint(name="never", threshold=1.0, target=""),
    )
    decision = gate.answer("What?")
    assert (decision.answered_by, decision.response) == ("b", "x 5")
    assert decision.threshold == 1.0


def test_money_and_flops_of_all_calls(fake_gate):
    gate, _ = fake_gate({"a": "5", "b": "7", "oracle": "6"})
    decision = gate.answer("What?")
    member, oracle = (100 * 1 + 50 * 2) / 1e6, (100 * 10 + 50 * 20) / 1e6
    assert decision.cost_usd == pytest.approx(2 * member + oracle)
    assert decision.oracle_cost_usd == pytest.approx(oracle)
    assert decision.flops == pytest.approx(2 * 150 * (1e9 + 1e9 + 10e9))
    accepted, _ = fake_gate({"a": "5", "b": "5", "oracle": "6"})
    decision = accepted.answer("What?")
    assert decision.cost_usd == pytest.approx(2 * member)
    assert decision.oracle_cost_usd == pytest.approx(oracle)  # estimated by the members' lengths
    assert decision.oracle_s == 0.0


def test_what_is_not_known_of_flops_is_not_made_up(make_pyramid, fake_backend):
    pyramid = make_pyramid("a")
    object.__setattr__(pyramid.members[0], "active_parameters", None)
    backends = {name: fake_backend(name, "5") for name in ("a", "oracle")}
    assert Gate(pyramid, backends).answer("What?").flops is None


def test_a_member_that_fails_is_left_out(fake_gate):
    gate, _ = fake_gate({"a": GONE, "b": "5", "c": "5", "oracle": "6"})
    decision = gate.answer("What?")
    assert decision.escalated  # 2 of 3 stand behind it
    assert decision.p_ensemble_fails == pytest.approx(1 / 3)
    row = decision.generations[0]
    assert (row.error, row.cost_usd, row.can_retry) == ("the server is gone", 0.0, True)
    assert decision.flops == pytest.approx(2 * 150 * 12e9)


def test_all_members_fail_so_the_oracle_is_asked(fake_gate):
    gate, _ = fake_gate({"a": GONE, "b": "no number", "oracle": "6"})
    decision = gate.answer("What?")
    assert decision.answer == "6"
    assert decision.ensemble_answer is None
    assert decision.p_ensemble_fails == 1.0
    assert decision.reason == "none of 2 members gave an answer: the oracle is asked"


def test_the_oracle_fails_so_the_ensemble_answers(fake_gate):
    gate, _ = fake_gate({"a": "5", "b": "7", "oracle": GONE})
    decision = gate.answer("What?")
    assert decision.degraded
    assert decision.escalated
    assert (decision.answer, decision.answered_by) == ("5", "a")
    assert decision.models_called == ("a", "b", "oracle")
    assert decision.reason.endswith("asked and failed, so the ensemble's answer is given")
    assert decision.oracle_cost_usd == pytest.approx((100 * 10 + 50 * 20) / 1e6)


def test_nobody_answers(fake_gate):
    gate, _ = fake_gate({"a": GONE, "b": GONE, "oracle": GONE})
    decision = gate.answer("What?")
    assert decision.degraded
    assert decision.answer is decision.response is decision.answered_by is None
    assert decision.cost_usd == decision.oracle_cost_usd == 0.0
    assert decision.reason.endswith("the oracle was asked and failed too, so there is no answer")


def test_nobody_answers_and_the_threshold_never_asks(fake_gate):
    never = OperatingPoint(name="never", threshold=1.0, target="")
    gate, backends = fake_gate({"a": GONE, "oracle": "6"}, point=never)
    decision = gate.answer("What?")
    assert decision.answer is None
    assert decision.reason.endswith("the threshold never asks the oracle, so there is no answer")
    assert not backends["oracle"].asked


def test_many_queries_are_one_batch_a_model_and_only_the_wanted_ones_go_up(fake_gate):
    def odd(text):
        number = int(text.removeprefix("What is ").removesuffix("?"))
        return str(number % 2)

    gate, backends = fake_gate({"a": "0", "b": odd, "oracle": "9"})
    decisions = gate.answer_many(queries(6))
    assert [decision.query_id for decision in decisions] == [f"q{k}" for k in range(6)]
    assert [decision.answer for decision in decisions] == ["0", "9"] * 3
    assert backends["oracle"].asked == ["What is 1?", "What is 3?", "What is 5?"]
    assert len(backends["a"].spans) == len(backends["oracle"].spans) == 1
    assert gate.answer_many([]) == []


def without_times(decision):
    return {
        name: getattr(decision, name)
        for name in decision.__dataclass_fields__
        if not name.endswith("_s")
    }


def test_async_decides_like_sync(fake_gate):
    replies = {"a": "5", "b": lambda text: "5" if "1" in text else "7", "oracle": "6"}
    gate, _ = fake_gate(replies)
    again = asyncio.run(gate.aanswer_many(queries(4)))
    for one, other in zip(gate.answer_many(queries(4)), again, strict=True):
        assert without_times(one) == without_times(other)
    assert without_times(asyncio.run(gate.aanswer("x"))) == without_times(gate.answer("x"))


def overlap(backends):
    spans = sorted(span for backend in backends for span in backend.spans)
    return any(one[1] > other[0] for one, other in itertools.pairwise(spans))


@pytest.mark.parametrize("how", ["sync", "async"])
def test_servers_work_at_the_same_time_and_local_models_in_turn(fake_gate, how):
    for backend in ("openai", "transformers"):
        replies = {"a": "5", "b": "5", "c": "5", "oracle": "6"}
        gate, backends = fake_gate(replies, backend=backend, seconds=0.1)
        if how == "sync":
            gate.answer("What?")
        else:
            asyncio.run(gate.aanswer("What?"))
        members = [backends[name] for name in "abc"]
        assert overlap(members) == (backend == "openai")


def test_local_models_run_in_the_callers_thread(fake_gate):
    import threading

    gate, backends = fake_gate({"a": "5", "oracle": "6"})
    gate.answer("What?")
    assert backends["a"].threads == {threading.get_ident()}


def test_giving_up_stops_every_request(fake_gate):
    gate, backends = fake_gate({"a": "5", "b": "5", "oracle": "6"}, backend="openai", seconds=30)

    async def give_up():
        task = asyncio.ensure_future(gate.aanswer_many(queries(2)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return [backends[name].cancelled for name in "ab"]

    assert asyncio.run(asyncio.wait_for(give_up(), 5)) == [True, True]


def test_a_server_that_breaks_stops_the_others(fake_gate):
    gate, backends = fake_gate({"a": "5", "b": "5", "oracle": "6"}, backend="openai", seconds=30)
    backends["a"].reply = BackendError("model 'a': gone for good")
    backends["a"].seconds = 0.0

    async def ask():
        with pytest.raises(BackendError, match="gone for good"):
            await gate.aanswer("What?")
        return backends["b"].cancelled

    assert asyncio.run(asyncio.wait_for(ask(), 5))


@pytest.mark.parametrize("backend", ["openai", "transformers"])
def test_a_model_that_is_gone_is_an_error(fake_gate, backend):
    replies = {"a": "5", "b": BackendError("model 'b': out of memory"), "oracle": "6"}
    gate, _ = fake_gate(replies, backend=backend)
    with pytest.raises(BackendError, match="out of memory"):
        gate.answer("What?")


def test_gold_is_not_looked_at(fake_gate):
    gate, _ = fake_gate({"a": "5", "oracle": "6"})
    (decision,) = gate.answer_many([Query(query_id="q", question="What?", gold="5")])
    assert decision.generations[0].correct is None


def test_every_backend_is_closed_even_where_one_breaks(fake_gate):
    gate, backends = fake_gate({"a": "5", "b": "5", "oracle": "6"})

    def broken():
        raise OSError("it hangs")

    backends["b"].close = broken
    with pytest.raises(OSError, match="it hangs"), gate:
        pass
    assert backends["a"].closed == backends["oracle"].closed == 1


def write_pyramid(folder, members=("large", "middle", "small"), **fields):
    content = {
        "members": [
            member if isinstance(member, dict) else {"name": member, "model": member}
            for member in members
        ],
        "oracles": [{"name": "oracle", "model": "oracle"}],
    } | fields
    path = folder / "pyramid.yaml"
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


@pytest.fixture
def opened(monkeypatch, fake_backend):
    """Fake backends in place of real ones; remembers what was asked for."""
    backends = {}

    def open_fake(spec, *, hidden_states=None):
        gives = hidden_states is not None and spec.model != "without-hidden-states"
        keys = hidden_states.keys if gives else ()
        backend = fake_backend(spec.name, "5", logprobs=True, hidden_keys=keys)
        backends[spec.name] = backend
        if spec.name == "broken":
            raise BackendError("model 'broken': can't be loaded")
        return backend

    monkeypatch.setattr(gate_module, "open_backend", open_fake)
    return backends


def test_from_config_with_the_vote_rule(opened, tmp_path):
    with Gate.from_config(write_pyramid(tmp_path)) as gate:
        assert gate.answer("What?").rule == "vote"
    assert all(backend.closed == 1 for backend in opened.values())
    assert all(backend.hidden_keys == () for backend in opened.values())


def test_from_config_asks_members_alone_for_hidden_states(opened, tmp_path, trained_on_hidden):
    gate = Gate.from_config(write_pyramid(tmp_path), router=trained_on_hidden)
    assert opened["large"].hidden_keys == ("layer-1/answer_mean",)
    assert opened["oracle"].hidden_keys == ()
    decision = gate.answer("What?")
    assert decision.rule == "router"
    assert f"{decision.p_ensemble_fails:.3f}" in decision.reason
    assert decision.threshold == Router.load(trained_on_hidden).card.operating_point().threshold


def test_a_policy_of_the_caller_or_of_the_pyramid(opened, tmp_path, trained):
    path = write_pyramid(tmp_path)
    assert Gate.from_config(path, router=trained).point.policy == "parallel"
    assert Gate.from_config(path, router=trained, policy="sequential").point.name == "sequential"
    given = Gate.from_config(path, router=trained, policy="sequential", threshold=0.25).point
    assert (given.policy, given.threshold) == ("sequential", 0.25)
    decision = Gate.from_config(path, router=trained, policy="sequential").answer("1 + 1?")
    assert decision.policy == "sequential"
    assert len(decision.path) > 1 or len(decision.path[0]) == 1
    path = write_pyramid(tmp_path, policy="sequential")
    assert Gate.from_config(path, router=trained).point.name == "sequential"
    assert Gate.from_config(path, router=trained, policy="parallel").point.name == "parity"
    named = Gate.from_config(path, router=trained, operating_point="vote-cost")
    assert named.point.policy == "parallel"  # a point that is named says how
    with pytest.raises(CheckpointError, match="its policy is parallel, expected sequential"):
        Gate.from_config(path, router=trained, operating_point="parity", policy="sequential")
    with pytest.raises(ConfigError, match="sequential: expected a router that knows its steps"):
        Gate.from_config(path)
    with pytest.raises(ConfigError, match="expected parallel or sequential, found 'both'"):
        Gate.from_config(path, router=trained, policy="both")


def test_steps_of_others_can_not_be_taken(opened, tmp_path, trained):
    path = write_pyramid(tmp_path)
    path.write_text(path.read_text().replace("large", "stranger"))
    with pytest.raises(CheckpointError, match=r"knows what steps to .* are worth; the pyramid has"):
        Gate.from_config(path, router=trained, policy="sequential")
    stepless = Router.load(trained)
    stepless.steps = None
    stepless.save(tmp_path / "stepless")
    with pytest.raises(CheckpointError, match="found one that only asks all members at once"):
        Gate.from_config(write_pyramid(tmp_path), router=tmp_path / "stepless", policy="sequential")


def test_operating_point_and_threshold(opened, tmp_path, trained):
    path = write_pyramid(tmp_path)
    named = Gate.from_config(path, router=trained, operating_point="oracle-accuracy")
    assert named.point.name == "oracle-accuracy"
    assert Gate.from_config(path, router=trained, threshold=0.25).point.threshold == 0.25
    assert Gate.from_config(path, threshold=0.25).point.threshold == 0.25
    with pytest.raises(CheckpointError, match="no operating point 'best'"):
        Gate.from_config(path, router=trained, operating_point="best")
    with pytest.raises(ConfigError, match="expected a router"):
        Gate.from_config(path, operating_point="vote-cost")
    with pytest.raises(ConfigError, match="found both"):
        Gate.from_config(path, router=trained, operating_point="vote-cost", threshold=0.5)
    for threshold in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="expected a number"):
            Gate.from_config(path, threshold=threshold)


def test_what_was_opened_is_closed_when_another_model_breaks(opened, tmp_path):
    with pytest.raises(BackendError, match="can't be loaded"):
        Gate.from_config(write_pyramid(tmp_path, ("large", "middle", "broken")))
    assert [opened[name].closed for name in ("large", "middle")] == [1, 1]


def test_what_was_opened_is_closed_when_the_router_does_not_fit(
    opened, tmp_path, trained_on_hidden
):
    # As far as the entries tell it fits: only what runs shows that nothing is given.
    models = {"large": "large", "middle": "middle", "small": "without-hidden-states"}
    members = [{"name": name, "model": model} for name, model in models.items()]
    with pytest.raises(CheckpointError, match="small: its backend gives no hidden states"):
        Gate.from_config(write_pyramid(tmp_path, members=members), router=trained_on_hidden)
    assert all(backend.closed == 1 for backend in opened.values())
    assert len(opened) == 4


def test_other_members_are_seen_before_any_model_is_loaded(opened, tmp_path, trained_on_hidden):
    with pytest.raises(CheckpointError, match=r"members: .*large, middle, small; .*large, tiny"):
        Gate.from_config(write_pyramid(tmp_path, ("large", "tiny")), router=trained_on_hidden)
    assert not opened


def test_a_router_serves_members_that_it_was_not_trained_on(opened, tmp_path, trained):
    with Gate.from_config(write_pyramid(tmp_path, ("large", "tiny")), router=trained) as gate:
        decision = gate.answer("2 apples and 3 are how many?")
    assert decision.rule == "router"
    assert 0.0 < decision.p_ensemble_fails < 1.0


def test_a_wrong_checkpoint_is_seen_before_any_model_is_loaded(opened, tmp_path):
    with pytest.raises(CheckpointError, match="missing"):
        Gate.from_config(write_pyramid(tmp_path), router=tmp_path / "nowhere")
    assert not opened


def test_the_identity_says_what_decides_the_answers(opened, tmp_path, trained):
    path = write_pyramid(tmp_path)
    vote = Gate.from_config(path).identity
    routed = Gate.from_config(path, router=trained).identity
    other = Gate.from_config(path, router=trained, threshold=0.123).identity
    assert len({vote, routed, other}) == 3
    assert Gate.from_config(path).identity == vote


def test_the_embedded_pyramid(repository):
    if not (repository / "src" / "pyramid_moa" / "embedded" / "pyramid.yaml").is_file():
        pytest.skip("the embedded pyramid is not there yet")
    with Gate.from_config("embedded") as gate:
        decision = gate.answer("Tom has 3 apples and buys 4 more. How many apples has he?")
        assert decision.answer is not None
        assert decision.models_called[:3] == ("member-a", "member-b", "member-c")
        assert decision.cost_usd > 0
        assert decision.flops > 0
        assert gate.price_note


def test_grading_does_not_hold_up_the_event_loop(fake_gate, monkeypatch):
    import asyncio
    import threading

    gate, _ = fake_gate({"a": "5", "b": "5", "oracle": "6"})
    threads = []
    receive = Course.receive

    def remember(self, outcomes, *, seconds):
        threads.append(threading.get_ident())
        receive(self, outcomes, seconds=seconds)

    monkeypatch.setattr(Course, "receive", remember)
    asyncio.run(gate.aanswer("What is 2 + 3?"))
    assert threads
    assert threading.get_ident() not in threads
