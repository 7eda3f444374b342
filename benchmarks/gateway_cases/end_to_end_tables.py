"""What was seen of the gateway on vLLM servers, as tables and sentences."""

import sys
from collections.abc import Sequence
from statistics import fmean, median, quantiles

from gateway_cases.end_to_end import Figures
from gateway_cases.first_tokens import FirstToken
from gateway_cases.served_hang_ups import HangUp

__all__ = ["show_figures", "show_first_tokens", "show_hang_ups"]


def show_figures(figures: Sequence[Figures], *, paper_added_s: float) -> None:
    """One row a way of asking, and every decision that is not evaluation's."""
    _show(
        "\nThe gateway / evaluation of the same questions; seconds beyond the oracle alone\n\n"
        "| asked for | accuracy | cost ratio | escalated | equal decisions | answers of single "
        "models that differ | largest difference of p | added, s: mean | p50 | p95 | accepted, "
        "mean | escalated, mean | router, ms |\n" + "| --- " * 13 + "|"
    )
    for own in figures:
        cells = [
            own.dial,
            "{:.3f} / {:.3f}".format(*own.accuracy),
            "{:.4f} / {:.4f}".format(*own.cost_ratio),
            "{:.3f} / {:.3f}".format(*own.escalated),
            f"{own.questions - len(own.differences)} of {own.questions}",
            str(own.other_answers),
            _written(own.largest_p_difference, ".0e"),
            *(f"{value:+.3f}" for value in own.added_s),
            _written(own.added_accepted_s, "+.3f"),
            _written(own.added_escalated_s, "+.3f"),
            f"{1000 * own.router_s:.1f}",
        ]
        _show(f"| {' | '.join(cells)} |")
    for own in figures:
        for difference in own.differences:
            _show(f"{own.dial}, question {difference.query_id}: {difference}")
    first = figures[0]
    _show(
        f"\nadded at {first.dial}: {first.added_s[0]:+.3f} s in the mean; the paper states "
        f"{paper_added_s:+.2f} s, of its own models on its own machines"
    )


def show_first_tokens(tokens: Sequence[FirstToken]) -> None:
    """What first tokens took beyond what they have to wait for."""
    beyond = [own.gateway_s - own.bound_s for own in tokens]
    _show(
        f"\nfirst token of {len(tokens)} escalated streams: p50 "
        f"{median(own.gateway_s for own in tokens):.3f} s; members, decision and the oracle's own "
        f"together: p50 {median(own.bound_s for own in tokens):.3f} s; beyond them: mean "
        f"{1000 * fmean(beyond):+.1f} ms, p50 {1000 * median(beyond):+.1f} ms, p95 "
        f"{1000 * quantiles(beyond, n=100)[94]:+.1f} ms"
    )


def show_hang_ups(hang_ups: Sequence[HangUp]) -> None:
    """How soon servers had nothing to do any more."""
    for during in ("members", "oracle"):
        own = [one for one in hang_ups if one.during == during]
        stopped = [1000 * one.stopped_s for one in own]
        _show(
            f"{len(own)} clients hung up while {during} worked: servers idle after p50 "
            f"{median(stopped):.0f} ms, at most {max(stopped):.0f} ms (looks of up to "
            f"{1000 * max(one.look_s for one in own):.0f} ms included); tokens made meanwhile: at "
            f"most {max(one.tokens_after for one in own)}; answers that came to their end: "
            f"{sum(one.finished for one in own)}"
        )


def _written(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _show(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
