"""Where the time goes: seconds by part of the work."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

PARTS = ("step", "optimiser", "batches", "validation", "saving", "other")


class Clock:
    """Adds every second from its making on to one part of PARTS: the innermost one that runs, or `other`.

    On a GPU, whose work is queued, a part is charged with what the loop waits for in it, not with what it queues.

    Args:
        seconds: by part, to add to.
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self._part, self._since = "other", time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The time of the block belongs to the part."""
        outer = self._part
        self._turn(name)
        try:
            yield
        finally:
            self._turn(outer)

    def read(self) -> float:
        """All seconds up to now; `seconds` is up to date then."""
        self._turn(self._part)
        return sum(self.seconds.values())

    def _turn(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[self._part] += now - self._since
        self._part, self._since = part, now


def shares(seconds: dict[str, float]) -> str:
    """In words, e.g. "time: step 93 %, optimiser 2 %, …"."""
    total = sum(seconds.values()) or 1.0
    return "time: " + ", ".join(f"{part} {100 * seconds[part] / total:.0f} %" for part in PARTS)
