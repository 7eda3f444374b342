"""A finished run folder, as training and evaluation read it: hidden states stay in its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pyramid_moa.data_prep.labels import mark_correct
from pyramid_moa.data_prep.manifest import Manifest, read_manifest
from pyramid_moa.data_prep.mapped_rows import MappedRows
from pyramid_moa.data_prep.run_folder import RunFolder
from pyramid_moa.data_prep.run_tables import Label
from pyramid_moa.errors import RunFolderError
from pyramid_moa.grading import Grader, load_stored_grader
from pyramid_moa.records import Generation, Query

__all__ = ["LabelledRun", "read_labelled_run"]


@dataclass(frozen=True, kw_only=True)
class LabelledRun:
    """Queries with their labels and everything that was answered.

    Attributes:
        manifest: the head of the run.
        grader: compares its answers.
        queries: in order.
        labels: one a query.
        generations: by model, one a query, ``correct`` filled in.
        hidden_states: by member, then by key: [queries, hidden size] float16, mapped from files.
    """

    manifest: Manifest
    grader: Grader
    queries: Sequence[Query]
    labels: Sequence[Label]
    generations: Mapping[str, Sequence[Generation]]
    hidden_states: Mapping[str, Mapping[str, MappedRows]]

    def member_answers(self, index: int) -> dict[str, Generation]:
        """What the members answered to one query, hidden states included.

        Args:
            index: position of the query.
        """
        return {name: self._with_hidden(name, index) for name in self.manifest.members}

    def answers_before_oracle(self, index: int) -> dict[str, Generation]:
        """What the members, then the mid oracles answered to one query.

        Args:
            index: position of the query.

        Returns:
            By model; those of members with their hidden states, of which mid oracles have none.
        """
        return {name: self._with_hidden(name, index) for name in self.manifest.models_before_oracle}

    def of_split(self, split: str) -> list[int]:
        """Positions of a split's queries.

        Raises:
            RunFolderError: there are none.
        """
        chosen = [index for index, query in enumerate(self.queries) if query.split == split]
        if not chosen:
            splits = sorted({str(query.split) for query in self.queries})
            raise RunFolderError(
                f"expected queries of the split {split!r}, found only {', '.join(splits)}"
            )
        return chosen

    @property
    def hidden_keys(self) -> list[str]:
        """The hidden states that every member has."""
        keys = [set(self.hidden_states.get(name, {})) for name in self.manifest.members]
        return sorted(set.intersection(*keys)) if keys else []

    def _with_hidden(self, name: str, index: int) -> Generation:
        row = self.generations[name][index]
        vectors = {key: values[index] for key, values in self.hidden_states.get(name, {}).items()}
        return replace(row, hidden_states=vectors) if vectors and row.error is None else row


def read_labelled_run(path: Path, *, own_grader: str | None = None) -> LabelledRun:
    """Read a finished run folder and check that its parts fit together.

    Args:
        path: the folder.
        own_grader: the caller's own ``module:function``, without which a run that names one is
            refused.

    Raises:
        ConfigError: the run names a grader of its own that the caller does not.
        RunFolderError: it is missing, unfinished or damaged.
    """
    manifest = read_manifest(path)
    if not manifest.complete:
        raise RunFolderError(
            f"{path}: this run is not finished; pyramid-moa label --resume goes on with it"
        )
    folder = RunFolder(path)
    queries = folder.read_queries()
    labels = folder.read_labels()
    if [label.query_id for label in labels] != [query.query_id for query in queries]:
        raise RunFolderError(f"{path}: labels.parquet does not fit queries.parquet; label again")
    grader = load_stored_grader(manifest.grader, own=own_grader)
    generations, hidden_states = {}, {}
    references = [
        query.gold if manifest.reference == "gold" else label.oracle_answer
        for query, label in zip(queries, labels, strict=True)
    ]
    for model, name in enumerate(manifest.models):
        rows = folder.read_generations(model)
        if [row.query_id for row in rows] != [query.query_id for query in queries]:
            raise RunFolderError(
                f"{path}: expected one generation of {name} a query, in order; found "
                f"{len(rows)} for {len(queries)} queries; label or import again"
            )
        generations[name] = mark_correct(rows, references, grader)
        if name in manifest.members:
            hidden_states[name] = folder.read_hidden_states(model)
    return LabelledRun(
        manifest=manifest,
        grader=grader,
        queries=queries,
        labels=labels,
        generations=generations,
        hidden_states=hidden_states,
    )
