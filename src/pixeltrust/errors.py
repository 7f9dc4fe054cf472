"""What can be wrong on the user's side.

    PixeltrustError
    ├── ConfigError     a setting that is unknown, of the wrong type or out of its range
    ├── DataError       files or folders that cannot be used; names every one of them
    ├── FetchError      a file on the web that cannot be had, or is not the one that was published
    └── RunError        a run folder that exists, is not one, or cannot be written

The command line prints these in one line (or one list) without a traceback and exits with 2.
A caller's mistake in Python (shapes, values of arguments) is a `ValueError`.
"""

import re
from collections.abc import Sequence

CONTROL = r"[\x00-\x1f\x7f-\x9f]"
"""Signs that break lines or command terminals; names of files may have them."""


class PixeltrustError(Exception):
    """Something the user can mend; its text says what, where and how, in one line: control characters become escapes."""

    def __init__(self, message: str) -> None:
        super().__init__(_printable(message))


class ConfigError(PixeltrustError):
    """A setting that is unknown, of the wrong type or out of its range."""


class DataError(PixeltrustError):
    """Files or folders that cannot be used.

    Args:
        message: what is wrong, in one sentence.
        faults: one sentence per fault, each naming its file; kept as `faults`.
    """

    def __init__(self, message: str, faults: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.faults = [_printable(fault) for fault in faults]

    def __str__(self) -> str:
        return "\n  ".join([super().__str__(), *self.faults])


class FetchError(PixeltrustError):
    """A file on the web that cannot be had, or is not the one that was published."""


class RunError(PixeltrustError):
    """A run folder that exists already, is not one, or cannot be written."""


class GainsWarning(UserWarning):
    """The gains of a network take another way than the usual one; says which, and why."""


def _printable(text: str) -> str:
    return re.sub(CONTROL, lambda sign: repr(sign[0])[1:-1], text)


def count(number: int, singular: str, plural: str | None = None) -> str:
    """`1 case`, `1,200 cases`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def some(things: Sequence[object], most: int = 5) -> str:
    """The first of them, and … if there are more."""
    return ", ".join(map(str, things[:most])) + (", …" if len(things) > most else "")
