"""``manifest.json`` of a run folder: what was asked, of whom, how, and how far it got."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.backends import ModelSpec, Price
from pyramid_moa.data_prep.pyramid import Pyramid
from pyramid_moa.errors import RunFolderError

__all__ = [
    "RUN_FORMAT_VERSION",
    "Manifest",
    "ModelCost",
    "model_cost",
    "model_costs",
    "read_manifest",
    "write_manifest",
]

RUN_FORMAT_VERSION = 2
_FORMAT = "pyramid-moa run"


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What a model's tokens cost.

    Attributes:
        name: the model.
        price: US dollars per million tokens.
        active_parameters: for FLOPs; None where unknown.
        note: what has to be said wherever a cost is shown.
        source: where price and parameters are from.
    """

    name: str
    price: Price
    active_parameters: float | None
    note: str = ""
    source: str = ""

    def flops(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        """2 x active parameters x tokens, or None where one is unknown."""
        if self.active_parameters is None or prompt_tokens is None or completion_tokens is None:
            return None
        return 2.0 * self.active_parameters * (prompt_tokens + completion_tokens)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The head of a run folder.

    Attributes:
        dataset: name of the data set.
        dataset_hash: SHA-256 over its queries.
        reference: ``gold``, or ``oracle`` where the data has no gold.
        members: names, best first.
        oracle: name.
        costs: one entry a model, in the order of ``models``.
        price_note: said wherever a cost is shown.
        grader: name of the grader.
        splits: how queries were divided: ``hash``, or the one split all are in.
        pyramid: all that decides what the models answer.
        counts: queries, generations, failed generations in all and by model, those of them that
            ``--resume`` asks for again, and what all of them have cost in US dollars.
        complete: whether every model has answered every query.
        tokens_estimated: whether any token count is an estimate.
        mid_oracles: names of those between the members and the oracle, cheapest first.
        format_version: of the run folder.
    """

    dataset: str
    dataset_hash: str
    reference: str
    members: list[str]
    oracle: str
    costs: list[ModelCost]
    price_note: str
    grader: str
    splits: str
    pyramid: dict[str, Any]
    counts: dict[str, Any] = field(default_factory=dict)
    complete: bool = False
    tokens_estimated: bool = False
    mid_oracles: list[str] = field(default_factory=list)
    format_version: int = RUN_FORMAT_VERSION

    @property
    def models(self) -> list[str]:
        """Members, mid oracles, then the oracle: the order of a run's parts."""
        return [*self.models_before_oracle, self.oracle]

    @property
    def models_before_oracle(self) -> list[str]:
        """Members, then mid oracles."""
        return [*self.members, *self.mid_oracles]

    @property
    def tiers(self) -> list[list[str]]:
        """Names by tier: the members together, then each mid oracle and the oracle alone."""
        return [self.members, *([name] for name in (*self.mid_oracles, self.oracle))]

    def differences(self, other: "Manifest") -> list[str]:
        """Name what makes two runs different runs, each as ``key: ours is not theirs``."""
        ours, theirs = _identity(self), _identity(other)
        return [
            f"{key}: {_short(ours.get(key))} is not {_short(theirs.get(key))}"
            for key in sorted({*ours, *theirs})
            if ours.get(key) != theirs.get(key)
        ]


def model_costs(pyramid: Pyramid) -> list[ModelCost]:
    """Prices of a pyramid's models, as its YAML has them."""
    return [model_cost(spec) for spec in pyramid.models]


def read_manifest(run: Path) -> Manifest:
    """Read and check the head of a run folder.

    Raises:
        RunFolderError: there is none, or it is not one of this format version.
    """
    path = run / "manifest.json"
    if not path.is_file():
        raise RunFolderError(
            f"{run}: expected a run folder with manifest.json, found "
            f"{'none' if run.is_dir() else 'no such folder'}; pyramid-moa label or import makes one"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("format_version")
        kind = content.pop("format")
        if kind != _FORMAT or version != RUN_FORMAT_VERSION:
            raise RunFolderError(
                f"{path}: expected {_FORMAT} version {RUN_FORMAT_VERSION}, found {kind} {version}"
            )
        content["costs"] = [
            ModelCost(**{**cost, "price": Price(**cost["price"])}) for cost in content["costs"]
        ]
        return Manifest(**content)
    except RunFolderError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunFolderError(f"{path}: damaged ({type(error).__name__}: {error})") from error


def write_manifest(run: Path, manifest: Manifest) -> None:
    """Write the head of a run folder in one step."""
    content = {"format": _FORMAT, **asdict(manifest)}
    if not manifest.mid_oracles:
        # A run of two tiers stays one that older versions of this package can read.
        del content["mid_oracles"]
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    write_text_atomically(run / "manifest.json", text + "\n")


def model_cost(spec: ModelSpec) -> ModelCost:
    """What a model's tokens cost, as its entry has it."""
    return ModelCost(name=spec.name, price=spec.price, active_parameters=spec.active_parameters)


def _identity(manifest: Manifest) -> dict[str, object]:
    """Everything but progress and prices, flattened to dotted keys."""
    progress = {"counts", "complete", "tokens_estimated", "costs", "price_note"}
    content = {
        item.name: getattr(manifest, item.name)
        for item in fields(manifest)
        if item.name not in progress
    }
    # Through JSON, so that tuples and lists of a fresh and of a stored manifest compare equal.
    return _flat(json.loads(json.dumps(content)))


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        items = [(f"{prefix}.{key}" if prefix else str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(f"{prefix}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {prefix: value}
    flat: dict[str, object] = {prefix: type(value).__name__} if not items else {}
    for key, item in items:
        flat.update(_flat(item, key))
    return flat


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
