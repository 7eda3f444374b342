"""Evaluation replays the gate's decisions over stored generations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.data_prep.labelled_run import LabelledRun
from pyramid_moa.errors import CheckpointError
from pyramid_moa.records import Generation
from pyramid_moa.router_model.policy import OperatingPoint, Scores, goes_up
from pyramid_moa.router_model.route import Guide, Route, is_outvoted
from pyramid_moa.router_model.router import Router
from pyramid_moa.training.outcomes import Outcomes

__all__ = ["check_fit", "check_steps", "replay", "score_run", "steps_fit"]


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


def check_steps(run: LabelledRun, router: Router, point: OperatingPoint) -> None:
    """Make sure that a point can be followed on a run.

    Raises:
        CheckpointError: it goes step by step, and the router does not know what steps to the run's
            models are worth.
    """
    if point.policy == "parallel" or steps_fit(run, router):
        return
    steps = router.steps
    found = (
        "one that knows no steps" if steps is None else ", ".join([*steps.members, steps.oracle])
    )
    raise CheckpointError(
        f"operating point {point.name!r}: expected a router that knows what steps to "
        f"{', '.join(run.manifest.models)} are worth, found {found}; train it on a run of these"
    )


def steps_fit(run: LabelledRun, router: Router) -> bool:
    """Whether the router knows what steps to the run's models, its oracle included, are worth."""
    steps, manifest = router.steps, run.manifest
    return (
        steps is not None
        and sorted(steps.members) == sorted(manifest.models_before_oracle)
        and steps.oracle == manifest.oracle
    )


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
    *,
    router: Router | None = None,
) -> Outcomes:
    """Decide every query as the gate would.

    Args:
        run: stored generations and labels.
        positions: of the queries.
        scores: one each, all members asked.
        point: the operating point.
        router: asked again after every step, where there are several.

    Returns:
        What happened, in columns.
    """
    manifest = run.manifest
    members = tuple(manifest.members)
    labels = [run.labels[index] for index in positions]
    queries = [run.queries[index] for index in positions]
    rows = [[run.generations[name][index] for name in members] for index in positions]
    oracle = [run.generations[manifest.oracle][index] for index in positions]
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
    if point.policy == "parallel":
        ends = [
            _parallel_end(run, index, score, point, row, answer)
            for index, score, row, answer in zip(
                positions, scores, spoken_for, ensemble_answer, strict=True
            )
        ]
    else:
        guide = Guide(tiers=manifest.tiers, point=point, equal=run.grader.equal, router=router)
        ends = [_walked_end(guide, run, index) for index in positions]
    mid = [[run.generations[name][index] for name in manifest.mid_oracles] for index in positions]
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
        held_answer=tuple(end.held_answer for end in ends),
        held_correct=np.array([end.held_correct for end in ends], dtype=bool),
        final_answer=tuple(end.answer for end in ends),
        models_called=tuple(end.called for end in ends),
        paths=tuple(end.path for end in ends),
        escalated=np.array([manifest.oracle in end.called for end in ends], dtype=bool),
        final_correct=np.array([end.correct for end in ends], dtype=bool),
        final_cost_usd=np.array(
            [
                sum(_cost(run.generations[name][index]) for name in end.called)
                for index, end in zip(positions, ends, strict=True)
            ],
            dtype=np.float64,
        ),
        final_latency_s=np.array(
            [
                sum(
                    # Of numbers and nan the largest is nan, which `max` would not see.
                    np.max([_latency(run.generations[name][index]) for name in group])
                    for group in end.path
                )
                for index, end in zip(positions, ends, strict=True)
            ],
            dtype=np.float64,
        ),
        mid_oracles=tuple(manifest.mid_oracles),
        mid_answers=tuple(tuple(row.answer for row in own) for own in mid),
        mid_correct=_table(mid, lambda row: bool(row.correct)).astype(bool),
        mid_cost_usd=_table(mid, _cost),
        mid_flops=_table(mid, flops),
        threshold=point.threshold,
        operating_point=point.name,
        policy=point.policy,
        rule=point.rule,
        outvote=point.outvote,
        reference="gold" if manifest.reference == "gold" else "oracle",
        price_note=manifest.price_note,
        tokens_estimated=manifest.tokens_estimated,
        failed_generations=sum(row.error is not None for own in [*rows, oracle] for row in own),
    )


@dataclass(frozen=True, kw_only=True)
class _End:
    """Where a query's way ended: whom it asked, what it held before the oracle, what it answers."""

    path: tuple[tuple[str, ...], ...]
    held_answer: str | None
    held_correct: bool
    answer: str | None
    correct: bool

    @property
    def called(self) -> tuple[str, ...]:
        """Everybody who was asked, in order."""
        return tuple(name for group in self.path for name in group)


def _parallel_end(
    run: LabelledRun,
    index: int,
    scores: Scores,
    point: OperatingPoint,
    supporter: Generation | None,
    ensemble_answer: str | None,
) -> _End:
    """Everybody of the first tier was asked; one decision is left."""
    label, manifest = run.labels[index], run.manifest
    members, oracle = tuple(manifest.members), run.generations[manifest.oracle][index]
    correct = label.vote_correct if supporter is None else bool(supporter.correct)
    own = _End(
        path=(members,),
        held_answer=ensemble_answer,
        held_correct=correct,
        answer=ensemble_answer,
        correct=correct,
    )
    if not goes_up(scores, point):
        return own
    asked = replace(own, path=(members, (manifest.oracle,)))
    # Where the oracle was asked in vain (it failed), the gate falls back on the ensemble.
    if oracle.error is not None or is_outvoted(
        oracle, ensemble_answer, scores, point, run.grader.equal
    ):
        return asked
    return replace(asked, answer=label.oracle_answer, correct=label.oracle_correct)


def _walked_end(guide: Guide, run: LabelledRun, index: int) -> _End:
    """Let a query take its steps, its models answering what they answered then."""
    route = Route(guide, run.queries[index].question)
    answers = run.answers_before_oracle(index)
    answers[guide.oracle] = run.generations[guide.oracle][index]
    while route.wanted:
        route.receive({name: answers[name] for name in route.wanted})
    supporter = route.belief.supporter if route.belief is not None else None
    held = answers[supporter] if supporter is not None else None
    last = answers[route.answered_by] if route.answered_by is not None else None
    return _End(
        path=tuple(route.path),
        held_answer=held.answer if held is not None else None,
        held_correct=bool(held is not None and held.correct),
        answer=last.answer if last is not None else None,
        correct=bool(last is not None and last.correct),
    )


def _table(rows: Sequence[Sequence[Generation]], value: object) -> NDArray[np.float64]:
    assert callable(value)
    table = np.array([[value(row) for row in own] for own in rows], dtype=np.float64)
    return table.reshape(len(rows), -1)


def _cost(row: Generation) -> float:
    if row.error is not None:
        return 0.0
    return np.nan if row.cost_usd is None else row.cost_usd


def _latency(row: Generation) -> float:
    return np.nan if row.latency_s is None else row.latency_s
