"""What a query may cost: dollars, and milliseconds in models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyramid_moa.backends import generation_cost_usd
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.errors import ConfigError
from pyramid_moa.router_model.card import TypicalCall

__all__ = ["CHARACTERS_PER_TOKEN", "Budget", "expected_calls"]

CHARACTERS_PER_TOKEN = 4.0
"""Of English text, by which a prompt is reckoned where nothing better is known."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits of one query; None for no limit.

    A call is made while what it is expected to take is left. What it then takes may be more: a
    budget is overrun by no more than the last call's excess over what was expected of it.

    Attributes:
        max_usd: US dollars for all calls together.
        max_ms: milliseconds in models; those that are asked together count once.
    """

    max_usd: float | None = None
    max_ms: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no amount.

        Raises:
            ConfigError: a limit is negative or no number.
        """
        for name, value in (("max_usd", self.max_usd), ("max_ms", self.max_ms)):
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{name}: expected a number from 0, found {value}")

    def leaves_room(
        self,
        groups: Sequence[Sequence[str]],
        expected: Mapping[str, TypicalCall],
        *,
        spent_usd: float,
        spent_s: float,
    ) -> bool:
        """Whether some models can still be asked.

        Args:
            groups: their names; those of one group at once, one group after another.
            expected: what a call of each takes.
            spent_usd: so far.
            spent_s: so far.
        """
        usd = spent_usd + sum(expected[name].cost_usd for group in groups for name in group)
        if self.max_usd is not None and usd > self.max_usd:
            return False
        if self.max_ms is None:
            return True
        seconds = spent_s + sum(
            max(expected[name].latency_s or 0.0 for name in group) for group in groups
        )
        return seconds * 1000.0 <= self.max_ms

    def check(self, expected: Mapping[str, TypicalCall]) -> None:
        """Make sure that it can be kept, before anybody is asked.

        Args:
            expected: what a call of each model takes.

        Raises:
            ConfigError: there is a limit on time, and nobody knows how long some model takes.
        """
        unknown = [name for name, call in expected.items() if call.latency_s is None]
        if self.max_ms is not None and unknown:
            raise ConfigError(
                f"max_ms: expected a router trained on a run with measured latencies of "
                f"{', '.join(unknown)}, found none"
            )


def expected_calls(
    pyramid: Pyramid, typical: Mapping[str, TypicalCall], question: str
) -> dict[str, TypicalCall]:
    """What a call of each model is expected to take.

    Args:
        pyramid: its models, with prices.
        typical: by model, as seen in training; for others a prompt of the question's length and
            the longest answer are reckoned with.
        question: the query's text.
    """
    prompt = round(len(question) / CHARACTERS_PER_TOKEN)
    return {
        spec.name: typical.get(
            spec.name,
            TypicalCall(cost_usd=generation_cost_usd(spec, prompt, pyramid.sampling.max_tokens)),
        )
        for spec in pyramid.models
    }
