"""Errors that the user can correct.

    PixeltrustError
    ├── ConfigError     a setting that is unknown, of the wrong type or out of its range
    ├── DataError       files or folders that cannot be used; names each of them
    ├── FetchError      a file on the web that cannot be fetched, or is not the published one
    └── RunError        a folder of results that exists already, is not one, or cannot be written; a run that cannot go on

The command line prints these in one line (or one list) without a traceback and exits with 2.
A mistake in a Python call (shapes, values of arguments) is a `ValueError`.
"""

from collections.abc import Iterator, Sequence

from pixeltrust.plumbing.text import printable

MOST_EXAMPLES = 10
"""So many faults of one kind are shown; the others are only counted."""


class Fault(str):
    """A fault in one sentence that names its file, and its repair. Faults of one kind are shown together.

    Args:
        sentence: what is wrong, and where.
        kind: the noun for several such files, to follow their number: `masks without an image`. Without it the fault is shown alone.
        repair: what to do, the same for all faults of the kind.
    """

    kind: str
    repair: str

    def __new__(cls, sentence: str, *, kind: str = "", repair: str = "") -> "Fault":
        fault = super().__new__(cls, printable(sentence))
        fault.kind, fault.repair = kind, repair
        return fault

    def with_repair(self) -> str:
        """Return the sentence with its repair."""
        return f"{self}; {self.repair}" if self.repair else str(self)


class PixeltrustError(Exception):
    """Something that the user can correct. Its text says what, where and how in one line; control characters are escaped."""

    def __init__(self, message: str) -> None:
        self.fault = message if isinstance(message, Fault) else Fault(message)
        super().__init__(self.fault.with_repair())


class ConfigError(PixeltrustError):
    """A setting that is unknown, of the wrong type or out of its range."""


class DataError(PixeltrustError):
    """Files or folders that cannot be used.

    Args:
        message: what is wrong, in one sentence.
        faults: one sentence per fault, each naming its file; all are kept as `faults`. The error's text groups them by kind and shows some
            of each.
    """

    def __init__(self, message: str, faults: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.faults = [fault if isinstance(fault, Fault) else Fault(fault) for fault in faults]

    def __str__(self) -> str:
        return "\n  ".join([super().__str__(), *_by_kind(self.faults)])


class FetchError(PixeltrustError):
    """A file on the web that cannot be fetched, or is not the published one."""


class RunError(PixeltrustError):
    """A run folder that exists already, is not one, or cannot be written."""


class GainsWarning(UserWarning):
    """The gains of a network need another way than the usual one; says which, and why."""


def _by_kind(faults: Sequence[Fault]) -> Iterator[str]:
    """Yield the lines that show faults: one line for a single fault, a heading and examples for several of a kind."""
    kinds: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        kinds.setdefault((fault.kind, fault.repair) if fault.kind else (fault, ""), []).append(fault)
    for (kind, repair), alike in kinds.items():
        if len(alike) == 1:
            yield alike[0].with_repair()
            continue
        yield f"{len(alike):,} {kind}" + (f": {repair}" if repair else "")
        yield from (f"  {fault}" for fault in alike[:MOST_EXAMPLES])
        if len(alike) > MOST_EXAMPLES:
            yield f"  … and {len(alike) - MOST_EXAMPLES:,} more"
