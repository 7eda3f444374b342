"""Runs of all models that one table recorded, for a router to start from."""

from pathlib import Path

import pyarrow.parquet as pq
from suite import PRICES

from pyramid_moa.data_prep.import_recorded import import_recorded
from pyramid_moa.data_prep.prices import read_prices

__all__ = ["POOLS", "import_pool"]

# Of each data set of the suite the table in which most models answered most questions, and its
# grader; all are of one source, whose licence is Apache-2.0.
POOLS = {
    "gsm8k": ("recorded/zeroeval.parquet", "gsm8k"),
    "math-l5": ("recorded_other/math-l5.parquet", "math_verify"),
    "crux": ("recorded_other/crux.parquet", "python_literal"),
}


def import_pool(dataset: str, data: Path, out: Path) -> Path:
    """Import a pool.

    The most accurate model stands in the oracle's place, the others in the members', by accuracy;
    models that lack a question are left out.

    Args:
        dataset: a key of ``POOLS``.
        data: the folder of recorded answers.
        out: the folder for the run folder ``pool-<dataset>``, where it is not there yet.

    Returns:
        The run folder.
    """
    run = out / f"pool-{dataset}"
    if run.exists():
        return run
    name, grader = POOLS[dataset]
    rows = pq.read_table(data / name, columns=["question_id", "model", "correct"]).to_pylist()
    answered: dict[str, set[object]] = {}
    right: dict[str, int] = {}
    for row in rows:
        answered.setdefault(row["model"], set()).add(row["question_id"])
        right[row["model"]] = right.get(row["model"], 0) + bool(row["correct"])
    most = max(map(len, answered.values()))
    whole = [model for model, questions in answered.items() if len(questions) == most]
    best, *others = sorted(whole, key=lambda model: (-right[model], model))
    import_recorded(
        [data / name],
        members=others,
        oracle=best,
        prices=read_prices(PRICES),
        grader_name=grader,
        out=run,
    )
    return run
