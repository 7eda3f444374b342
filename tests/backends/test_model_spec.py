import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_moa.backends import (
    HiddenStates,
    ModelSpec,
    Price,
    Prompt,
    Sampling,
    generation_cost_usd,
    generation_flops,
)
from pyramid_moa.errors import ConfigError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "two\nlines"),
        ("name", "x" * 201),
        ("model", "  "),
        ("batch_size", 0),
        ("max_concurrency", 0),
        ("timeout_s", 0.0),
        ("timeout_s", math.nan),
        ("max_retries", -1),
        ("longest_pause_s", -1),
        ("active_parameters", 0.0),
        ("active_parameters", math.inf),
        ("active_parameters", math.nan),
        ("port", 0),
        ("port", 65536),
        ("tensor_parallel_size", 0),
        ("devices", [-1]),
        ("devices", [1, 1]),
        ("kv_cache_bytes", 0),
        ("max_model_len", 0),
    ],
)
def test_a_field_that_no_model_has_is_named(field, value):
    with pytest.raises(ConfigError, match=rf"{field}: expected .*, found"):
        ModelSpec(**{"name": "m", "model": "x", field: value})


def test_all_problems_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        ModelSpec(name="m", model="x", batch_size=0, timeout_s=-1, max_retries=-2)
    for field in ("model 'm'", "batch_size", "timeout_s", "max_retries"):
        assert field in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"port": 8001}, "port: expected with backend vllm or openai, found with transformers"),
        ({"backend": "openai", "port": 1, "base_url": "http://x/v1"}, "port: expected without"),
        ({"hidden_states_dir": "d"}, "hidden_states_dir: expected with backend openai"),
        ({"backend": "vllm", "hidden_states_dir": "d"}, "hidden_states_dir: expected with"),
        ({"backend": "openai", "hidden_states_dir": "d"}, "hidden_states_dir: expected with"),
        ({"backend": "vllm", "devices": [0], "tensor_parallel_size": 2}, "2 GPUs or more, found 1"),
    ],
)
def test_a_field_where_it_has_no_use(fields, says):
    with pytest.raises(ConfigError, match=says):
        ModelSpec(name="m", model="x", **fields)


def test_names_as_hubs_have_them():
    assert ModelSpec(name="Qwen/Qwen2-7B Größe", model="x").name == "Qwen/Qwen2-7B Größe"


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("field", ["input", "output"])
def test_what_is_no_price(field, value):
    with pytest.raises(ConfigError, match=rf"price\.{field}: expected US dollars"):
        Price(**{field: value})


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_cost_and_flops(prompt, completion):
    spec = ModelSpec(name="m", model="x", price=Price(input=0.5, output=2.0), active_parameters=8e9)
    assert generation_cost_usd(spec, prompt, completion) == pytest.approx(
        prompt * 0.5e-6 + completion * 2e-6
    )
    assert generation_flops(spec, prompt, completion) == 2 * 8e9 * (prompt + completion)
    assert generation_flops(ModelSpec(name="m", model="x"), prompt, completion) is None


def test_a_million_tokens_cost_the_price():
    spec = ModelSpec(name="m", model="x", price=Price(input=0.25, output=1.5))
    assert generation_cost_usd(spec, 1_000_000, 0) == 0.25
    assert generation_cost_usd(spec, 0, 1_000_000) == 1.5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("stop", ("ok", "")),
    ],
)
def test_what_is_no_sampling(field, value):
    with pytest.raises(ConfigError, match=rf"^sampling: {field}: expected .*, found"):
        Sampling(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layers", ()),
        ("layers", (1, 1)),
        ("poolings", ()),
        ("poolings", ("answer_mean", "answer_mean")),
    ],
)
def test_which_hidden_states_must_be_clear(field, value):
    with pytest.raises(ConfigError, match=rf"^hidden_states: {field}: expected one or more"):
        HiddenStates(**{field: value})


def test_names_of_hidden_states():
    keys = HiddenStates(layers=(-1, 3), poolings=("last_prompt", "answer_mean")).keys
    assert keys == (
        "layer-1/last_prompt", "layer-1/answer_mean", "layer3/last_prompt", "layer3/answer_mean"
    )  # fmt: skip


@pytest.mark.parametrize("fields", [{}, {"text": "a", "messages": ()}])
def test_a_prompt_is_messages_or_text(fields):
    with pytest.raises(AssertionError, match="messages or text"):
        Prompt(**fields)
