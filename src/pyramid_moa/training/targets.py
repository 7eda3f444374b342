"""What an operating point can be asked to keep to."""

import math
from dataclasses import dataclass
from typing import Literal

from pyramid_moa.errors import ConfigError

__all__ = ["Target", "TargetKind", "one_target"]

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


def one_target(**values: float | None) -> Target:
    """The one that is given.

    Args:
        values: by kind; None where it is not asked for.

    Raises:
        ConfigError: not exactly one, or it is out of range.
    """
    kinds: tuple[TargetKind, ...] = (
        "target_accuracy",
        "max_drop",
        "target_cost_ratio",
        "max_usd_per_1000",
    )
    given = [
        Target(kind=kind, value=value) for kind in kinds if (value := values[kind]) is not None
    ]
    if len(given) != 1:
        flags = ", ".join(Target(kind=kind, value=0.0).flag for kind in kinds)
        found = ", ".join(target.flag for target in given) or "none"
        raise ConfigError(
            f"expected exactly one of {flags}, found {found}; give each target a name of its own "
            "(--name)"
        )
    (target,) = given
    least, most = 0.0, math.inf if target.is_cost else 1.0
    if not least <= target.value <= most or math.isinf(target.value):
        raise ConfigError(
            f"{target.flag}: expected {'a number' if target.is_cost else 'a share'} from 0 to "
            f"{most:g}, found {target.value}"
        )
    return target
