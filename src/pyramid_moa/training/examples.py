"""What the network is fitted on: features, hidden states and labels of chosen queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.errors import RunFolderError
from pyramid_moa.router_model.features import FeatureSpec, gather_evidence
from pyramid_moa.router_model.hidden_rows import HiddenRows, float_rows, spans

__all__ = ["Examples", "gather_examples"]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Tensors of n queries, but for hidden states, which stay where they are.

    Attributes:
        features: [n, F], NaN where unknown.
        hidden: [n, H] for each member, read as they are needed; empty where none are read.
        ensemble_fails: [n], 1 where the members' vote is wrong.
        oracle_right: [n], 1 where the oracle's answer is right.
    """

    features: torch.Tensor
    hidden: tuple[HiddenRows, ...]
    ensemble_fails: torch.Tensor
    oracle_right: torch.Tensor

    @property
    def labels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both labels, [n] each."""
        return self.ensemble_fails, self.oracle_right

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.features)

    def take(self, positions: Sequence[int]) -> "Examples":
        """Some of the queries, by position; their hidden states are not copied."""
        index = torch.as_tensor(positions, dtype=torch.long)
        return Examples(
            features=self.features[index],
            hidden=tuple(_ChosenRows(rows, index.numpy()) for rows in self.hidden),
            ensemble_fails=self.ensemble_fails[index],
            oracle_right=self.oracle_right[index],
        )


def gather_examples(run: LabelledRun, spec: FeatureSpec, *, hidden_key: str | None) -> Examples:
    """Compute features and labels of every query of a run.

    Args:
        run: the labelled data.
        spec: members and feature groups.
        hidden_key: the hidden state to read, or None.

    Raises:
        RunFolderError: the run lacks the hidden state, or it is not finite.
    """
    features = np.stack(
        [
            gather_evidence(
                spec,
                query.question,
                [run.generations[name][index] for name in spec.members],
                run.grader.equal,
            ).values
            for index, query in enumerate(run.queries)
        ]
    )
    return Examples(
        features=torch.from_numpy(features),
        hidden=tuple(_hidden(run, name, hidden_key) for name in spec.members) if hidden_key else (),
        ensemble_fails=torch.tensor([not label.vote_correct for label in run.labels]).float(),
        oracle_right=torch.tensor([label.oracle_correct for label in run.labels]).float(),
    )


class _ChosenRows:
    """Some rows of others, in an order of their own."""

    def __init__(self, rows: HiddenRows, positions: NDArray[np.int64]) -> None:
        self._rows = rows
        self._positions = positions

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self._positions), self._rows.shape[1]

    def __getitem__(
        self, index: slice | NDArray[np.int64]
    ) -> NDArray[np.floating[Any]] | torch.Tensor:
        return self._rows[self._positions[index]]


def _hidden(run: LabelledRun, member: str, key: str) -> HiddenRows:
    rows = run.hidden_states[member].get(key)
    if rows is None:
        raise RunFolderError(
            f"member {member!r} has no hidden states {key!r} in this run; it has "
            f"{', '.join(run.hidden_states[member]) or 'none'}"
        )
    # A sum is finite if all of its numbers are: float32 has room for that of float16.
    sums = [float(float_rows(rows, span).sum()) for span in spans(len(rows))]
    if not np.isfinite(sums).all():
        raise RunFolderError(f"hidden states {key!r} of member {member!r}: expected finite values")
    return rows
