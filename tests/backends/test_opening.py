import pytest

from pyramid_moa.backends import HiddenStates, ModelSpec, Prompt, Sampling, open_backend, openai_api
from pyramid_moa.errors import BackendError, ConfigError


def test_transformers_is_opened_with_its_hidden_states(tiny_models):
    spec = ModelSpec(name="tiny", model=str(tiny_models.member_b))
    backend = open_backend(spec, hidden_states=HiddenStates())
    assert backend.name == "tiny"
    assert backend.gives_logprobs
    assert backend.hidden_keys == ("layer-1/answer_mean",)
    (answer,) = backend.generate([Prompt(text="1 2 3")], Sampling(max_tokens=2))
    assert answer.hidden_states["layer-1/answer_mean"].shape == (64,)
    backend.close()


@pytest.mark.parametrize(
    ("backend", "says"), [("vllm", "does not run in process yet"), ("recorded", "no model to run")]
)
def test_what_cannot_be_opened_says_what_to_do(backend, says):
    with pytest.raises(ConfigError, match=f"model 'm': .*{says}.*openai"):
        open_backend(ModelSpec(name="m", model="x", backend=backend))


class Server:
    """In place of the adapter: answers its check or does not."""

    opened = ()

    def __init__(self, spec):
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
    spec = ModelSpec(name="there", model="x", backend="openai", base_url="http://127.0.0.1:1/v1")
    assert open_backend(spec) is Server.opened[0]
    assert not Server.opened[0].closed


@pytest.mark.usefixtures("_server")
def test_a_server_that_is_gone_leaves_nothing_open():
    spec = ModelSpec(name="gone", model="x", backend="openai", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(BackendError, match="no server there"):
        open_backend(spec)
    assert Server.opened[0].closed
