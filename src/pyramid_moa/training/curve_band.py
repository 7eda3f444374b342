"""A dial's accuracy at every setting, with its confidence band."""

from pyramid_moa.training.operating_points import ThresholdTable
from pyramid_moa.training.risk_bounds import accuracy_interval

__all__ = ["banded_curve"]


def banded_curve(
    table: ThresholdTable, *, confidence: float = 0.95, points: int = 50
) -> list[dict[str, float | None]]:
    """Rows of a threshold table, both ends among them, with exact intervals of their accuracy.

    The band is pointwise: each setting by itself lies within it with this confidence. It bounds the
    accuracy, not the drop below the oracle, which the same questions tell more closely.

    Args:
        table: what each threshold comes to.
        confidence: between 0 and 1.
        points: how many rows at most.

    Returns:
        Rows as of ``ThresholdTable.curve``, with ``accuracy_low`` and ``accuracy_high``.
    """
    rows = table.curve(points=points)
    return [
        {**row, "accuracy_low": float(low), "accuracy_high": float(high)}
        for row, low, high in zip(
            rows,
            *accuracy_interval(
                (table.accuracy[table.curve_places(points)] * table.questions).round(),
                table.questions,
                confidence,
            ),
            strict=True,
        )
    ]
