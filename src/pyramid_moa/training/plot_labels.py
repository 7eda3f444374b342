"""Direct labels in a plot, put where they cover neither each other nor what is drawn."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyramid_moa.training.outcomes import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Label", "place_labels"]

_ANGLES = np.deg2rad([0, 180, 30, -30, 150, -150, 60, -60, 120, -120, 90, -90])
_DISTANCES = (9.0, 16.0, 26.0, 38.0, 52.0, 70.0, 90.0, 115.0)  # points
_LEADER_FROM = 14.0  # points: nearer labels need no line to what they name
_GAP = 2.0  # pixels kept free round a label


@dataclass(frozen=True, kw_only=True)
class Label:
    """Words beside a point.

    Attributes:
        x: of the point, in data units.
        y: of the point, in data units.
        text: what to write, taken literally.
        colour: of the text.
        weight: of the font.
    """

    x: float
    y: float
    text: str
    colour: str
    weight: str = "normal"


def place_labels(
    axes: "Axes", labels: list[Label], drawn: list[FloatArray], *, size: float = 9.0
) -> None:
    """Write labels one after another, each at the least covered place round its point.

    Args:
        axes: with limits and position final.
        labels: the most important first.
        drawn: polylines [k, 2] in data units that labels should keep clear of.
        size: of the font, in points.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # Agg canvas has it
    pixels = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    inside = np.array([frame.x0, frame.y0, frame.x1, frame.y1])
    anchors = axes.transData.transform([(label.x, label.y) for label in labels])
    dots = np.concatenate([_dense(axes.transData.transform(line)) for line in drawn])
    taken: list[FloatArray] = []
    for label, anchor in zip(labels, anchors, strict=True):
        words = axes.text(0, 0, label.text, fontsize=size, weight=label.weight, parse_math=False)
        extent = words.get_window_extent(renderer)
        words.remove()
        offsets = [
            (distance * np.cos(angle), distance * np.sin(angle))
            for distance in _DISTANCES
            for angle in _ANGLES
        ]
        boxes = [
            _box(anchor, np.array(offset) * pixels, extent.width, extent.height)
            for offset in offsets
        ]
        costs = [
            _cover(box, taken, dots, anchors, inside) + np.hypot(*offset) / 10
            for box, offset in zip(boxes, offsets, strict=True)
        ]
        best = int(np.argmin(costs))
        taken.append(boxes[best])
        _write(axes, label, offsets[best], size)


def _dense(line: FloatArray, *, step: float = 4.0) -> FloatArray:
    """Points every few pixels along a polyline."""
    length = np.append(0.0, np.cumsum(np.hypot(*np.diff(line, axis=0).T)))
    along = np.arange(0.0, length[-1] + step, step)
    return np.column_stack(
        [np.interp(along, length, line[:, 0]), np.interp(along, length, line[:, 1])]
    )


def _box(anchor: FloatArray, offset: FloatArray, width: float, height: float) -> FloatArray:
    """Left, bottom, right, top of a label, its near side towards the point."""
    x, y = anchor + offset
    left = x - width * (1 - _side(offset)) / 2
    bottom = y - height * (1 - _rise(offset)) / 2
    return np.array([left, bottom, left + width, bottom + height])


def _side(offset: FloatArray | tuple[float, float]) -> int:
    """1 where a label stands right of its point, -1 left of it, 0 above or below."""
    slant = offset[0] / np.hypot(*offset)
    return int(np.sign(slant)) if abs(slant) > 0.3 else 0


def _rise(offset: FloatArray | tuple[float, float]) -> int:
    """1 where a label stands above its point, -1 below it, 0 beside it."""
    slant = offset[1] / np.hypot(*offset)
    return int(np.sign(slant)) if abs(slant) > 0.3 else 0


def _near_edge(offset: tuple[float, float]) -> tuple[float, float]:
    """Where on a label its leader line starts, as shares of its width and height."""
    return ((1 - _side(offset)) / 2, (1 - _rise(offset)) / 2)


def _cover(
    box: FloatArray,
    taken: list[FloatArray],
    dots: FloatArray,
    anchors: FloatArray,
    frame: FloatArray,
) -> float:
    """How badly a box would sit: over labels, over points, over lines, outside the frame."""
    grown = box + np.array([-_GAP, -_GAP, _GAP, _GAP])

    def hits(points: FloatArray) -> int:
        within = (points > grown[:2]) & (points < grown[2:])
        return int(np.sum(within.all(axis=1)))

    labels = sum(
        bool(np.all(grown[:2] < other[2:]) and np.all(other[:2] < grown[2:])) for other in taken
    )
    outside = np.clip(frame[:2] - grown[:2], 0, None).sum()
    outside += np.clip(grown[2:] - frame[2:], 0, None).sum()
    return 100.0 * labels + 40.0 * hits(anchors) + 2.0 * hits(dots) + 10.0 * float(outside)


def _write(axes: "Axes", label: Label, offset: tuple[float, float], size: float) -> None:
    far = np.hypot(*offset) > _LEADER_FROM
    axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=offset,
        textcoords="offset points",
        ha=("right", "center", "left")[_side(offset) + 1],
        va=("top", "center", "bottom")[_rise(offset) + 1],
        fontsize=size,
        weight=label.weight,
        color=label.colour,
        parse_math=False,
        annotation_clip=False,
        zorder=6,
        arrowprops=(
            {
                "arrowstyle": "-",
                "color": "#999999",
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 5,
                "relpos": _near_edge(offset),
            }
            if far
            else None
        ),
    )
