"""Labels: did the ensemble's answer fail; did the oracle's hold."""

from collections.abc import Sequence
from dataclasses import replace

from pyramid_moa.data_prep.run_tables import Label
from pyramid_moa.grading import Grader, vote
from pyramid_moa.records import Generation, Query

__all__ = ["label_queries", "mark_correct"]


def label_queries(
    queries: Sequence[Query],
    members: Sequence[Sequence[str | None]],
    oracle: Sequence[str | None],
    grader: Grader,
    *,
    reference: str,
) -> list[Label]:
    """Label every query by the members' vote and the oracle's answer.

    Args:
        queries: in the order of the run.
        members: answers of each member, best first, each in the order of the queries.
        oracle: answers of the oracle in that order.
        grader: compares answers.
        reference: ``gold``, or ``oracle`` where the data has none.

    Returns:
        One label a query.
    """
    labels = []
    for index, query in enumerate(queries):
        oracle_answer = oracle[index]
        truth = query.gold if reference == "gold" else oracle_answer
        result = vote([answers[index] for answers in members], grader.equal)
        labels.append(
            Label(
                query_id=query.query_id,
                vote_answer=result.answer,
                vote_share=result.share,
                vote_correct=_holds(result.answer, truth, grader),
                oracle_answer=oracle_answer,
                oracle_correct=_holds(oracle_answer, truth, grader),
                reference=reference,
            )
        )
    return labels


def mark_correct(
    generations: Sequence[Generation], references: Sequence[str | None], grader: Grader
) -> list[Generation]:
    """Fill in ``correct`` against the references, where gold was not there when they were made."""
    return [
        row
        if row.correct is not None
        else replace(row, correct=_holds(row.answer, reference, grader))
        for row, reference in zip(generations, references, strict=True)
    ]


def _holds(answer: str | None, truth: str | None, grader: Grader) -> bool:
    return answer is not None and truth is not None and grader.equal(answer, truth)
