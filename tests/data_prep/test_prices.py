import pytest
import yaml

from pyramid_moa.backends import Price
from pyramid_moa.data_prep import prices as prices_module
from pyramid_moa.data_prep.manifest import ModelCost
from pyramid_moa.data_prep.prices import find_cost, read_prices
from pyramid_moa.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "prices.yaml"
        path.write_text(text)
        return path

    return write


def test_a_users_prices_come_first(write):
    given = read_prices(
        write(
            "gpt-4o: {input: 1, output: 2, active_parameters: 2e11, note: ours, source: page}\n"
            "my: {input: 0, output: 0.5}\n"
        )
    )
    assert find_cost("gpt-4o", given) == ModelCost(
        name="gpt-4o",
        price=Price(input=1, output=2),
        active_parameters=2e11,
        note="ours",
        source="page",
    )
    assert find_cost("my", given).price == Price(output=0.5)


def test_listed_models_have_listed_prices():
    cost = find_cost("gpt-4o-2024-08-06", {})
    assert cost.price == Price(input=2.5, output=10.0)
    assert cost.note == ""


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("Foo-8B-Instruct", 8e9),
        ("foo-2.7b", 2.7e9),
        ("foo-405B", 405e9),
        ("Foo-8x7B-Instruct-v9", 8 * 7e9 * 0.23),
        ("Foo1.5-34B-Chat", 34e9),
        ("foo-3b4", None),
        ("foo-v1.5", None),
        ("foo 5Bit", None),
    ],
)
def test_others_are_priced_by_the_size_in_their_name(model, parameters):
    cost = find_cost(model, {})
    assert cost.active_parameters == (None if parameters is None else pytest.approx(parameters))
    assert model in cost.note
    assert "stand-in" in cost.note
    assert cost.price.input == cost.price.output > 0
    assert ("no price known" in cost.note) == (parameters is None)


def test_larger_models_cost_no_less():
    sizes = (0.5, 3, 8, 13, 34, 70, 110, 405, 4000)
    prices = [find_cost(f"Foo-{size}B", {}).price.input for size in sizes]
    assert prices == sorted(prices)
    assert prices[0] < prices[2] < prices[5] < prices[7] == prices[8]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpt: 3\n", "gpt: expected input and output in US dollars per million tokens, found 3"),
        ("gpt: {input: 1}\n", "gpt: .*output"),
        ("gpt: {input: 1, output: 2, currency: EUR}\n", "gpt: .*currency"),
        ("gpt: {input: much, output: 2}\n", "gpt: .*input"),
        ("gpt: {input: 1, output: 2, source: [a]}\n", "gpt: .*source"),
        ("gpt: {input: -1, output: 2}\n", r"gpt: price\.input: expected US dollars"),
        ("gpt: {input: 1, output: .nan}\n", r"gpt: price\.output"),
        ("gpt: {input: 1, output: 1, active_parameters: 0}\n", "gpt: active_parameters"),
        ("gpt: {input: 1, output: 1, active_parameters: .inf}\n", "gpt: active_parameters"),
        ("- gpt\n", "expected keys"),
    ],
)
def test_what_is_no_price_list(write, text, says):
    with pytest.raises(ConfigError, match=rf"prices\.yaml: .*{says}|prices\.yaml: {says}"):
        read_prices(write(text))


def test_every_entry_of_the_list_is_a_price():
    listing = yaml.safe_load(prices_module._LIST.read_text(encoding="utf-8"))
    for model in listing["models"]:
        cost = find_cost(model, {})
        assert cost.price.output > 0
    assert [c["parameters"] for c in listing["size_classes"]] == sorted(
        c["parameters"] for c in listing["size_classes"]
    )
