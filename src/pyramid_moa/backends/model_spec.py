"""One model of a pyramid as its YAML describes it, and what its tokens cost."""

import math
from dataclasses import dataclass, field
from typing import Literal

from pyramid_moa.errors import ConfigError

__all__ = ["BackendKind", "ModelSpec", "Price", "generation_cost_usd", "generation_flops"]

BackendKind = Literal["transformers", "openai", "vllm", "recorded"]


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per million tokens.

    Attributes:
        input: of the prompt.
        output: of the answer.
    """

    input: float = 0.0
    output: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is not a price."""
        for name, value in (("input", self.input), ("output", self.output)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(
                    f"price.{name}: expected US dollars per million tokens, 0 or more; "
                    f"found {value}"
                )


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A member or oracle.

    Attributes:
        name: its name in the pyramid, unique there.
        backend: the way it is run.
        model: Hugging Face id, a folder (relative to the YAML file), the name that the server
            knows it by, or, recorded, ``TABLE.parquet::MODEL[::VARIANT[::SAMPLE]]``.
        price: US dollars per million tokens.
        active_parameters: parameters used for one token, for FLOPs; null where unknown.
        dtype: transformers and vllm: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        device: transformers: ``auto`` (a GPU where there is one), ``cpu``, ``cuda:0``, ...
        revision: commit or branch of a Hugging Face id.
        batch_size: transformers: rows of one forward pass.
        base_url: openai: address of the server, such as ``http://127.0.0.1:8000/v1``.
        api_key_env: openai, and vllm with a port: environment variable that holds the key; null
            for a server that needs none.
        max_concurrency: openai, and vllm with a port: requests under way at once.
        timeout_s: openai, and vllm with a port: seconds for one request.
        max_retries: openai, and vllm with a port: further tries of a request that may succeed
            later.
        longest_pause_s: openai, and vllm with a port: the longest that a server may have such a
            request wait for its next try; one that asks for more is not asked again.
        logprobs: openai, and vllm with a port: ask for token log-probabilities; false for servers
            that refuse.
        token_limit_field: openai, and vllm with a port: the request field that limits the answer's
            tokens.
        extra_body: openai, and vllm with a port: further request fields that this server
            understands; of a limit of tokens there and that of the call, the smaller holds.
        port: the model is served at this port of this machine, by the vLLM server that
            ``pyramid-moa up`` starts for it, and reached there over HTTP; null for a model that
            runs in this process (transformers, vllm) or on a server of somebody else's (openai).
        hidden_states_dir: openai: folder, shared with the server, in which its connector leaves
            hidden states; null for a server that has none, and for ``port``, which brings its own.
        tensor_parallel_size: vllm: GPUs that share the model.
        devices: vllm: GPU numbers; empty leaves the choice to vLLM.
        kv_cache_bytes: vllm: bytes of the key-value cache; null lets vLLM take what a GPU has
            left, and is 512 MiB for a vLLM that runs on CPUs.
        max_model_len: vllm: most tokens of prompt and answer together; null for the model's own.
        extra_args: vllm: further arguments, as on the command line of ``vllm serve``.
    """

    name: str
    model: str
    backend: BackendKind = "transformers"
    price: Price = field(default_factory=Price)
    active_parameters: float | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    revision: str | None = None
    batch_size: int = 64
    base_url: str | None = None
    api_key_env: str | None = None
    max_concurrency: int = 16
    timeout_s: float = 120.0
    max_retries: int = 4
    longest_pause_s: float = 120.0
    logprobs: bool = True
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra_body: dict[str, object] = field(default_factory=dict)
    port: int | None = None
    hidden_states_dir: str | None = None
    tensor_parallel_size: int = 1
    devices: list[int] = field(default_factory=list)
    kv_cache_bytes: int | None = None
    max_model_len: int | None = None
    extra_args: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Report every problem of this entry together.

        Raises:
            ConfigError: with one line a problem.
        """
        problems = [
            f"{field_name}: expected {expected}, found {getattr(self, field_name)!r}"
            for field_name, expected, good in (
                ("name", "a printable name of at most 200 characters", _is_name(self.name)),
                ("model", "a model id, folder or served name", bool(self.model.strip())),
                ("batch_size", "1 or more", self.batch_size >= 1),
                ("max_concurrency", "1 or more", self.max_concurrency >= 1),
                ("timeout_s", "more than 0 seconds", self.timeout_s > 0),
                ("max_retries", "0 or more", self.max_retries >= 0),
                ("longest_pause_s", "0 seconds or more", self.longest_pause_s >= 0),
                (
                    "active_parameters",
                    "a positive number or null",
                    self.active_parameters is None or 0 < self.active_parameters < math.inf,
                ),
                ("port", "1 to 65535, or null", self.port is None or 1 <= self.port <= 65535),
                ("tensor_parallel_size", "1 or more", self.tensor_parallel_size >= 1),
                (
                    "devices",
                    "numbers of GPUs, each once",
                    min(self.devices, default=0) >= 0
                    and len(set(self.devices)) == len(self.devices),
                ),
                ("kv_cache_bytes", "1 or more, or null", _is_positive(self.kv_cache_bytes)),
                ("max_model_len", "1 or more, or null", _is_positive(self.max_model_len)),
            )
            if not good
        ]
        problems += self._misplaced()
        if problems:
            raise ConfigError(f"model {self.name!r}: " + "; ".join(problems))

    @property
    def is_served(self) -> bool:
        """Whether it is reached over HTTP, and not run in this process."""
        return self.backend == "openai" or (self.backend == "vllm" and self.port is not None)

    def _misplaced(self) -> list[str]:
        """What this backend has no use for, or two answers to one question."""
        problems = []
        if self.port is not None and self.backend not in ("vllm", "openai"):
            problems.append(
                f"port: expected with backend vllm or openai, found with {self.backend}"
            )
        if self.port is not None and self.base_url is not None:
            problems.append(
                "port: expected without base_url, found both; port is for a server that "
                "pyramid-moa up starts, base_url for any other"
            )
        if self.hidden_states_dir is not None and not (
            self.is_served and (self.port is not None or self.base_url is not None)
        ):
            problems.append(
                "hidden_states_dir: expected with backend openai and the base_url of a vLLM "
                "server that has this folder too, found without"
            )
        if self.devices and len(self.devices) < self.tensor_parallel_size:
            problems.append(
                f"devices: expected tensor_parallel_size = {self.tensor_parallel_size} GPUs or "
                f"more, found {len(self.devices)}"
            )
        return problems


def _is_positive(value: int | None) -> bool:
    return value is None or value >= 1


def _is_name(name: str) -> bool:
    return bool(name.strip()) and name.isprintable() and len(name) <= 200


def generation_cost_usd(spec: ModelSpec, prompt_tokens: int, completion_tokens: int) -> float:
    """Price of one generation in US dollars."""
    return (prompt_tokens * spec.price.input + completion_tokens * spec.price.output) / 1e6


def generation_flops(spec: ModelSpec, prompt_tokens: int, completion_tokens: int) -> float | None:
    """FLOPs of one generation: 2 x active parameters x tokens; None where those are unknown."""
    if spec.active_parameters is None:
        return None
    return 2.0 * spec.active_parameters * (prompt_tokens + completion_tokens)
