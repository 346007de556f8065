"""Means with their intervals, as text: one form for terminals, reports and cards."""

from collections.abc import Mapping


def interval(
    estimate: Mapping[str, float | None], *, percent: bool = False, sign: bool = False, digits: int = 3
) -> str:
    """A mean with its 95 % interval, as text.

    Args:
        estimate: `mean`, `low` and `high`, the last two None where a single prompt has no interval.
        percent: the numbers are shares.
        sign: positive numbers get one too.
        digits: after the point; of shares there is one.
    """
    scale, digits = (100, 1) if percent else (1, digits)
    mean, low, high = (
        None if value is None else f"{scale * value:{'+' if sign else ''}.{digits}f}"
        for value in (estimate["mean"], estimate["low"], estimate["high"])
    )
    unit = " %" if percent else ""
    return f"{mean}{unit}" if low is None else f"{mean}{unit} [{low}, {high}]"


def noises_each(count: int) -> str:
    """How many noises each prompt has, in words."""
    return "one noise each" if count == 1 else f"{count} noises each"
