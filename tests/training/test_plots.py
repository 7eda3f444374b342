import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from pyramid_moa.errors import MissingExtraError
from pyramid_moa.training.plot_data import (
    difficulty_data,
    pareto_data,
    plots_data,
    reliability_data,
)
from pyramid_moa.training.plots import draw_difficulty, draw_pareto, draw_reliability, write_plots
from pyramid_moa.training.wilson import wilson_interval

pytest.importorskip("matplotlib")


def points(data, kind):
    return [row for row in data["points"] if row["kind"] == kind]


def test_pareto_data_by_hand(five_queries):
    data = pareto_data(five_queries(), resamples=20)
    assert data["axis"] == "cost_ratio"
    assert [row["x"] for row in points(data, "member")] == pytest.approx([0.05, 0.05])
    assert points(data, "ensemble")[0]["x"] == pytest.approx(0.1)
    assert points(data, "oracle")[0] == pytest.approx(
        {"kind": "oracle", "name": "big", "x": 1.0, "accuracy": 0.8}
    )
    assert points(data, "hindsight")[0]["x"] == pytest.approx(0.4)
    assert points(data, "operating_point")[0]["x"] == pytest.approx(0.5)
    assert [row["x"] for row in points(data, "vote_rule")] == pytest.approx([0.1, 0.4])
    assert [row["x"] for row in data["router"]] == pytest.approx([0.1, 0.2, 0.5, 0.7, 1.1])


def test_band_holds_the_curve(simulated):
    data = pareto_data(simulated(300), resamples=200)
    router = np.array([[row["x"], row["accuracy"]] for row in data["router"]])
    for row in data["band"]:
        assert row["low"] - 0.01 <= np.interp(row["x"], *router.T) <= row["high"] + 0.01
        assert row["high"] - row["low"] > 0.005


def test_axis_falls_back_to_flops_and_to_oracle_calls(changed, five_queries):
    free = changed(five_queries(), oracle_cost_usd=np.zeros(5), price_note="free of charge")
    data = pareto_data(free, resamples=0)
    assert data["axis"] == "cost_ratio_flops"
    assert data["price_note"] == ""
    assert points(data, "operating_point")[0]["x"] == pytest.approx(0.8)
    data = pareto_data(changed(free, oracle_flops=np.full(5, np.nan)), resamples=0)
    assert data["axis"] == "escalation_rate"
    assert points(data, "oracle")[0]["x"] == 1
    assert points(data, "operating_point")[0]["x"] == pytest.approx(0.6)
    draw_pareto(data)


def test_reliability_and_difficulty_by_hand(five_queries):
    data = reliability_data(five_queries())
    assert [row["n"] for row in data["bins"]] == [1, 1, 2, 1]
    assert [row["observed"] for row in data["bins"]] == [0, 0, 0.5, 1]
    assert sum(row["n"] for row in data["histogram"]) == 5
    data = difficulty_data(five_queries())
    right = {row["group"]: row for row in data["by_members_right"]}
    assert {group: row["n"] for group, row in right.items()} == {2: 2, 1: 2, 0: 1}
    assert right[1]["escalated"] == 1
    assert right[1]["accuracy_before"] == 0.5
    assert right[0]["accuracy_after"] == 1
    assert {row["group"]: row["escalated"] for row in data["by_votes"]} == pytest.approx(
        {2: 1 / 3, 1: 1}
    )


def test_wilson_interval_is_the_published_one():
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10)[1] == 1.0


def test_files_are_written_and_svg_repeats_byte_for_byte(tmp_path, simulated):
    data = plots_data(simulated(60), resamples=50)
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        for file in write_plots(data, folder):
            assert file.stat().st_size > 1000
    assert json.loads((one / "plots_data.json").read_text()) == data
    for name in ("pareto", "reliability", "difficulty"):
        assert (one / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        svg = (one / f"{name}.svg").read_bytes()
        assert svg == (other / f"{name}.svg").read_bytes()
        assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_pareto_names_everything_and_labels_stay_apart(simulated):
    rows = simulated(300, price_note="stand-in prices")
    figure = draw_pareto(pareto_data(rows, resamples=50))
    words = " ".join(texts(figure))
    for name in ("member-0", "member-2", "oracle", "hindsight", "vote", "balanced", "random"):
        assert name in words
    from matplotlib.text import Annotation, Text

    axes = figure.axes[0]
    assert "stand-in prices" in axes.get_xlabel()
    renderer = figure.canvas.get_renderer()
    # An annotation's own extent includes its leader line: compare the words alone.
    for text in axes.texts:
        if isinstance(text, Annotation):
            text.update_positions(renderer)
    boxes = [Text.get_window_extent(text, renderer) for text in axes.texts]
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[k + 1 :])


def test_names_are_taken_literally_and_shortened(changed, simulated):
    name = r"$\frac{1}{0}$ " + "x" * 80
    rows = simulated(20, members=1)
    rows = changed(
        rows,
        members=(name,),
        models_called=tuple(
            (name, "oracle") if escalated else (name,) for escalated in rows.escalated
        ),
        price_note="$1 " * 80,
    )
    figure = draw_pareto(pareto_data(rows, resamples=20))
    figure.canvas.draw()
    assert any(r"$\frac{1}{0}$" in text and "…" in text for text in texts(figure))
    assert len(figure.axes[0].get_xlabel()) < 250


def test_weak_members_are_listed_below_the_frame(changed, simulated):
    rows = simulated(200, members=9)
    weak = rows.member_correct.copy()
    weak[:, 2:] = False
    weak[:, :2] = True
    figure = draw_pareto(pareto_data(changed(rows, member_correct=weak), resamples=0))
    listed = next(text for text in texts(figure) if "below the frame" in text)
    assert "member-2: 0.0 %" in listed
    assert "and 1 more" in listed


@pytest.mark.parametrize(("n", "members"), [(1, 1), (40, 9)])
def test_small_and_wide_pyramids_are_drawn(n, members, simulated):
    rows = simulated(n, members=members)
    draw_pareto(pareto_data(rows, resamples=10)).canvas.draw()
    draw_reliability(reliability_data(rows)).canvas.draw()
    draw_difficulty(difficulty_data(rows)).canvas.draw()


def test_nothing_global_is_left_changed(simulated):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw_reliability(reliability_data(simulated(10)))
    assert dict(mpl.rcParams) == before


def test_missing_matplotlib_names_the_extra(monkeypatch, simulated):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pyramid-moa\[train\]"):
        draw_reliability(reliability_data(simulated(10)))
