"""The accuracy that each threshold was measured to give, and its cost: what a page can draw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.router import Router

__all__ = ["Curve", "CurvePoint", "Frame", "Tick", "curve_of"]

_MOST_TICKS = 6


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The drawing's own units, which the page scales to its width.

    Attributes:
        width: of the whole drawing.
        height: likewise.
        left: of the field that the curve lies in, with room beside it for the accuracies.
        right: likewise.
        top: likewise.
        bottom: likewise, with room below it for the costs.
    """

    width: float = 400.0
    height: float = 250.0
    left: float = 44.0
    right: float = 390.0
    top: float = 10.0
    bottom: float = 212.0


_FRAME = Frame()


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One threshold.

    Attributes:
        threshold: ask the oracle where p(ensemble fails) is larger.
        accuracy: on the questions that the curve was measured on.
        cost_ratio: all-in cost there over that of asking the oracle every time.
        escalation_rate: share of them that asked the oracle.
        x: place in the drawing, from the left.
        y: from the top.
    """

    threshold: float
    accuracy: float
    cost_ratio: float
    escalation_rate: float
    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A value that an axis names.

    Attributes:
        place: in the drawing, along the axis.
        text: the value.
    """

    place: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The drawing.

    Attributes:
        points: by rising threshold.
        served: index of the one nearest to the point that is served.
        across: values of the cost ratio.
        up: values of the accuracy.
        frame: where all of it lies.
    """

    points: list[CurvePoint]
    served: int
    across: list[Tick]
    up: list[Tick]
    frame: Frame = _FRAME

    @property
    def line(self) -> str:
        """The points of an SVG polyline."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


def curve_of(router: Router | None, point: OperatingPoint) -> Curve | None:
    """Draw a checkpoint's curve; None where there is none, or it is of another policy."""
    if router is None or point.policy != "parallel" or point.rule != "failure":
        return None
    rows = sorted(filter(None, map(_row, router.card.validation_curve)))
    if len(rows) < 2:
        return None
    accuracies = _bounds([row[1] for row in rows])
    cost_ratios = _bounds([row[2] for row in rows])
    x_axis, y_axis = (_FRAME.left, _FRAME.right), (_FRAME.bottom, _FRAME.top)
    points = [
        CurvePoint(
            threshold=threshold,
            accuracy=accuracy,
            cost_ratio=cost_ratio,
            escalation_rate=escalation_rate,
            x=_placed(cost_ratio, cost_ratios, x_axis),
            y=_placed(accuracy, accuracies, y_axis),
        )
        for threshold, accuracy, cost_ratio, escalation_rate in rows
    ]
    return Curve(
        points=points,
        served=min(range(len(points)), key=lambda i: abs(points[i].threshold - point.threshold)),
        across=[
            Tick(place=_placed(value, cost_ratios, x_axis), text=f"{value:.{places}f}")
            for value, places in _round_values(cost_ratios)
        ],
        up=[
            Tick(
                place=_placed(value, accuracies, y_axis),
                text=f"{100 * value:.{max(0, places - 2)}f} %",
            )
            for value, places in _round_values(accuracies)
        ],
    )


def _row(measured: Mapping[str, float | None]) -> tuple[float, float, float, float] | None:
    """Threshold, accuracy, cost ratio and escalation rate; None where one is unknown."""
    threshold, accuracy = measured["threshold"], measured["accuracy"]
    cost_ratio, escalation_rate = measured["cost_ratio"], measured["escalation_rate"]
    if threshold is None or accuracy is None or cost_ratio is None or escalation_rate is None:
        return None
    return threshold, accuracy, cost_ratio, escalation_rate


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """Least and largest, with a little room at both ends."""
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.005
    return low - room, high + room


def _placed(value: float, bounds: tuple[float, float], axis: tuple[float, float]) -> float:
    low, high = bounds
    return axis[0] + (value - low) / (high - low) * (axis[1] - axis[0])


def _round_values(bounds: tuple[float, float]) -> list[tuple[float, int]]:
    """Round values between two, a step of 1, 2 or 5 apart, with the places they need."""
    low, high = bounds
    power = math.floor(math.log10((high - low) / _MOST_TICKS))
    step = next(
        step
        for factor in (1, 2, 5, 10)
        if (high - low) / (step := factor * 10.0**power) <= _MOST_TICKS
    )
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(number * step, places) for number in range(first, last + 1)]
