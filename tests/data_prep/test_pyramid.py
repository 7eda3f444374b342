from dataclasses import replace
from pathlib import Path

import pytest

from pyramid_moa.backends import HiddenStates, ModelSpec, Price
from pyramid_moa.data_prep.pyramid import Pyramid, load_pyramid
from pyramid_moa.errors import ConfigError

YAML = """
name: pair
members:
  - {name: small, model: models/small, price: {input: 0.1, output: 0.2}}
  - {name: hub, model: org/model}
oracles:
  - {name: big, model: served, backend: openai, base_url: "http://127.0.0.1:1/v1"}
prompt: {template: "Q: {question}", chat: false}
sampling: {max_tokens: 8, stop: ["\\n"]}
grader: exact
hidden_states: {layers: [-1, 2], poolings: [last_prompt]}
price_note: stand-in prices
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "models" / "small").mkdir(parents=True)
    (tmp_path / "served").mkdir()
    path = tmp_path / "pyramid.yaml"
    path.write_text(YAML)
    return path


def spec(name, **fields):
    return ModelSpec(name=name, model="x", **fields)


def test_how_it_is_gone_through_is_no_part_of_what_is_answered(path):
    plain = load_pyramid(path)
    path.write_text(YAML + "policy: sequential\n")
    assert load_pyramid(path).policy == "sequential"
    assert load_pyramid(path).identity() == plain.identity()
    path.write_text(YAML + "policy: one by one\n")
    with pytest.raises(ConfigError, match="policy"):
        load_pyramid(path)


def test_a_file_becomes_a_pyramid(path):
    found = load_pyramid(path)
    assert found.member_names == ["small", "hub"]
    assert found.oracle.name == "big"
    assert [model.name for model in found.models] == ["small", "hub", "big"]
    assert found.spec("hub").model == "org/model"
    assert found.sampling.stop == ("\n",)
    assert found.hidden_states == HiddenStates(layers=(-1, 2), poolings=("last_prompt",))
    assert found.prompt.render("2+2?").text == "Q: 2+2?"


def test_a_folder_beside_the_file_is_found_from_anywhere(path, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    found = load_pyramid(str(path))
    assert found.spec("small").model == str(tmp_path / "models" / "small")
    # A server's name for its model is no folder, whatever lies beside the file.
    assert found.oracle.model == "served"


def test_a_model_with_a_port_is_a_folder_however_it_is_reached(path, tmp_path):
    served = 'model: served, backend: openai, base_url: "http://127.0.0.1:1/v1"'
    assert served in YAML
    path.write_text(YAML.replace(served, "model: served, backend: openai, port: 8001"))
    assert load_pyramid(path).oracle.model == str(tmp_path / "served")


def test_the_embedded_pyramid_goes_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = load_pyramid("embedded")
    assert len(found.members) == 3
    assert "stand-in" in found.price_note
    assert all(Path(model.model).is_absolute() for model in found.models)


def names(specs):
    return [spec.name for spec in specs]


def test_one_oracle_makes_two_tiers():
    found = Pyramid(members=[spec("a"), spec("b")], oracles=[spec("o")])
    assert found.tiers == [["a", "b"], ["o"]]
    assert found.mid_oracles == []
    assert names(found.models_before_oracle) == ["a", "b"]


def test_the_last_of_several_oracles_is_the_oracle(path):
    entry = '  - {name: big, model: served, backend: openai, base_url: "http://127.0.0.1:1/v1"}\n'
    mids = "  - {name: mid, model: models/small}\n  - {name: upper, model: org/upper}\n"
    assert entry in YAML
    path.write_text(YAML.replace(entry, mids + entry))
    found = load_pyramid(path)
    assert found.tiers == [["small", "hub"], ["mid"], ["upper"], ["big"]]
    assert found.oracle.name == "big"
    assert names(found.mid_oracles) == ["mid", "upper"]
    assert names(found.models_before_oracle) == ["small", "hub", "mid", "upper"]
    assert names(found.models) == ["small", "hub", "mid", "upper", "big"]
    # A mid oracle's folder is found beside the file too; hidden states are the members' alone.
    assert found.spec("mid").model == found.spec("small").model
    kept = [found.hidden_states_of(model) is not None for model in range(5)]
    assert kept == [True, True, False, False, False]


def test_the_order_of_oracles_is_part_of_what_a_pyramid_is():
    one = Pyramid(members=[spec("a")], oracles=[spec("mid"), spec("o")])
    other = Pyramid(members=[spec("a")], oracles=[spec("o"), spec("mid")])
    assert one.identity() != other.identity()


@pytest.mark.parametrize(
    ("members", "oracles", "says"),
    [
        ([], [spec("o")], "members: expected at least one, found none"),
        ([spec("a")], [], "oracles: expected at least one, found none"),
        ([spec("a"), spec("b"), spec("a")], [spec("b")], "found more than once: a, b"),
        ([spec("a")], [spec("o"), spec("o")], "found more than once: o"),
        ([spec("a")], [spec("a"), spec("o")], "found more than once: a"),
    ],
)
def test_what_is_no_pyramid(members, oracles, says):
    with pytest.raises(ConfigError, match=says):
        Pyramid(members=members, oracles=oracles)


def test_all_problems_are_reported_together():
    with pytest.raises(ConfigError, match=r"members: .*; oracles: "):
        Pyramid(members=[], oracles=[])


def test_an_unknown_grader():
    with pytest.raises(ConfigError, match="unknown grader 'guess'"):
        Pyramid(members=[spec("a")], oracles=[spec("o")], grader="guess")


def test_what_changes_no_answer_is_no_part_of_the_identity(path):
    found = load_pyramid(path)
    same = replace(
        found,
        members=[
            replace(
                found.members[0],
                price=Price(input=9),
                batch_size=3,
                active_parameters=8e9,
                device="cuda:0",
            ),
            found.members[1],
        ],
        oracles=[
            replace(found.oracle, base_url="https://elsewhere/v1", timeout_s=3, api_key_env="KEY")
        ],
        price_note="real prices",
    )
    assert same.identity() == found.identity()


@pytest.mark.parametrize(
    "change",
    [
        {"grader": "gsm8k"},
        {"hidden_states": None},
        {"members": [spec("hub"), spec("small")]},
        {"oracles": [spec("big", dtype="bfloat16")]},
    ],
)
def test_what_changes_answers_is(path, change):
    found = load_pyramid(path)
    assert replace(found, **change).identity() != found.identity()


def test_where_a_models_folder_lies_does_not_matter(path, tmp_path):
    there = tmp_path / "elsewhere"
    (there / "models" / "small").mkdir(parents=True)
    (there / "pyramid.yaml").write_text(YAML)
    assert load_pyramid(path).identity() == load_pyramid(there / "pyramid.yaml").identity()
