"""Prices of models that were recorded elsewhere: the user's, the list's, or by size."""

import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pyramid_moa.backends import Price
from pyramid_moa.config_file import build_config, read_yaml
from pyramid_moa.data_prep.manifest import ModelCost
from pyramid_moa.errors import ConfigError

__all__ = ["find_cost", "read_prices"]

_LIST = Path(__file__).with_name("list_prices.yaml")
# Parameters in a name: "8B", "2.7b", "8x7B" (experts).
_SIZE = re.compile(r"(?<![\w.])(?:(\d{1,3})x)?(\d{1,4}(?:\.\d{1,2})?)[bB](?![a-zA-Z0-9])")
# Two of eight experts and the shared part run for a token, as in Mixtral's model card.
_ACTIVE_SHARE_OF_EXPERTS = 0.23
_UNKNOWN = Price(input=0.9, output=0.9)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One model in a price file."""

    input: float
    output: float
    active_parameters: float | None = None
    note: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse what is not a price.

        Raises:
            ConfigError: a number that no price or count can be.
        """
        _ = self.price
        if self.active_parameters is not None and not 0 < self.active_parameters < math.inf:
            raise ConfigError(
                "active_parameters: expected a positive number or null, found "
                f"{self.active_parameters}"
            )

    @property
    def price(self) -> Price:
        """The price; it refuses what is none."""
        return Price(input=self.input, output=self.output)


def read_prices(path: Path) -> dict[str, ModelCost]:
    """Read a user's price file: model name to input, output and what else is known.

    Args:
        path: YAML; ``input`` and ``output`` in US dollars per million tokens, and where known
            ``active_parameters``, a ``note`` to show beside costs, and the ``source`` of it all.

    Returns:
        Costs by model name.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    return _costs(read_yaml(path), source=str(path))


def find_cost(model: str, given: dict[str, ModelCost]) -> ModelCost:
    """Price a recorded model.

    Args:
        model: its name in the table.
        given: the user's prices; they come first.

    Returns:
        Its cost; ``note`` says so where the price is a stand-in.
    """
    if model in given:
        return given[model]
    listed, classes = _price_list()
    if model in listed:
        return listed[model]
    parameters = _parameters(model)
    if parameters is None:
        return ModelCost(
            name=model,
            price=_UNKNOWN,
            active_parameters=None,
            note=f"no price known for {model}: stand-in price of the 70B class; --prices gives one",
        )
    price = next(
        (c["price"] for c in classes if parameters <= c["parameters"]), classes[-1]["price"]
    )
    return ModelCost(
        name=model,
        price=Price(input=price, output=price),
        active_parameters=parameters,
        note=f"{model}: stand-in price of its size class",
    )


@cache
def _price_list() -> tuple[dict[str, ModelCost], list[dict[str, float]]]:
    """Costs of the listed models, and the size classes of all others."""
    listing = read_yaml(_LIST)
    return _costs(listing["models"], source=_LIST.name), listing["size_classes"]


def _costs(content: dict[str, Any], *, source: str) -> dict[str, ModelCost]:
    costs = {}
    for name, values in content.items():
        if not isinstance(values, dict):
            raise ConfigError(
                f"{source}: {name}: expected input and output in US dollars per million tokens, "
                f"found {values!r}"
            )
        entry = build_config(_Entry, values, source=f"{source}: {name}")
        costs[str(name)] = ModelCost(
            name=str(name),
            price=entry.price,
            active_parameters=entry.active_parameters,
            note=entry.note,
            source=entry.source,
        )
    return costs


def _parameters(model: str) -> float | None:
    """Active parameters as far as the name tells."""
    sizes = _SIZE.findall(model)
    if not sizes:
        return None
    experts, size = sizes[0]
    if experts:
        return float(experts) * float(size) * 1e9 * _ACTIVE_SHARE_OF_EXPERTS
    return float(size) * 1e9
