"""The whole path on the embedded pyramid: label, train, evaluate, answer live."""

import shutil
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pyramid_moa.atomic_files import write_text_atomically
from pyramid_moa.data_prep.datasets import load_queries
from pyramid_moa.data_prep.label import label
from pyramid_moa.data_prep.pyramid import load_pyramid
from pyramid_moa.data_prep.word_problems import make_problems
from pyramid_moa.errors import DataError, import_extra
from pyramid_moa.grading import load_grader
from pyramid_moa.inference.gate import Gate
from pyramid_moa.records import Decision

__all__ = ["demo"]

_LIVE = 5
_MARK = "pyramid-moa demo\n"
_WIDTH = 96


def demo(
    out: Path,
    *,
    seed: int,
    show: Callable[[str], None],
    train_questions: int = 1500,
    test_questions: int = 500,
) -> dict[str, Any]:
    """Make questions, label, train, evaluate, and answer five questions live.

    Args:
        out: folder for the run, the checkpoint and the report; an earlier demo's is replaced.
        seed: another seed asks other questions.
        show: shown what happens and what comes out.
        train_questions: questions the router learns from.
        test_questions: questions it is evaluated on.

    Returns:
        What metrics.json of the report holds.

    Raises:
        DataError: ``out`` holds something else.
        MissingExtraError: the extra ``train`` is not installed.
    """
    import_extra("lightning", extra="train", purpose="pyramid-moa demo")
    from pyramid_moa.training.evaluate import evaluate
    from pyramid_moa.training.train import train

    started = time.perf_counter()
    _prepare(out)
    pyramid = load_pyramid("embedded")
    members = ", ".join(pyramid.member_names)
    show(
        f"== {train_questions} training and {test_questions} test questions, {members} and "
        f"{pyramid.oracle.name}"
    )
    spec = f"word-problems?train={train_questions}&test={test_questions}&seed={seed}"
    label(load_queries(spec), pyramid, out / "run", say=show)
    show("== training the router")
    train(out / "run", out / "router", say=show)
    show("== evaluating on the test questions")
    metrics = evaluate(out / "run", out / "report", router=out / "router", seed=seed, say=show)
    show(f"== {_LIVE} questions, live")
    with Gate.from_config("embedded", router=out / "router") as gate:
        for question, answer in _live_questions(seed, after=test_questions):
            show(_told(question, answer, gate.answer(question), pyramid.grader))
    show("== what it comes to")
    show(_table(metrics))
    show(f"report: {out / 'report' / 'report.html'} ({time.perf_counter() - started:.0f} s in all)")
    return metrics


def _prepare(out: Path) -> None:
    """Make the folder, or empty it of an earlier demo."""
    mark = out / ".demo"
    if out.exists() and not mark.is_file() and (out.is_file() or any(out.iterdir())):
        raise DataError(f"{out}: expected a new folder or an earlier demo's, found other files")
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomically(mark, _MARK)
    for name in ("run", "router", "router.training", "report"):
        shutil.rmtree(out / name, ignore_errors=True)


def _live_questions(seed: int, *, after: int) -> list[tuple[str, str]]:
    """Questions that neither the models nor the router have seen: the test part's next ones."""
    problems = make_problems(split="test", count=after + _LIVE, seed=seed)
    return [(problem.question, problem.answer) for problem in problems[after:]]


def _told(question: str, answer: str, decision: Decision, grader_name: str) -> str:
    grader = load_grader(grader_name)
    lines = [*textwrap.wrap(question, _WIDTH, initial_indent="  Q: ", subsequent_indent="     ")]
    for row in decision.generations:
        said = row.answer if row.error is None else f"failed: {row.error}"
        steps = " | ".join((row.response or "").split("\n"))
        lines.append("     " + textwrap.shorten(f"{row.model}: {said} ({steps})", _WIDTH - 5))
    right = decision.answer is not None and grader.equal(decision.answer, answer)
    ratio = decision.cost_usd / decision.oracle_cost_usd if decision.oracle_cost_usd else 0.0
    lines += [
        f"     {decision.reason}",
        f"     answer {decision.answer} by {decision.answered_by}: "
        f"{'right' if right else f'wrong, it is {answer}'}; cost {decision.cost_usd:.6f} USD, "
        f"{ratio:.2f} of asking the oracle alone; "
        f"{decision.members_s + decision.router_s + decision.oracle_s:.3f} s",
    ]
    return "\n".join(lines)


def _table(metrics: Mapping[str, Any]) -> str:
    """The router beside the vote rule and the oracle."""
    from pyramid_moa.training.summary import aligned

    vote, point, equal = (
        metrics["vote_rule"],
        metrics["operating_point"],
        metrics["router_at_vote_cost"],
    )
    rows: list[tuple[str, ...]] = [
        ("", "accuracy", "escalated", "cost ratio", "FLOPs ratio", "added time"),
        _row("oracle alone", metrics["oracle"]["accuracy"], 1.0, metrics["oracle"], 0.0),
        _row(
            "vote rule (all agree)",
            vote["accuracy"],
            vote["escalation_rate"],
            vote,
            _added(metrics, vote, asked="ensemble"),
        ),
        _row(
            "router, as many oracle calls",
            equal["accuracy"],
            equal["escalation_rate"],
            equal,
            _added(metrics, equal, asked="ensemble"),
        ),
        _row(
            f"router, {point['name']}",
            point["accuracy"],
            point["escalation_rate"],
            point,
            _added(metrics, point, asked="members"),
        ),
    ]
    at_accuracy = metrics["router_at_vote_accuracy"]["cost_ratio"]
    lines = [
        *aligned(rows),
        f"in hindsight, the router's curve reaches the vote rule's accuracy at cost ratio "
        f"{_ratio(at_accuracy)}; parity was fixed on other questions",
        f"prices: {metrics['price_note']}",
        "added time: mean seconds a question beyond asking the oracle alone, in batches, members "
        "one after another",
    ]
    return "\n".join(lines)


def _added(
    metrics: Mapping[str, Any], rule: Mapping[str, Any], *, asked: Literal["ensemble", "members"]
) -> float | None:
    """Of a rule that asks the whole ensemble, or those members that the operating point asks."""
    times = metrics["latency"]
    before = times[f"{asked}_sequential_s"]
    if before is None:
        return None
    return float(before + (rule["escalation_rate"] - 1.0) * times["oracle_s"])


def _row(
    name: str,
    accuracy: float,
    escalated: float,
    cost: Mapping[str, Any],
    added: float | None,
) -> tuple[str, ...]:
    return (
        name,
        f"{100 * accuracy:.1f} %",
        f"{100 * escalated:.1f} %",
        _ratio(cost["cost_ratio"]),
        _ratio(cost["cost_ratio_flops"]),
        "-" if added is None else f"{1000 * added:+.1f} ms",
    )


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
