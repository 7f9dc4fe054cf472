"""What a run records as it goes: where its time went, and its steps until steps.csv has them."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from torch import Tensor

from pixeltrust.plumbing.errors import RunError
from pixeltrust.training.alarms import Idle

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


@dataclass
class Steps:
    """What summaries, alarms and the rows of history.csv need of the steps."""

    columns: list[str] = field(default_factory=list)
    """Of steps.csv: what the first step reported. A later one may leave some of it out."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the epoch in hand, by column, of the values that are numbers."""
    counts: dict[str, int] = field(default_factory=dict)
    """How many those are."""
    idle: Idle = field(default_factory=Idle)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Those that steps.csv does not have yet."""
    last: dict[str, Any] = field(default_factory=dict)
    """The last row of this sitting."""
    reported: list[dict[str, Any]] = field(default_factory=list)
    """Steps that are not counted yet, whose values may be on the device."""

    def settle(self) -> None:
        """Turn what the last steps have reported into rows, and count them; this waits for the device.

        Raises:
            RunError: a step has reported what the first one did not.
        """
        for step in self.reported:
            self._count({name: value.item() if isinstance(value, Tensor) else value for name, value in step.items()})
        self.reported.clear()

    def end_epoch(self) -> dict[str, float]:
        """The means over the epoch in hand, of which the next step is no part; `all_zero` is counted."""
        means = {name: self.sums[name] / count if count else math.nan for name, count in self.counts.items() if name != "all_zero"}
        ended = {"learning_rate": self.last["learning_rate"], **means, "all_zero_steps": int(self.sums["all_zero"])}
        self.sums, self.counts = {}, {}
        return ended

    def _count(self, row: dict[str, Any]) -> None:
        self.columns = self.columns or list(row)
        if new := row.keys() - set(self.columns):
            raise RunError(
                f"update {row['update']:,} reports {min(new)!r}, which the first one did not: steps.csv has the columns of the first; "
                "let it report nan where there is no number yet"
            )
        for name in self.columns:
            if name not in ("update", "learning_rate"):
                value = float(row.get(name, math.nan))
                self.sums[name] = self.sums.get(name, 0.0) + (0.0 if math.isnan(value) else value)
                self.counts[name] = self.counts.get(name, 0) + (not math.isnan(value))
        self.idle.count(row["update"], all_zero=bool(row["all_zero"]))
        self.rows.append(row)
        self.last = row

    def pack(self) -> dict[str, Any]:
        """As plain values, without the rows: write them first."""
        return {"columns": self.columns, "sums": self.sums, "counts": self.counts, "idle": asdict(self.idle)}

    @classmethod
    def unpacked(cls, packed: dict[str, Any]) -> Self:
        """Those of a checkpoint; an older version kept all rows there, which then are to be written again."""
        kept = packed["steps"]
        if isinstance(kept, dict):
            return cls(**{**kept, "idle": Idle(**kept["idle"])})
        steps, ends = cls(), {epoch["update"] for epoch in packed["epochs"]}
        for row in kept:
            steps._count(row)
            if row["update"] in ends:
                steps.end_epoch()
        return steps
