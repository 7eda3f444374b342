"""A model of a pyramid that answers what a table has recorded of it, and nothing else."""

from pathlib import Path

from pyramid_moa.backends import ModelSpec, Prompt, RecordedBackend
from pyramid_moa.data_prep.manifest import model_cost
from pyramid_moa.data_prep.prompts import PromptTemplate
from pyramid_moa.data_prep.recorded_generation import recorded_generation
from pyramid_moa.data_prep.recorded_table import find_recording, read_recordings, table_and_name
from pyramid_moa.grading import Grader
from pyramid_moa.records import Generation, Query

__all__ = ["open_replayed"]


def open_replayed(spec: ModelSpec, template: PromptTemplate, grader: Grader) -> RecordedBackend:
    """Read the recorded answers of one model.

    Args:
        spec: its entry; ``model`` is ``TABLE.parquet::MODEL[::VARIANT[::SAMPLE]]``.
        template: how a question is put; answers are found by the question.
        grader: finds answers where the table has texts alone.

    Returns:
        A backend that answers these questions, whatever their ids, and fails on all others.

    Raises:
        DataError: the entry names no table and recording, or the table can't be read, or has no
            such recording.
    """
    table, name = table_and_name(spec.model)
    recording = find_recording(read_recordings([Path(table)]), name)
    cost = model_cost(spec)
    # The entry's price counts where it has one; otherwise what the table says it has cost.
    priced = bool(spec.price.input or spec.price.output)
    rows: dict[Prompt, Generation] = {}
    for (_, question_id), row in recording.rows.items():
        query = Query(query_id=question_id, question=row["question"], gold=row["gold"])
        generation = recorded_generation(query, row, spec.name, cost, grader, prices_given=priced)
        rows.setdefault(template.render(query.question), generation)
    return RecordedBackend(spec.name, rows)
