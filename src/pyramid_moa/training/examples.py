"""What the network is fitted on: features, hidden states and labels of chosen queries."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.errors import RunFolderError
from pyramid_moa.progress import Progress
from pyramid_moa.records import question_hash
from pyramid_moa.router_model.features import FeatureSpec, gather_evidence
from pyramid_moa.router_model.hidden_rows import ChosenRows, HiddenRows, float_rows, spans
from pyramid_moa.router_model.verifier import Verifier
from pyramid_moa.router_model.vote_figures import same_answers

__all__ = ["Examples", "gather_examples", "hidden_rows_of", "joined"]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Tensors of n queries and M members, but for hidden states, which stay where they are.

    Attributes:
        answers: [n, M, A], NaN where unknown.
        relations: [n, M, M, R], NaN where unknown.
        clusters: int [n, M]; see ``Evidence``.
        question: [n, Q].
        right: [n, M], 1 where the member's answer is right.
        oracle_right: [n], 1 where the oracle's answer is right.
        hidden: [n, H] for each member, read as they are needed; empty where none are read.
        questions: hash of each query's question, n.
        first_tier: how many of the members are asked first; those after them are mid oracles, each
            a tier of its own. None for all of them.
    """

    answers: torch.Tensor
    relations: torch.Tensor
    clusters: torch.Tensor
    question: torch.Tensor
    right: torch.Tensor
    oracle_right: torch.Tensor
    hidden: tuple[HiddenRows, ...]
    questions: tuple[str, ...]
    first_tier: int | None = None

    @property
    def asked_first(self) -> int:
        """How many are asked first."""
        return self.members if self.first_tier is None else self.first_tier

    @property
    def members(self) -> int:
        """M."""
        return self.clusters.shape[1]

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All but the hidden states."""
        return (
            self.answers,
            self.relations,
            self.clusters,
            self.question,
            self.right,
            self.oracle_right,
        )

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.clusters)

    def take(self, positions: Sequence[int]) -> "Examples":
        """Some of the queries, by position; their hidden states are not copied."""
        index = torch.as_tensor(positions, dtype=torch.long)
        answers, relations, clusters, question, right, oracle_right = (
            values[index] for values in self.tensors
        )
        return Examples(
            answers=answers,
            relations=relations,
            clusters=clusters,
            question=question,
            right=right,
            oracle_right=oracle_right,
            hidden=tuple(ChosenRows(rows, index.numpy()) for rows in self.hidden),
            questions=tuple(self.questions[position] for position in positions),
            first_tier=self.first_tier,
        )

    def of_members(self, numbers: Sequence[int]) -> "Examples":
        """Some of the members, by number, in this order, as if nobody else had been asked."""
        index = torch.as_tensor(numbers, dtype=torch.long)
        return replace(
            self,
            answers=self.answers[:, index],
            relations=self.relations[:, index][:, :, index],
            clusters=same_answers(self.clusters[:, index]),
            right=self.right[:, index],
            hidden=tuple(self.hidden[number] for number in numbers) if self.hidden else (),
            first_tier=None,
        )


def joined(parts: Sequence[Examples]) -> Examples:
    """Queries of several runs whose members are the same, at the same places, no states read."""
    tensors = [torch.cat(own) for own in zip(*(part.tensors for part in parts), strict=True)]
    answers, relations, clusters, question, right, oracle_right = tensors
    return Examples(
        answers=answers,
        relations=relations,
        clusters=clusters,
        question=question,
        right=right,
        oracle_right=oracle_right,
        hidden=(),
        questions=tuple(text for part in parts for text in part.questions),
    )


def gather_examples(
    run: LabelledRun,
    spec: FeatureSpec,
    *,
    hidden_key: str | None,
    verifier: Verifier | None = None,
    positions: Sequence[int] | None = None,
) -> Examples:
    """Compute features and labels of a run's queries.

    Args:
        run: the labelled data.
        spec: the feature groups.
        hidden_key: the hidden state to read, or None.
        verifier: reads the answers, where the groups want one.
        positions: of the queries; all of them where it is left out.

    Returns:
        Of members and mid oracles, which are members of later tiers.

    Raises:
        RunFolderError: the run lacks the hidden state, or it is not finite; mid oracles have none.
    """
    members = run.manifest.models_before_oracle
    hidden = tuple(hidden_rows_of(run, name, hidden_key) for name in members) if hidden_key else ()
    chosen = range(len(run.queries)) if positions is None else positions
    if positions is not None:
        index = np.asarray(positions, dtype=np.int64)
        hidden = tuple(ChosenRows(rows, index) for rows in hidden)
    evidence = []
    with Progress("features", total=len(chosen)) as progress:
        for place in chosen:
            rows = [run.generations[name][place] for name in members]
            question = run.queries[place].question
            evidence.append(
                gather_evidence(spec, question, rows, run.grader.equal, verifier=verifier)
            )
            progress.advance()
    right = [[bool(run.generations[name][place].correct) for name in members] for place in chosen]
    return Examples(
        answers=torch.from_numpy(np.stack([one.answers for one in evidence])),
        relations=torch.from_numpy(np.stack([one.relations for one in evidence])),
        clusters=torch.from_numpy(np.stack([one.clusters for one in evidence])),
        question=torch.from_numpy(np.stack([one.question for one in evidence])),
        right=torch.tensor(right).float(),
        oracle_right=torch.tensor([run.labels[i].oracle_correct for i in chosen]).float(),
        hidden=hidden,
        questions=tuple(question_hash(run.queries[i].question) for i in chosen),
        first_tier=len(run.manifest.members),
    )


def hidden_rows_of(run: LabelledRun, member: str, key: str) -> HiddenRows:
    """Hidden states of a member, in their file.

    Raises:
        RunFolderError: the run lacks them, or they are not finite.
    """
    rows = run.hidden_states.get(member, {}).get(key)
    if rows is None:
        raise RunFolderError(
            f"member {member!r} has no hidden states {key!r} in this run; it has "
            f"{', '.join(run.hidden_states.get(member, {})) or 'none'}"
        )
    # A sum is finite if all of its numbers are: float32 has room for that of float16.
    sums = [float(float_rows(rows, span).sum()) for span in spans(len(rows))]
    if not np.isfinite(sums).all():
        raise RunFolderError(f"hidden states {key!r} of member {member!r}: expected finite values")
    return rows
