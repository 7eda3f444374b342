"""The pyramid: members, oracles, prompt, sampling and grader, as one YAML file."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pyramid_moa.backends import HiddenStates, ModelSpec, Sampling
from pyramid_moa.config_file import build_config, read_yaml
from pyramid_moa.data_prep.prompts import PromptTemplate
from pyramid_moa.data_prep.recorded_table import table_and_name
from pyramid_moa.errors import ConfigError

__all__ = ["Pyramid", "load_pyramid"]

EMBEDDED = "embedded"
_LOOKED_AT = 1 << 20

# What changes how a model is reached and counted, but not what it answers.
_OPERATIONAL = (
    "active_parameters",
    "api_key_env",
    "base_url",
    "batch_size",
    "device",
    "devices",
    "extra_args",
    "hidden_states_dir",
    "kv_cache_bytes",
    "longest_pause_s",
    "max_concurrency",
    "max_model_len",
    "max_retries",
    "port",
    "price",
    "tensor_parallel_size",
    "timeout_s",
)


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """Small models that answer first, and the bigger ones behind them.

    Its tiers are the members, all of them together; then each mid oracle, cheapest first; then the
    oracle.

    Attributes:
        members: listed best first: ties of a vote go to the member listed first.
        oracles: cheapest first; the last is *the* oracle, those before it are mid oracles.
        name: what reports call it.
        prompt: how a question is put to every model.
        sampling: how tokens are chosen, by every model.
        grader: how answers are found and compared.
        hidden_states: what is kept of the members' hidden states; null keeps nothing.
        price_note: said wherever a cost is shown, such as that prices are stand-ins.
        policy: how ``answer`` goes through it: ``parallel``, all members at once and then the
            oracle, or ``sequential``, step by step; null goes as the operating point says.
    """

    members: list[ModelSpec]
    oracles: list[ModelSpec]
    name: str = "pyramid"
    prompt: PromptTemplate = field(default_factory=PromptTemplate)
    sampling: Sampling = field(default_factory=Sampling)
    grader: str = "gsm8k"
    hidden_states: HiddenStates | None = None
    price_note: str = ""
    policy: Literal["parallel", "sequential"] | None = None

    def __post_init__(self) -> None:
        """Check what no single entry can.

        Raises:
            ConfigError: no members, no oracle, a name used twice, or an unknown grader.
        """
        from pyramid_moa.grading import load_grader

        problems = []
        if not self.members:
            problems.append("members: expected at least one, found none")
        if not self.oracles:
            problems.append("oracles: expected at least one, found none")
        names = [spec.name for spec in self.models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            problems.append(f"names must differ, found more than once: {', '.join(twice)}")
        if problems:
            raise ConfigError("; ".join(problems))
        load_grader(self.grader)

    @property
    def oracle(self) -> ModelSpec:
        """The strongest model, whose answers stand in for gold where there is none."""
        return self.oracles[-1]

    @property
    def mid_oracles(self) -> list[ModelSpec]:
        """Those between the members and the oracle, cheapest first."""
        return self.oracles[:-1]

    @property
    def models(self) -> list[ModelSpec]:
        """Members, mid oracles, then the oracle."""
        return [*self.members, *self.oracles]

    @property
    def models_before_oracle(self) -> list[ModelSpec]:
        """Members, then mid oracles: all whose answers can be evidence on whether to ask on."""
        return self.models[:-1]

    @property
    def tiers(self) -> list[list[str]]:
        """Names of those who are asked at once: the members, each mid oracle, then the oracle."""
        return [self.member_names, *([spec.name] for spec in self.oracles)]

    @property
    def member_names(self) -> list[str]:
        """Names of the members, best first."""
        return [spec.name for spec in self.members]

    def spec(self, name: str) -> ModelSpec:
        """The entry of a model by name."""
        return next(spec for spec in self.models if spec.name == name)

    def hidden_states_of(self, model: int) -> HiddenStates | None:
        """What is kept of a model's, by its index in ``models``; nothing of any oracle's."""
        # They are the router's evidence on members; an oracle, hosted as a rule, gives none.
        return self.hidden_states if model < len(self.members) else None

    def identity(self) -> dict[str, Any]:
        """All that decides what the models answer, as plain values for a manifest."""
        content = asdict(self)
        for model in [*content["members"], *content["oracles"]]:
            for key in _OPERATIONAL:
                del model[key]
            # Where a folder lies is this machine's business; what is in it is the model.
            if Path(model["model"]).is_dir():
                model["model"] = _folder_identity(Path(model["model"]))
            table, _, recording = model["model"].partition("::")
            if model["backend"] == "recorded" and Path(table).is_file():
                model["model"] = f"{_identity_of(Path(table).name, [Path(table)])}::{recording}"
        # What becomes of the answers, but not what they are.
        del content["price_note"], content["policy"]
        return content


def _folder_identity(folder: Path) -> str:
    """Name of a model's folder, with a hash that tells another model of that name."""
    files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json"))
    return _identity_of(folder.name, files)


def _identity_of(name: str, files: Iterable[Path]) -> str:
    """A name with a hash of files, each looked at in its first and last megabyte.

    All of a model's tens of gigabytes would take minutes.
    """
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_LOOKED_AT))
            file.seek(max(0, size - _LOOKED_AT))
            digest.update(file.read())
    return f"{name}@{digest.hexdigest()[:16]}"


def load_pyramid(source: str | Path) -> Pyramid:
    """Read a pyramid.

    Args:
        source: a YAML file, or ``embedded`` for the pyramid that comes with the package.

    Returns:
        The pyramid; folders of models are resolved against the YAML file's own folder.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    if str(source) == EMBEDDED:
        source = str(files("pyramid_moa.embedded") / "pyramid.yaml")
    path = Path(source)
    content = read_yaml(path)
    pyramid = build_config(Pyramid, content, source=str(path))
    return replace(
        pyramid,
        members=_resolved(pyramid.members, content["members"], path.parent),
        oracles=_resolved(pyramid.oracles, content["oracles"], path.parent),
    )


def _resolved(
    specs: list[ModelSpec], entries: list[dict[str, Any]], folder: Path
) -> list[ModelSpec]:
    return [_resolve(spec, entry, folder) for spec, entry in zip(specs, entries, strict=True)]


def _resolve(spec: ModelSpec, entry: dict[str, Any], folder: Path) -> ModelSpec:
    """Make a folder beside the YAML file absolute; anything else is a model id."""
    # Parsed again as YAML on the way, a quoted "12" would have become a number.
    spec = replace(spec, extra_body=entry.get("extra_body", {}))
    if spec.backend == "recorded":
        table, name = table_and_name(spec.model)
        return replace(spec, model=f"{(folder / table).resolve()}::{name}")
    # What stands in an entry without a port and with a base_url is the name that a server knows.
    if spec.backend in ("transformers", "vllm") or spec.port is not None:
        beside = folder / spec.model
        if beside.is_dir():
            return replace(spec, model=str(beside.resolve()))
    return spec
