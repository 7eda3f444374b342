"""Recordings that a pyramid of the suite may be drawn from: who answered what, and rightly."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pyramid_moa.data_prep.manifest import ModelCost

__all__ = ["Candidate", "accuracy", "name_within", "read_candidates", "shared_questions"]

_COLUMNS = ["split", "question_id", "model", "variant", "sample", "correct"]
# The "34B class" ends with Yi-1.5-34B, of 34.4 billion parameters.
_MEMBER_PARAMETERS = (1e9, 34.5e9)
_70B_PARAMETERS = (60e9, 90e9)
_100B_PARAMETERS = 100e9


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One recording: a model in one way of asking.

    Attributes:
        table: the file below the folder of data.
        model: its name there.
        variant: prompt and decoding.
        sample: number of the sample.
        cost: its price and size.
        answered: the questions it has a row for, one bit each.
        right: those of them that it has right.
    """

    table: str
    model: str
    variant: str
    sample: int
    cost: ModelCost
    answered: int
    right: int

    @property
    def title(self) -> str:
        """The whole name, as ``import`` takes it."""
        return f"{self.model}::{self.variant}::{self.sample}"

    @property
    def weights(self) -> str:
        """The language model without adapters: two sets of adapters are no two models."""
        return self.model.partition(" + adapter")[0]

    @property
    def price(self) -> float:
        """US dollars for half a million tokens in and half a million out."""
        return (self.cost.price.input + self.cost.price.output) / 2

    @property
    def role(self) -> str:
        """``member``, or the class of oracle: ``70b``, ``100b``, ``gpt-4o``, ``claude-3.5``."""
        size = self.cost.active_parameters
        if size is not None:
            if _MEMBER_PARAMETERS[0] <= size <= _MEMBER_PARAMETERS[1]:
                return "member"
            if _70B_PARAMETERS[0] <= size <= _70B_PARAMETERS[1]:
                return "70b"
            if size >= _100B_PARAMETERS:
                return "100b"
        elif self.model.startswith("claude-3-5-sonnet"):
            return "claude-3.5"
        elif self.model.startswith(("gpt-4o", "chatgpt-4o")):
            return "gpt-4o"
        raise ValueError(f"{self.model}: expected a size or family that has a place in the suite")


def read_candidates(
    data: Path, tables: tuple[str, ...], costs: dict[str, ModelCost]
) -> list[Candidate]:
    """Read what the models that have a price have answered.

    Args:
        data: the folder of data.
        tables: of one data set, below it.
        costs: by model; others are passed over.

    Returns:
        The recordings, in the order of tables, models, variants and samples.
    """
    bits: dict[tuple[str, str], int] = {}
    found: dict[tuple[str, str, str, int], list[int]] = defaultdict(lambda: [0, 0])
    for table in tables:
        for row in pq.read_table(data / table, columns=_COLUMNS).to_pylist():
            if row["model"] not in costs:
                continue
            key = (row["split"], str(row["question_id"]))
            bit = 1 << bits.setdefault(key, len(bits))
            masks = found[table, row["model"], row["variant"], row["sample"]]
            masks[0] |= bit
            masks[1] |= bit if row["correct"] else 0
    return [
        Candidate(
            table=table,
            model=model,
            variant=variant,
            sample=sample,
            cost=costs[model],
            answered=answered,
            right=right,
        )
        for (table, model, variant, sample), (answered, right) in sorted(found.items())
    ]


def shared_questions(candidates: list[Candidate]) -> int:
    """The questions that all have a row for, one bit each."""
    shared = candidates[0].answered
    for candidate in candidates[1:]:
        shared &= candidate.answered
    return shared


def accuracy(candidate: Candidate, questions: int) -> float:
    """Share of the questions that it has right."""
    return (candidate.right & questions).bit_count() / questions.bit_count()


def name_within(candidate: Candidate, others: list[Candidate]) -> str:
    """The shortest name that fits no other recording among these."""
    same = [other for other in others if other.model == candidate.model]
    if len(same) == 1:
        return candidate.model
    same = [other for other in same if other.variant == candidate.variant]
    return f"{candidate.model}::{candidate.variant}" if len(same) == 1 else candidate.title
