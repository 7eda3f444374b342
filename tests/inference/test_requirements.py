"""What a router needs is looked at when the gate starts."""

from dataclasses import replace

import pytest

from pyramid_moa.backends import HiddenStates
from pyramid_moa.errors import CheckpointError
from pyramid_moa.inference import gate
from pyramid_moa.inference.gate import Gate
from pyramid_moa.inference.requirements import (
    check_pyramid,
    check_requirements,
    needed_hidden_states,
)
from pyramid_moa.router_model.card import RouterMember
from pyramid_moa.router_model.router import Router
from synthetic import HIDDEN_KEY

NAMES = ("large", "middle", "small")


@pytest.fixture
def setting(make_pyramid, fake_backend, trained_on_hidden):
    """A pyramid, its backends and a router that fits them."""
    backends = {
        name: fake_backend(name, "5", logprobs=True, hidden_keys=(HIDDEN_KEY,)) for name in NAMES
    }
    backends["oracle"] = fake_backend("oracle", "6")
    return make_pyramid(*NAMES), backends, Router.load(trained_on_hidden)


def test_what_fits(setting):
    pyramid, backends, router = setting
    assert Gate(pyramid, backends, router=router).point == router.card.operating_point()


def test_every_problem_is_named_at_once(setting, make_pyramid):
    _, backends, router = setting
    backends["middle"].gives_logprobs = False
    backends["small"].hidden_keys = ("layer-1/last_prompt",)
    pyramid = make_pyramid("middle", "small", grader="text")
    with pytest.raises(CheckpointError) as caught:
        Gate(pyramid, backends, router=router)
    message = str(caught.value)
    assert "knows those of large, middle, small; the pyramid has middle, small" in message
    assert "grader: the router was trained with gsm8k; the pyramid has text" in message
    assert "middle: its backend gives no token log-probabilities" in message
    assert f"small: its backend gives no hidden states {HIDDEN_KEY}" in message


def test_the_order_of_members_matters(setting, make_pyramid):
    _, backends, router = setting
    with pytest.raises(CheckpointError, match="members"):
        check_requirements(router.card, make_pyramid(*reversed(NAMES)), backends)


def test_strangers_are_served_by_a_router_without_hidden_states(
    setting, make_pyramid, fake_backend, caplog
):
    _, backends, router = setting
    members = [replace(m, hidden_size=None, logprobs=False) for m in router.card.members]
    card = replace(router.card, hidden_key=None, members=members)
    pyramid = make_pyramid("small", "stranger")
    backends["stranger"] = fake_backend("stranger", "5")
    check_requirements(card, pyramid, backends)
    assert "reads answers of stranger as strangers'" in caplog.text


def test_log_probabilities_are_asked_of_those_who_gave_them_in_training(setting):
    pyramid, backends, router = setting
    backends["middle"].gives_logprobs = False
    members = [
        RouterMember(name=m.name, hidden_size=m.hidden_size, logprobs=m.name != "middle")
        for m in router.card.members
    ]
    check_requirements(replace(router.card, members=members), pyramid, backends)


def test_needed_hidden_states(setting):
    card = setting[2].card
    assert needed_hidden_states(card) == HiddenStates(layers=(-1,), poolings=("answer_mean",))
    assert needed_hidden_states(replace(card, hidden_key=None)) is None
    for key in ("answer_mean", "layer/answer_mean", "layer-1/horoscope", "layer2"):
        with pytest.raises(CheckpointError, match="such as layer-1/answer_mean"):
            needed_hidden_states(replace(card, hidden_key=key))


def test_recorded_confidences_are_not_to_be_had_of_a_running_model(setting):
    pyramid, backends, router = setting
    card = replace(router.card, feature_groups=[*router.card.feature_groups, "stated"])
    with pytest.raises(CheckpointError, match="large: its backend states no confidence"):
        check_requirements(card, pyramid, backends)


def test_what_entries_tell_is_said_before_models_are_loaded(
    setting, tmp_path, monkeypatch, trained_on_hidden
):
    pyramid, _, router = setting
    served = [
        replace(spec, backend="openai", base_url="http://127.0.0.1:1/v1")
        for spec in pyramid.members
    ]
    served[0] = replace(served[0], hidden_states_dir="states")
    served[1] = replace(served[1], base_url=None, port=8001, logprobs=False)
    with pytest.raises(CheckpointError) as caught:
        check_pyramid(router.card, replace(pyramid, members=served))
    message = str(caught.value)
    assert "large:" not in message
    assert "middle: has logprobs: false" in message
    assert "middle: a server" not in message
    assert f"small: a server gives no hidden states {HIDDEN_KEY}" in message

    path = tmp_path / "pyramid.yaml"
    entry = "{name: NAME, model: x, backend: openai, base_url: 'http://127.0.0.1:1/v1'}"
    members = "".join(f"  - {entry.replace('NAME', name)}\n" for name in NAMES)
    path.write_text(f"members:\n{members}oracles:\n  - {entry.replace('NAME', 'oracle')}\n")
    monkeypatch.setattr(gate, "open_backend", lambda *args, **options: pytest.fail("opened"))
    with pytest.raises(CheckpointError, match="a server gives no hidden states"):
        Gate.from_config(path, router=trained_on_hidden)
