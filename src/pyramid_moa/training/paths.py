"""How often each way through the pyramid was taken, and what came of it."""

import numpy as np

from pyramid_moa.training.deferral import cost_ratio
from pyramid_moa.training.outcomes import Outcomes
from pyramid_moa.training.wilson import wilson_interval

__all__ = ["path_rows"]


def path_rows(outcomes: Outcomes) -> list[dict[str, object]]:
    """Gather the queries that asked the same models in the same order.

    Args:
        outcomes: the evaluated queries.

    Returns:
        A row a path, the commonest first: ``path`` (those asked together in one list), ``n``,
        ``share`` of all queries, ``escalated``, and of its queries ``accuracy`` with its 95 %
        Wilson ``interval``, ``cost_per_query`` in USD, ``cost_ratio`` to what the oracle's answers
        to these very queries cost, and ``latency_s``; means are nan where anything is unknown.
    """
    taken: dict[tuple[tuple[str, ...], ...], list[int]] = {}
    for row, path in enumerate(outcomes.paths):
        taken.setdefault(path, []).append(row)
    rows = []
    for path, queries in sorted(taken.items(), key=lambda item: (-len(item[1]), item[0])):
        inside = np.array(queries)
        right = outcomes.final_correct[inside]
        spent = float(outcomes.final_cost_usd[inside].sum())
        rows.append(
            {
                "path": [list(group) for group in path],
                "n": len(queries),
                "share": len(queries) / outcomes.n,
                "escalated": bool(outcomes.escalated[inside[0]]),
                "accuracy": float(right.mean()),
                "interval": list(wilson_interval(int(right.sum()), len(queries))),
                "cost_per_query": spent / len(queries),
                "cost_ratio": float(
                    cost_ratio(spent, float(outcomes.oracle_cost_usd[inside].sum()))
                ),
                "latency_s": float(outcomes.final_latency_s[inside].mean()),
            }
        )
    return rows
