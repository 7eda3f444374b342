import numpy as np
import pytest

from pyramid_moa.training.paths import path_rows
from pyramid_moa.training.plot_data import paths_data
from pyramid_moa.training.plots import draw_paths


@pytest.fixture
def by_steps(changed, five_queries):
    """Query 0 goes straight to the oracle, 1 ends after a, 2 after both, 3 after b, 4 after a."""
    paths = (
        (("big",),),
        (("a",),),
        (("a",), ("b",), ("big",)),
        (("b",),),
        (("a",),),
    )
    called = tuple(tuple(name for group in path for name in group) for path in paths)
    return changed(
        five_queries(),
        paths=paths,
        models_called=called,
        escalated=np.array([True, False, True, False, False]),
        held_answer=(None, "2", "7", "7", "7"),
        held_correct=np.array([False, False, True, True, True]),
        final_answer=("7", "2", "7", "7", "7"),
        final_correct=np.array([True, False, True, True, True]),
        final_cost_usd=np.array([1.0, 0.1, 1.2, 0.1, 0.3]),
        final_latency_s=np.array([5.0, 1.0, 8.0, 2.0, np.nan]),
        policy="sequential",
    )


def test_rows_by_hand(by_steps):
    rows = path_rows(by_steps)
    assert [row["path"] for row in rows] == [
        [["a"]],
        [["a"], ["b"], ["big"]],
        [["b"]],
        [["big"]],
    ]
    first = rows[0]
    assert (first["n"], first["share"], first["accuracy"]) == (2, 0.4, 0.5)
    assert first["cost_per_query"] == pytest.approx(0.2)
    assert first["cost_ratio"] == pytest.approx(0.4 / 6.0)  # the oracle asks 2 and 4 for these
    assert np.isnan(first["latency_s"])
    assert not first["escalated"]
    assert rows[1]["escalated"]
    assert rows[1]["latency_s"] == 8.0
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    low, high = first["interval"]
    assert low < 0.5 < high


def test_all_at_once_there_are_two(five_queries):
    rows = path_rows(five_queries())
    assert [(row["path"], row["n"]) for row in rows] == [
        ([["a", "b"], ["big"]], 3),
        ([["a", "b"]], 2),
    ]


def test_the_plot_draws_its_numbers(by_steps):
    data = paths_data(by_steps)
    assert data["models"] == ["a", "b", "big"]
    assert data["paths"][0]["latency_s"] is None
    figure = draw_paths(data)
    matrix, bars = figure.axes
    assert [bar.get_width() for bar in bars.patches] == [row["share"] for row in data["paths"]]
    numbers = [text.get_text() for text in matrix.texts]
    assert [text for text in numbers if text.isdigit()] == ["1", "1", "2", "3", "1", "1"]
    told = " ".join(text.get_text() for text in bars.texts)
    assert "40.0 % (n = 2) · 50.0 % · 7 %" in told


def test_rare_paths_are_counted_and_names_taken_literally(changed, simulated):
    rows = simulated(60, members=15)
    names = (r"$\frac{1}{0}$" + "x" * 60, *rows.members[1:])
    called = tuple((names[k % 15],) for k in range(60))
    rows = changed(
        rows, members=names, models_called=called, escalated=np.zeros(60, dtype=np.bool_)
    )
    figure = draw_paths(paths_data(rows))
    figure.canvas.draw()
    assert "and 3 rarer paths, 20.0 % of queries" in [text.get_text() for text in figure.texts]
    assert any("…" in text.get_text() for text in figure.axes[0].texts)
