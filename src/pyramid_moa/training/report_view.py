"""What report.html shows, as plain values for its template: words, tables and examples."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyramid_moa.training.decision_kinds import KINDS, kind_masks, pick
from pyramid_moa.training.outcomes import Outcomes
from pyramid_moa.training.report_tables import path_table, path_words, point_table
from pyramid_moa.training.report_text import MISSING, cut, interval, minus, share, write

__all__ = ["report_view"]

_QUESTION_LENGTH = 900
_ANSWER_LENGTH = 90
_EXTRA_LENGTH = 400
_DASH = "\N{EN DASH}"

_FIGURES = (  # path in metrics.json, title, how to write it
    ("operating_point.accuracy", "Accuracy at the operating point", "share"),
    ("operating_point.escalation_rate", "Share of queries escalated", "share"),
    ("operating_point.cost_ratio", "Cost ratio at the operating point", "share"),
    ("ensemble.accuracy", "Ensemble accuracy", "share"),
    ("oracle.accuracy", "Oracle accuracy", "share"),
    ("hindsight.accuracy", "Hindsight accuracy", "share"),
    ("failure_auroc", "Failure AUROC (of the ensemble's answer)", "number"),
    ("vote_failure_auroc", "Failure AUROC (of the majority vote)", "number"),
    ("agreement_auroc", "Failure AUROC of agreement alone", "number"),
    ("failure_average_precision", "Failure average precision", "number"),
    ("ece", "Expected calibration error", "number"),
    ("brier", "Brier score", "number"),
    ("cost_ratio_at_parity", "Cost ratio at parity with the oracle", "share"),
    ("apgr", "Average performance gap recovered (APGR)", "number"),
    ("headroom_captured", "Headroom captured", "number"),
)
_DIFFERENCES = (
    ("failure_auroc_minus_agreement_auroc", "Failure AUROC: router minus agreement", "number"),
    (
        "vote_failure_auroc_minus_agreement_auroc",
        "Failure AUROC of the vote: router minus agreement",
        "number",
    ),
    (
        "router_minus_vote_rule_accuracy_at_vote_cost",
        "Accuracy at the vote rule's number of oracle calls: router minus vote rule",
        "points",
    ),
    (
        "router_minus_vote_rule_cost_ratio_at_vote_accuracy",
        "Cost ratio at the vote rule's accuracy: router minus vote rule",
        "points",
    ),
    (
        "operating_point_minus_vote_rule_accuracy",
        "Accuracy: operating point minus vote rule",
        "points",
    ),
    (
        "operating_point_minus_vote_rule_cost_ratio",
        "Cost ratio: operating point minus vote rule",
        "points",
    ),
    ("operating_point_minus_oracle_accuracy", "Accuracy: operating point minus oracle", "points"),
)

Metrics = Mapping[str, Any]


def report_view(
    outcomes: Outcomes,
    metrics: Metrics,
    *,
    examples_per_kind: int,
    seed: int,
    extra: Mapping[str, object],
) -> dict[str, object]:
    """Gather everything the template shows, unescaped.

    Args:
        outcomes: the evaluated queries.
        metrics: what `pyramid_moa.training.metrics.compute_metrics` gave for them.
        examples_per_kind: number of examples of each kind of decision at most.
        seed: of the choice of examples.
        extra: what to show of how the report was made.

    Returns:
        Values for ``report.html.jinja``.
    """
    return {
        "n": f"{outcomes.n:,}",
        "members": list(outcomes.members),
        "oracle": outcomes.oracle,
        "operating_point": outcomes.operating_point,
        "rule": _rule(outcomes),
        "by_steps": outcomes.policy == "sequential",
        "oracle_stated": not np.isnan(outcomes.p_oracle_right).any(),
        "has_sequential_curve": bool(metrics["sequential_curve"]),
        "price_note": outcomes.price_note,
        "notices": _notices(outcomes, metrics),
        "tiles": _tiles(metrics),
        "rules": _rules(outcomes, metrics),
        "points": point_table(metrics["operating_points"], outcomes.operating_point),
        "paths": path_table(metrics["paths"]),
        "path_count": len(metrics["paths"]),
        "figures": _figures(metrics),
        "kinds": _kinds(outcomes, examples_per_kind=examples_per_kind, seed=seed),
        "extra": [(str(name), cut(str(value), _EXTRA_LENGTH)) for name, value in extra.items()],
        "definitions": metrics["definitions"],
        "resamples": f"{metrics['bootstrap']['resamples']:,}",
    }


def _rule(outcomes: Outcomes) -> str:
    """When the oracle is asked, in words, and whether it can be outvoted."""
    threshold = f"{outcomes.threshold:.4g}"
    if outcomes.threshold < 0 and outcomes.rule == "failure":
        everybody = outcomes.policy == "parallel"
        told = "everybody is asked" if everybody else "the oracle is asked at once, and alone"
        told += ", every time"
    elif outcomes.policy == "sequential":
        told = (
            "one model after another, each step only where it is worth its price; the price of "
            f"one oracle call has to buy {threshold} of accuracy"
        )
    elif outcomes.rule == "gain":
        told = f"the oracle is asked where it is expected to gain more accuracy than {threshold}"
    else:
        told = f"the oracle is asked where P(ensemble fails) is above {threshold}"
    if outcomes.outvote is None:
        return told
    return (
        f"{told}; the ensemble's answer is kept against the oracle's where its log-odds of being "
        f"right are larger by more than {outcomes.outvote:.4g}"
    )


def _notices(outcomes: Outcomes, metrics: Metrics) -> list[str]:
    notices = []
    if outcomes.reference == "oracle":
        notices.append(
            "The data has no reference answers: the oracle's answer is the reference. Every "
            "accuracy here is agreement with the oracle, and the oracle's own is 100 % by "
            "construction."
        )
    if outcomes.price_note:
        notices.append(f"Costs: {outcomes.price_note}")
    if metrics["cost_ratio_missing"]:
        notices.append(f"There are no cost ratios in USD: {metrics['cost_ratio_missing']}.")
    if outcomes.tokens_estimated:
        notices.append("Token counts, and so costs and FLOPs, are estimates.")
    if outcomes.failed_generations:
        notices.append(
            f"{outcomes.failed_generations:,} answers are missing because a call failed; "
            "they count as wrong."
        )
    return notices


def _tiles(metrics: Metrics) -> list[dict[str, str]]:
    point, oracle = metrics["operating_point"], metrics["oracle"]
    latency = metrics["latency"]
    tiles = [
        {
            "value": share(point["accuracy"]),
            "name": "accuracy",
            "note": f"oracle {share(oracle['accuracy'])}, "
            f"ensemble {share(metrics['ensemble']['accuracy'])}",
        },
        {
            "value": share(point["escalation_rate"]),
            "name": "of queries go to the oracle",
            "note": f"vote rule {share(metrics['vote_rule']['escalation_rate'])}, "
            f"hindsight {share(metrics['hindsight']['escalation_rate'])}",
        },
    ]
    if point["cost_ratio"] is not None:
        tiles.append(
            {
                "value": share(point["cost_ratio"]),
                "name": "of the oracle's cost (USD)",
                "note": f"in FLOPs {share(point['cost_ratio_flops'])}",
            }
        )
    elif point["cost_ratio_flops"] is not None:
        tiles.append(
            {
                "value": share(point["cost_ratio_flops"]),
                "name": "of the oracle's compute (FLOPs)",
                "note": "USD: n/a",
            }
        )
    if latency["n"]:
        one_by_one = minus(f"{latency['added_sequential_s']:+.2f} s")
        at_once = latency["added_parallel_s"]
        tiles.append(
            {
                "value": one_by_one if at_once is None else minus(f"{at_once:+.2f} s"),
                "name": "a query against the oracle alone",
                "note": "step by step"
                if at_once is None
                else f"members in parallel; one by one {one_by_one}",
            }
        )
    return tiles


def _rules(outcomes: Outcomes, metrics: Metrics) -> list[dict[str, str]]:
    """Rows of the table that compares models and rules."""
    intervals = metrics["intervals"]
    oracle_usd = metrics["oracle"]["cost_per_query"]

    def row(name: str, path: str, values: Metrics, *, kind: str = "") -> dict[str, str]:
        rate = values.get("escalation_rate")
        return {
            "name": name,
            "kind": kind,
            "accuracy": share(values["accuracy"]),
            "interval": interval(intervals.get(f"{path}.accuracy"), "share"),
            "escalated": _DASH if rate is None else share(rate),
            "usd": _usd_per_thousand(values.get("cost_ratio"), oracle_usd),
            "cost_ratio": share(values.get("cost_ratio")),
            "cost_ratio_flops": share(values.get("cost_ratio_flops")),
        }

    rows = []
    for name in outcomes.members:
        values = {"accuracy": metrics["members"][name], **metrics["member_costs"][name]}
        shown = row(cut(name, _ANSWER_LENGTH), "", values, kind="member")
        rows.append(shown | {"interval": interval(intervals.get(f"members.{name}"), "share")})
    for name, values in metrics["mid_oracles"].items():
        shown = row(f"{cut(name, _ANSWER_LENGTH)} (mid oracle)", "", values, kind="member")
        rows.append(shown | {"interval": interval(intervals.get(f"mid_oracles.{name}"), "share")})
    point = metrics["operating_point"]
    return [
        *rows,
        row("ensemble of all members, oracle never asked", "ensemble", metrics["ensemble"]),
        row("vote rule, unless all agree", "vote_rule", metrics["vote_rule"]),
        row(
            "router, as many oracle calls as the vote rule",
            "router_at_vote_cost",
            metrics["router_at_vote_cost"],
        ),
        row(f"router, operating point “{point['name']}”", "operating_point", point, kind="ours"),
        row(
            f"oracle for every query ({cut(outcomes.oracle, _ANSWER_LENGTH)})",
            "oracle",
            metrics["oracle"],
        ),
        row("hindsight, all members asked", "hindsight", metrics["hindsight"]),
    ]


def _usd_per_thousand(ratio: float | None, oracle_usd: float) -> str:
    return MISSING if ratio is None else f"{1000 * ratio * oracle_usd:,.4f}"


def _figures(metrics: Metrics) -> list[dict[str, str]]:
    intervals = metrics["intervals"]
    rows = [
        {
            "name": title,
            "value": write(_at(metrics, path), how),
            "interval": interval(intervals.get(path), how),
        }
        for path, title, how in _FIGURES
    ]
    rows += [
        {
            "name": title,
            "value": write(metrics["differences"][key], how, signed=True),
            "interval": interval(intervals.get(f"differences.{key}"), how, signed=True),
        }
        for key, title, how in _DIFFERENCES
    ]
    return rows


def _kinds(outcomes: Outcomes, *, examples_per_kind: int, seed: int) -> list[dict[str, object]]:
    masks = kind_masks(outcomes)
    picked = pick(outcomes, per_kind=examples_per_kind, seed=seed)
    return [
        {
            "key": kind.key,
            "title": kind.title,
            "meaning": kind.meaning,
            "count": f"{int(masks[kind.key].sum()):,}",
            "share": share(float(masks[kind.key].mean())),
            "examples": [_example(outcomes, row) for row in picked[kind.key]],
        }
        for kind in KINDS
        if not kind.where_any or masks[kind.key].any()
    ]


def _example(outcomes: Outcomes, row: int) -> dict[str, object]:
    asked = bool(outcomes.escalated[row])
    called = outcomes.models_called[row]
    answers = [
        _answer(name, outcomes.member_answers[row][k], bool(outcomes.member_correct[row, k]))
        | {"called": name in called}
        for k, name in enumerate(outcomes.members)
    ]
    if outcomes.mid_answers is not None and outcomes.mid_correct is not None:
        answers += [
            _answer(name, outcomes.mid_answers[row][k], bool(outcomes.mid_correct[row, k]))
            | {"called": name in called}
            for k, name in enumerate(outcomes.mid_oracles)
        ]
    answers.append(
        _answer(
            f"{outcomes.oracle} (oracle)",
            outcomes.oracle_answer[row],
            bool(outcomes.oracle_correct[row]),
        )
        | {"called": asked}
    )
    reference = outcomes.golds[row]
    if outcomes.reference == "oracle":
        reference = outcomes.oracle_answer[row]
    return {
        "query_id": outcomes.query_ids[row],
        "question": cut(outcomes.questions[row], _QUESTION_LENGTH),
        "answers": answers,
        "path": path_words(outcomes.paths[row]),
        "held": None if outcomes.asked_nobody_before[row] else _said(outcomes.held_answer[row]),
        "why": _why(outcomes, row),
        "escalated": asked,
        "final": _said(outcomes.final_answer[row]),
        "final_right": bool(outcomes.final_correct[row]),
        "reference": _said(reference),
    }


def _why(outcomes: Outcomes, row: int) -> str:
    """What was believed of all members' answers; step by step not all of them were there."""
    fails, oracle = outcomes.p_ensemble_fails[row], outcomes.p_oracle_right[row]
    told = f"P(ensemble fails) = {fails:.3f}"
    if outcomes.policy == "parallel" and outcomes.rule == "failure":
        told += f" {'>' if fails > outcomes.threshold else '≤'} {outcomes.threshold:.4g}"
    if not np.isnan(oracle):
        told += f", P(oracle right) = {oracle:.3f}"
    if outcomes.policy == "parallel" and outcomes.rule == "gain":
        gain = oracle - (1.0 - fails)
        sign = ">" if gain > outcomes.threshold else "≤"
        told += f", expected gain {minus(f'{gain:.3f}')} {sign} {outcomes.threshold:.4g}"
    return told if outcomes.policy == "parallel" else f"Had all members been asked: {told}"


def _answer(name: str, answer: str | None, right: bool) -> dict[str, object]:
    return {"name": cut(name, _ANSWER_LENGTH), "answer": _said(answer), "right": right}


def _said(answer: str | None) -> str:
    return "no answer" if answer is None else cut(answer, _ANSWER_LENGTH)


def _at(metrics: Metrics, path: str) -> float | None:
    value: Any = metrics
    for key in path.split("."):
        value = value[key]
    return None if value is None else float(value)
