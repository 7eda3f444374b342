"""How a router is trained, as one YAML file."""

import math
from dataclasses import dataclass, field

from pyramid_moa.errors import ConfigError
from pyramid_moa.router_model.features import DEFAULT_GROUPS, FeatureGroup

__all__ = ["NetworkConfig", "OptimiserConfig", "StepsConfig", "TrackingConfig", "TrainConfig"]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shape of the network.

    Attributes:
        code: size of what is kept of each answer.
        units: hidden units of each layer of each of the averaged networks.
        seeds: networks that are averaged.
        components: principal components kept of each member's hidden state.
        dropout: share of units and components left out at random in training.
    """

    code: int = 24
    units: int = 48
    seeds: int = 4
    components: int = 16
    dropout: float = 0.2


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How the weights are found.

    Attributes:
        learning_rate: of Adam.
        init_learning_rate: of Adam where a checkpoint is started from.
        weight_decay: pull of each step, times the learning rate, towards where the weights began:
            as they were drawn, or those of the checkpoint that is started from.
        averaging: how much of the running mean of the weights a step leaves in place.
        batch_size: queries a step.
        epoch_batches: steps of an epoch, at least; a larger epoch goes over all queries once.
        max_epochs: the most epochs.
        patience: epochs without a better validation loss before it stops.
        oracle_weight: weight of the oracle's head in the loss.
        processes: that share every batch, by Lightning's DDP; worth it from some hundred thousand
            queries.
    """

    learning_rate: float = 2e-3
    init_learning_rate: float = 5e-4
    weight_decay: float = 0.3
    averaging: float = 0.99
    batch_size: int = 256
    epoch_batches: int = 50
    max_epochs: int = 40
    patience: int = 8
    oracle_weight: float = 0.3
    processes: int = 1


@dataclass(frozen=True, kw_only=True)
class StepsConfig:
    """How the policy that goes step by step weighs money against time.

    Attributes:
        usd_per_second: what a second that a user waits is worth, in US dollars. With 0 only money
            counts, and members are asked one after another; with more they may be asked together.
            The run has to have measured latencies.
    """

    usd_per_second: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where curves are written.

    Attributes:
        loggers: any of csv, which is always written, wandb, and classes of Lightning loggers
            such as ``lightning.pytorch.loggers.TensorBoardLogger``, whose module is imported: name
            only what you trust.
        wandb_project: project in Weights & Biases.
        wandb_offline: keep its files here; false sends them, with the key in WANDB_API_KEY.
    """

    loggers: list[str] = field(default_factory=lambda: ["csv"])
    wandb_project: str = "pyramid-moa"
    wandb_offline: bool = True


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a router is trained.

    Attributes:
        groups: feature groups; those that read numbers are left out by themselves where answers
            are none; ``stated`` reads recorded confidences, which no model that is run here gives,
            and ``verifier`` what the verifier named below says.
        hidden_states: which hidden state is read: ``auto`` takes, of those that the run has of
            every member, the one that tells failures best by cross-validation, ``none`` reads none,
            anything else is a key such as ``layer-1/answer_mean``.
        verifier: folder of a verifier, as ``train-verifier`` writes it; the checkpoint takes a copy
            of it.
        network: its shape.
        optimiser: how it is fitted.
        steps: how the policy that goes step by step weighs money against time.
        tracking: where curves are written.
        seed: of everything that is drawn at random.
    """

    groups: list[FeatureGroup] = field(default_factory=lambda: list(DEFAULT_GROUPS))
    hidden_states: str = "auto"
    verifier: str | None = None
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    steps: StepsConfig = field(default_factory=StepsConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        """Report all problems together.

        Raises:
            ConfigError: with each value that is out of range.
        """
        network, optimiser = self.network, self.optimiser
        plain = [name for name in self.tracking.loggers if "." not in name]
        checks = {
            f"tracking.loggers: csv, wandb or the class of a Lightning logger, found {plain}": set(
                plain
            )
            <= {"csv", "wandb"},
            "network.code: 1 or more": network.code >= 1,
            "network.units: 1 or more": network.units >= 1,
            "network.seeds: 2 or more, each leaves a part out": network.seeds >= 2,
            "network.components: 1 or more": network.components >= 1,
            "network.dropout: from 0 to under 1": 0 <= network.dropout < 1,
            "optimiser.learning_rate: more than 0, finite": 0 < optimiser.learning_rate < math.inf,
            "optimiser.init_learning_rate: more than 0, finite": 0
            < optimiser.init_learning_rate
            < math.inf,
            "optimiser.weight_decay: 0 or more, finite": 0 <= optimiser.weight_decay < math.inf,
            "optimiser.weight_decay times learning rates: under 1": optimiser.weight_decay
            * max(optimiser.learning_rate, optimiser.init_learning_rate)
            < 1,
            "optimiser.averaging: from 0 to under 1": 0 <= optimiser.averaging < 1,
            "optimiser.batch_size: 1 or more": optimiser.batch_size >= 1,
            "optimiser.processes: from 1 to the batch size": 1
            <= optimiser.processes
            <= optimiser.batch_size,
            "optimiser.epoch_batches: 1 or more": optimiser.epoch_batches >= 1,
            "optimiser.max_epochs: 1 or more": optimiser.max_epochs >= 1,
            "optimiser.patience: 1 or more": optimiser.patience >= 1,
            "optimiser.oracle_weight: 0 or more, finite": 0 <= optimiser.oracle_weight < math.inf,
            "steps.usd_per_second: 0 or more, finite": 0 <= self.steps.usd_per_second < math.inf,
            "seed: from 0 to 2**63 - 1": 0 <= self.seed < 2**63,
            "groups: agreement among them": "agreement" in self.groups,
            "verifier: a folder where groups name verifier, and else none": bool(self.verifier)
            == ("verifier" in self.groups),
        }
        if wrong := [expected for expected, good in checks.items() if not good]:
            raise ConfigError("expected " + "; ".join(wrong))
