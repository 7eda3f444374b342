"""The curve with its confidence band."""

import numpy as np
import pytest

from pyramid_moa.training.curve_band import banded_curve
from pyramid_moa.training.operating_points import threshold_table


def test_the_band_lies_around_the_curve(simulated):
    table = threshold_table(simulated(400), split="test")
    rows = banded_curve(table, confidence=0.9, points=20)
    assert [
        {k: v for k, v in row.items() if "_low" not in k and "_high" not in k} for row in rows
    ] == (table.curve(points=20))
    for row in rows:
        assert 0 < row["accuracy_low"] < row["accuracy"] < row["accuracy_high"] <= 1
    wider = banded_curve(table, confidence=0.99, points=20)
    assert all(
        a["accuracy_low"] > b["accuracy_low"] and a["accuracy_high"] < b["accuracy_high"]
        for a, b in zip(rows, wider, strict=True)
    )


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_every_setting_is_held_as_often_as_said(simulated, confidence):
    """The truth of a fixed threshold is its accuracy on very many questions."""
    truth = threshold_table(simulated(200_00, seed=99), split="test")
    accuracy = truth.at_threshold(0.3, name="", target="").accuracy
    held = []
    for seed in range(120):
        table = threshold_table(simulated(150, seed=seed), split="test")
        places = table.curve_places(200)
        rows = banded_curve(table, confidence=confidence, points=200)
        row = rows[int(np.argmax(table.accepted[places] <= 0.3))]
        held.append(row["accuracy_low"] <= accuracy <= row["accuracy_high"])
    error = np.sqrt(confidence * (1 - confidence) / len(held))
    assert np.mean(held) >= confidence - 3 * error
