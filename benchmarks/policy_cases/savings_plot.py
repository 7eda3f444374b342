"""Plot of accuracy less ABC's at costs relative to ABC's, and its numbers."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyramid_moa.atomic_files import write_text_atomically, written_aside
from pyramid_moa.training.csv_table import csv_text
from pyramid_moa.training.plot_style import (
    HINDSIGHT,
    MUTED,
    ROUTER,
    VOTE,
    new_figure,
    plot_style,
)

__all__ = ["plot_savings"]

_COLOURS = {"sequential": ROUTER, "parallel": VOTE, "gain": HINDSIGHT}


def plot_savings(
    path: Path, places: NDArray[np.float64], curves: Mapping[str, NDArray[np.float64]]
) -> None:
    """Draw one panel a form of ABC, and write the numbers beside it as CSV.

    Args:
        path: of the picture.
        places: costs over ABC's, [P].
        curves: accuracy less ABC's by "policy, beside form", [P]; nan before a curve.
    """
    forms = list(dict.fromkeys(name.partition(", beside ")[2] for name in curves))
    with plot_style():
        figure = new_figure(4.2 * len(forms), 3.8)
        panels = figure.subplots(1, len(forms), sharey=True)
        for panel, form in zip(panels, forms, strict=True):
            for name, curve in curves.items():
                policy, _, own = name.partition(", beside ")
                if own == form:
                    panel.plot(places, curve * 100.0, label=policy, color=_COLOURS[policy])
            panel.axhline(0.0, color=MUTED, linewidth=0.8)
            panel.axvline(1.0, color=MUTED, linewidth=0.8)
            panel.set_ylim(-4.0, 2.0)
            panel.set_title(f"beside {form}")
            panel.set_xlabel("cost over its")
        panels[0].set_ylabel("accuracy less its, points")
        panels[0].legend(frameon=False, loc="lower right")
        figure.tight_layout()
        with written_aside(path) as aside:
            figure.savefig(aside, format="svg", metadata={"Date": None})
    rows = [
        {"curve": name, "cost_over_abc": float(place), "accuracy_less_abc": float(value)}
        for name, curve in curves.items()
        for place, value in zip(places, curve, strict=True)
        if np.isfinite(value)
    ]
    write_text_atomically(path.with_suffix(".csv"), csv_text(rows))
