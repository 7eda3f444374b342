"""Numbers and texts as a report shows them."""

__all__ = ["MISSING", "cut", "interval", "minus", "share", "write"]

MISSING = "n/a"


def cut(text: str, length: int) -> str:
    """Shorten a text and say by how much."""
    if len(text) <= length:
        return text
    return f"{text[:length].rstrip()} … ({len(text) - length:,} more characters)"


def share(value: float | None) -> str:
    """A share in per cent."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def write(value: float | None, how: str, *, signed: bool = False) -> str:
    """A value with its unit: ``how`` is number, share or points."""
    if value is None:
        return MISSING
    unit = {"number": "", "share": " %", "points": " points"}[how]
    return f"{_number(value, how, signed=signed)}{unit}"


def interval(ends: list[float] | None, how: str, *, signed: bool = False) -> str:
    """Both ends of an interval, as ``write`` has them, without their unit."""
    if ends is None:
        return MISSING
    low, high = (_number(end, how, signed=signed) for end in ends)
    return f"{low} to {high}"


def _number(value: float, how: str, *, signed: bool) -> str:
    scale, digits = {"number": (1, 3), "share": (100, 1), "points": (100, 2)}[how]
    rounded = round(scale * value, digits) + 0.0  # -0.0 becomes 0.0
    sign = "+" if signed and rounded else ""
    return minus(f"{rounded:{sign}.{digits}f}")


def minus(number: str) -> str:
    """A number with a proper minus sign."""
    return number.replace("-", "\N{MINUS SIGN}")
