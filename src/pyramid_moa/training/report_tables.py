"""The report's tables of operating points and paths, as plain values for its template."""

from collections.abc import Mapping, Sequence
from typing import Any

from pyramid_moa.training.report_text import MISSING, cut, interval, share, write

__all__ = ["path_table", "path_words", "point_table"]

_NAME_LENGTH = 60
_TEXT_LENGTH = 200
_PATHS = 15
_PATH_NAME_LENGTH = 32

_PROMISES = {
    "target_accuracy": "accuracy of at least {}",
    "max_drop": "at most {} below the oracle",
    "target_cost_ratio": "cost of at most {} of the oracle's",
    "max_usd_per_1000": "at most {} USD per 1,000 queries",
}


def point_table(rows: Sequence[Mapping[str, Any]], evaluated: str) -> list[dict[str, object]]:
    """Rows of the table of operating points.

    Args:
        rows: ``operating_points`` of metrics.json.
        evaluated: name of the point that the report is about.
    """
    return [
        {
            "name": cut(row["name"], _NAME_LENGTH),
            "kind": "ours" if row["name"] == evaluated else "",
            "policy": _policy(row),
            "threshold": f"{row['threshold']:.4g}",
            "target": cut(row["target"], _TEXT_LENGTH),
            "accuracy": share(row["accuracy"]),
            "interval": interval(row["intervals"].get("accuracy"), "share"),
            "escalated": share(row["escalation_rate"]),
            "cost_ratio": share(row["cost_ratio"]),
            "chosen": _chosen(row["chosen"]),
            "promises": _promises(row["promise"]),
        }
        for row in rows
    ]


def path_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Rows of the table of paths, the commonest first, the rarest of very many left out.

    Args:
        rows: ``paths`` of metrics.json.
    """
    return [
        {
            "path": path_words(row["path"]),
            "n": f"{row['n']:,}",
            "share": share(row["share"]),
            "accuracy": share(row["accuracy"]),
            "interval": interval(row["interval"], "share"),
            "usd": _usd(row["cost_per_query"]),
            "cost_ratio": share(row["cost_ratio"]),
            "latency": MISSING if row["latency_s"] is None else f"{row['latency_s']:.2f} s",
        }
        for row in rows[:_PATHS]
    ]


def path_words(path: Sequence[Sequence[str]]) -> str:
    """A path in one line: those asked together joined by a plus, steps by arrows."""
    return " → ".join(" + ".join(_short(name) for name in group) for group in path)


def _short(name: str) -> str:
    """Names of models are told in full elsewhere; a path has several."""
    if len(name) <= _PATH_NAME_LENGTH:
        return name
    return f"{name[: _PATH_NAME_LENGTH - 1]}…"


def _policy(row: Mapping[str, Any]) -> str:
    if row["policy"] == "sequential":
        return "step by step"
    return "all at once" if row["rule"] == "failure" else "all at once, by the gain"


def _chosen(chosen: Mapping[str, Any]) -> str:
    if not chosen["questions"]:
        return "not chosen on questions"
    return (
        f"{share(chosen['accuracy'])} at cost {share(chosen['cost_ratio'])} on "
        f"{chosen['questions']:,} {cut(chosen['split'], _NAME_LENGTH)} questions"
    )


def _promises(promise: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """A row for each target that is promised."""
    if promise is None:
        return []
    targets = [promise, *promise["others"]]
    sure = f"at confidence {promise['confidence']:g}"
    if len(targets) > 1:
        sure = f"{sure} for all {len(targets)} together"
    how = f"{sure}, from {promise['questions']:,} questions"
    return [
        {
            "told": f"{_told(target)}, {how}",
            "method": cut(promise["method"], _TEXT_LENGTH),
            "measured": _measured(target),
            "held": target["held"],
            "mark": {"yes": "right", "no": "wrong"}.get(target["held"], ""),
        }
        for target in targets
    ]


def _told(target: Mapping[str, Any]) -> str:
    kind, value = target["kind"], target["value"]
    usd = kind == "max_usd_per_1000"
    shown = f"{value:.4g}" if usd else write(value, "points" if kind == "max_drop" else "share")
    return _PROMISES.get(kind, f"{cut(kind, _NAME_LENGTH)} {{}}").format(shown)


def _measured(target: Mapping[str, Any]) -> str:
    value, ends = target["measured"], target["interval"]
    if value is None:
        return MISSING
    if target["kind"] == "max_usd_per_1000":
        between = MISSING if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}"
        return f"{value:.4g} USD ({between})"
    how = "points" if target["kind"] == "max_drop" else "share"
    return f"{write(value, how)} ({interval(ends, how)})"


def _usd(value: float | None) -> str:
    return MISSING if value is None else f"{1000 * value:,.4f}"
