"""What an operating point can be asked to keep to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pyramid_moa.errors import ConfigError

__all__ = [
    "Target",
    "TargetKind",
    "least_measured",
    "most_measured",
    "told_together",
    "wanted_targets",
]

TargetKind = Literal["target_accuracy", "max_drop", "target_cost_ratio", "max_usd_per_1000"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One target.

    Attributes:
        kind: which.
        value: accuracies and drops from 0 to 1; cost relative to the oracle's; or US dollars for a
            thousand questions.
    """

    kind: TargetKind
    value: float

    @property
    def flag(self) -> str:
        """How the command line calls it."""
        return f"--{self.kind.replace('_', '-')}"

    @property
    def is_cost(self) -> bool:
        """Whether it limits what is spent, at the best accuracy; else accuracy, at the least."""
        return self.kind in ("target_cost_ratio", "max_usd_per_1000")

    def told(self, *, oracle_accuracy: float | None = None) -> str:
        """The target in words, with the accuracy that the oracle was found to have."""
        oracle = "" if oracle_accuracy is None else f" of {oracle_accuracy:.4f}"
        return {
            "target_accuracy": f"accuracy of at least {self.value:g}",
            "max_drop": f"at most {self.value:g} below the oracle's accuracy{oracle}",
            "target_cost_ratio": f"cost ratio of at most {self.value:g}",
            "max_usd_per_1000": f"at most {self.value:g} USD for 1000 questions",
        }[self.kind]


def told_together(targets: Sequence[Target], *, oracle_accuracy: float | None = None) -> str:
    """Several in words, with the accuracy that the oracle was found to have."""
    return " and ".join(target.told(oracle_accuracy=oracle_accuracy) for target in targets)


def least_measured(targets: Sequence[Target], oracle_accuracy: float) -> float:
    """The accuracy that they leave; 0 where none is about accuracy."""
    return max(
        (
            target.value if target.kind == "target_accuracy" else oracle_accuracy - target.value
            for target in targets
            if not target.is_cost
        ),
        default=0.0,
    )


def most_measured(targets: Sequence[Target], oracle_usd: float) -> float:
    """The cost over the oracle's that they leave; infinite where none is about costs.

    Args:
        targets: all of them.
        oracle_usd: US dollars of asking the oracle a thousand times.
    """
    return min(
        (
            target.value if target.kind == "target_cost_ratio" else target.value / oracle_usd
            for target in targets
            if target.is_cost
        ),
        default=math.inf,
    )


def wanted_targets(**values: float | None) -> tuple[Target, ...]:
    """Those that are given, accuracies before costs.

    Args:
        values: by kind; None where it is not asked for.

    Raises:
        ConfigError: there is none, or one is out of range.
    """
    kinds: tuple[TargetKind, ...] = (
        "target_accuracy",
        "max_drop",
        "target_cost_ratio",
        "max_usd_per_1000",
    )
    given = tuple(
        Target(kind=kind, value=value) for kind in kinds if (value := values[kind]) is not None
    )
    if not given:
        flags = ", ".join(Target(kind=kind, value=0.0).flag for kind in kinds)
        raise ConfigError(f"expected one or more of {flags}, found none")
    for target in given:
        least, most = 0.0, math.inf if target.is_cost else 1.0
        if not least <= target.value <= most or math.isinf(target.value):
            raise ConfigError(
                f"{target.flag}: expected {'a number' if target.is_cost else 'a share'} from 0 to "
                f"{most:g}, found {target.value}"
            )
    return given
