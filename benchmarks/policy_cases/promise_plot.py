"""The figure of promises: how often they are broken, and what they cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["draw"]

_COLOURS = {0.005: "#1b6ca8", 0.01: "#d1603d", 0.02: "#4a8f5c"}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write PNG and SVG: a dot a population, a line the mean, by the number of questions.

    Args:
        rows: of promise.csv.
        path: without a suffix.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in rows if row["method"] == "exact"]
    sizes = sorted({row["questions"] for row in rows})
    panels = {
        "broken": "share of draws that break the promise",
        "cost_over_best": "cost over the best threshold in hindsight",
        "unproven": "share of draws that prove no setting",
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 3.8), layout="constrained")
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        for shift, (drop, colour) in enumerate(_COLOURS.items()):
            own = [row for row in rows if row["drop"] == drop]
            at = [sizes.index(row["questions"]) + 0.14 * (shift - 1) for row in own]
            axis.scatter(at, [row[key] for row in own], s=9, color=colour, alpha=0.45, linewidths=0)
            means = [
                sum(row[key] for row in own if row["questions"] == size)
                / sum(row["questions"] == size for row in own)
                for size in sizes
            ]
            axis.plot(
                [place + 0.14 * (shift - 1) for place in range(len(sizes))],
                means,
                color=colour,
                label=f"{100 * drop:g} " + ("point" if drop == 0.01 else "points"),
            )
        axis.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
        axis.set_xlabel("calibration questions")
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].axhline(0.05, color="black", linewidth=0.8, linestyle="--")
    axes[1].axhline(1.25, color="black", linewidth=0.8, linestyle="--")
    axes[2].legend(title="promised: at most", frameon=False)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=150)
    plt.close(figure)
