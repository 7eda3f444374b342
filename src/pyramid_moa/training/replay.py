"""Evaluation replays the gate's decisions over stored generations."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.errors import CheckpointError
from pyramid_moa.records import Generation
from pyramid_moa.router_model.policy import OperatingPoint, Scores, escalates
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.outcomes import Outcomes

__all__ = ["check_fit", "replay", "score_run"]


def check_fit(run: LabelledRun, router: Router) -> None:
    """Make sure that a router can score a run.

    Raises:
        CheckpointError: members or grader differ, or the hidden states are missing.
    """
    problems = []
    if router.card.hidden_key is not None and run.manifest.members != router.card.member_names:
        problems.append(
            "members: the router reads hidden states and knows those of "
            f"{', '.join(router.card.member_names)}; the run has {', '.join(run.manifest.members)}"
        )
    if run.manifest.grader != router.card.grader:
        problems.append(
            f"grader: the router was trained with {router.card.grader}, the run has "
            f"{run.manifest.grader}"
        )
    key = router.card.hidden_key
    if key is not None and key not in run.hidden_keys:
        problems.append(f"hidden states {key}: the run has {run.hidden_keys or 'none'}")
    if problems:
        raise CheckpointError("this checkpoint does not fit this run: " + "; ".join(problems))


def score_run(run: LabelledRun, router: Router, positions: Sequence[int]) -> list[Scores]:
    """Score queries of a run by the call that the gate makes for each."""
    return [
        router.score(run.queries[index].question, run.member_answers(index)) for index in positions
    ]


def replay(
    run: LabelledRun,
    positions: Sequence[int],
    scores: Sequence[Scores],
    point: OperatingPoint,
) -> Outcomes:
    """Decide every query as the gate would.

    Args:
        run: stored generations and labels.
        positions: of the queries.
        scores: one each.
        point: the operating point.

    Returns:
        What happened, in columns.
    """
    manifest = run.manifest
    members = tuple(manifest.members)
    labels = [run.labels[index] for index in positions]
    queries = [run.queries[index] for index in positions]
    rows = [[run.generations[name][index] for name in members] for index in positions]
    oracle = [run.generations[manifest.oracle][index] for index in positions]
    escalated = np.array([escalates(score, point.threshold) for score in scores], dtype=bool)
    vote_correct = np.array([label.vote_correct for label in labels], dtype=bool)
    # Whoever stands for the ensemble's answer: the router's choice, or the majority's.
    spoken_for = [
        own[score.choice] if score.choice is not None else None
        for own, score in zip(rows, scores, strict=True)
    ]
    ensemble_answer = tuple(
        label.vote_answer if row is None else row.answer
        for label, row in zip(labels, spoken_for, strict=True)
    )
    ensemble_correct = np.array(
        [
            label.vote_correct if row is None else bool(row.correct)
            for label, row in zip(labels, spoken_for, strict=True)
        ],
        dtype=bool,
    )
    oracle_correct = np.array([label.oracle_correct for label in labels], dtype=bool)
    # Where the oracle was asked in vain (it failed), the gate falls back on the ensemble.
    oracle_used = escalated & np.array([row.error is None for row in oracle], dtype=bool)
    member_cost = _table(rows, _cost)
    oracle_cost = np.array([_cost(row) for row in oracle])
    costs = {cost.name: cost for cost in manifest.costs}

    def flops(row: Generation) -> float:
        if row.error is not None:
            return 0.0
        value = costs[row.model].flops(row.prompt_tokens, row.completion_tokens)
        return np.nan if value is None else value

    return Outcomes(
        query_ids=tuple(query.query_id for query in queries),
        questions=tuple(query.question for query in queries),
        golds=tuple(
            query.gold if manifest.reference == "gold" else label.oracle_answer
            for query, label in zip(queries, labels, strict=True)
        ),
        members=members,
        member_answers=tuple(tuple(row.answer for row in own) for own in rows),
        member_correct=_table(rows, lambda row: bool(row.correct)).astype(bool),
        member_cost_usd=member_cost,
        member_flops=_table(rows, flops),
        member_latency_s=_table(rows, _latency),
        vote_answer=tuple(label.vote_answer for label in labels),
        vote_share=np.array([label.vote_share for label in labels]),
        vote_correct=vote_correct,
        ensemble_answer=ensemble_answer,
        ensemble_correct=ensemble_correct,
        oracle=manifest.oracle,
        oracle_answer=tuple(label.oracle_answer for label in labels),
        oracle_correct=oracle_correct,
        oracle_cost_usd=oracle_cost,
        oracle_flops=np.array([flops(row) for row in oracle]),
        oracle_latency_s=np.array([_latency(row) for row in oracle]),
        p_ensemble_fails=np.array([score.p_ensemble_fails for score in scores]),
        p_vote_fails=np.array(
            [s.p_ensemble_fails if s.p_vote_fails is None else s.p_vote_fails for s in scores]
        ),
        p_oracle_right=np.array(
            [np.nan if s.p_oracle_right is None else s.p_oracle_right for s in scores]
        ),
        final_answer=tuple(
            label.oracle_answer if used else answer
            for label, answer, used in zip(labels, ensemble_answer, oracle_used, strict=True)
        ),
        models_called=tuple(
            (*members, manifest.oracle) if asked else members for asked in escalated
        ),
        escalated=escalated,
        final_correct=np.where(oracle_used, oracle_correct, ensemble_correct),
        final_cost_usd=member_cost.sum(axis=1) + np.where(escalated, oracle_cost, 0.0),
        threshold=point.threshold,
        operating_point=point.name,
        reference="gold" if manifest.reference == "gold" else "oracle",
        price_note=manifest.price_note,
        tokens_estimated=manifest.tokens_estimated,
        failed_generations=sum(row.error is not None for own in [*rows, oracle] for row in own),
    )


def _table(rows: Sequence[Sequence[Generation]], value: object) -> NDArray[np.float64]:
    assert callable(value)
    return np.array([[value(row) for row in own] for own in rows], dtype=np.float64)


def _cost(row: Generation) -> float:
    if row.error is not None:
        return 0.0
    return np.nan if row.cost_usd is None else row.cost_usd


def _latency(row: Generation) -> float:
    return np.nan if row.latency_s is None else row.latency_s
