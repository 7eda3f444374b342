"""The checkpoint's curve of accuracy over cost as a drawing, with the point that is served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyramid_moa.router_model.policy import OperatingPoint
from pyramid_moa.router_model.router import Router

__all__ = ["Curve", "CurvePoint", "curve_of"]

# The drawing's own units; the page scales it to its width.
WIDTH, HEIGHT = 320.0, 180.0
_MARGIN = 10.0


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
class Curve:
    """The drawing.

    Attributes:
        points: by rising threshold.
        served: index of the one nearest to the point that is served.
        accuracies: least and largest accuracy.
        cost_ratios: least and largest cost ratio.
    """

    points: list[CurvePoint]
    served: int
    accuracies: tuple[float, float]
    cost_ratios: tuple[float, float]

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
    points = [
        CurvePoint(
            threshold=threshold,
            accuracy=accuracy,
            cost_ratio=cost_ratio,
            escalation_rate=escalation_rate,
            x=_placed(cost_ratio, cost_ratios, WIDTH),
            y=HEIGHT - _placed(accuracy, accuracies, HEIGHT),
        )
        for threshold, accuracy, cost_ratio, escalation_rate in rows
    ]
    served = min(range(len(points)), key=lambda i: abs(points[i].threshold - point.threshold))
    return Curve(points=points, served=served, accuracies=accuracies, cost_ratios=cost_ratios)


def _row(measured: Mapping[str, float | None]) -> tuple[float, float, float, float] | None:
    """Threshold, accuracy, cost ratio and escalation rate; None where one is unknown."""
    threshold, accuracy = measured["threshold"], measured["accuracy"]
    cost_ratio, escalation_rate = measured["cost_ratio"], measured["escalation_rate"]
    if threshold is None or accuracy is None or cost_ratio is None or escalation_rate is None:
        return None
    return threshold, accuracy, cost_ratio, escalation_rate


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _placed(value: float, bounds: tuple[float, float], size: float) -> float:
    low, high = bounds
    share = (value - low) / (high - low) if high > low else 0.5
    return _MARGIN + share * (size - 2 * _MARGIN)
