"""Numbers as people read them."""

import numpy as np


def format_number(value: float, *, digits: int = 3, signed: bool = False) -> str:
    """Return a number with so many decimals and a true minus; – for NaN."""
    if np.isnan(value):
        return "–"
    return (f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}").replace("-", "−")


def format_range(low: float, high: float, *, digits: int = 3, signed: bool = False) -> str:
    """Return "low … high"."""
    return (
        "no interval"
        if np.isnan(low)
        else f"{format_number(low, digits=digits, signed=signed)} … {format_number(high, digits=digits, signed=signed)}"
    )
