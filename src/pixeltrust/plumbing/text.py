"""Pieces of messages."""

import re
from collections.abc import Sequence
from textwrap import shorten

CONTROL = r"[\x00-\x1f\x7f-\x9f]"
"""Characters that break lines or control terminals; file names may have them."""


def printable(text: str) -> str:
    """Return the text with its control characters as escapes."""
    return re.sub(CONTROL, lambda sign: repr(sign[0])[1:-1], text)


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Return the number with its noun: `1 case`, `1,200 cases`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def some(things: Sequence[object], most: int = 5) -> str:
    """Join the first `most` of them with commas, and … if there are more."""
    return ", ".join(map(str, things[:most])) + (", …" if len(things) > most else "")


def format_duration(seconds: float) -> str:
    """Return seconds in a unit that fits."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def one_line(error: Exception) -> str:
    """Return the text of an error without line breaks, cut to 200 characters."""
    return shorten(str(error), 200, placeholder=" …") or type(error).__name__
