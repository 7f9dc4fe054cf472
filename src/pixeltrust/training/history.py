"""The records of a run in progress: where its time goes, and its steps until steps.csv has them."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from torch import Tensor

from pixeltrust.plumbing.errors import RunError
from pixeltrust.training.warning_signs import Idle

PARTS = ("step", "optimiser", "batches", "validation", "saving", "other")


class Clock:
    """A stopwatch that adds every second to one part of PARTS: the innermost one that runs, or `other`.

    On a GPU, whose work is queued, a part's time is the time that the loop waits in it.

    Args:
        seconds: by part; the clock adds to them from now on.
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self._part, self._since = "other", time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge the time of the block to the part."""
        outer = self._part
        self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def read(self) -> float:
        """Bring `seconds` up to date, and return their sum."""
        self._switch(self._part)
        return sum(self.seconds.values())

    def _switch(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[self._part] += now - self._since
        self._part, self._since = part, now


def time_shares(seconds: dict[str, float]) -> str:
    """Return the share of every part, e.g. "time: step 93 %, optimiser 2 %, …"."""
    total = sum(seconds.values()) or 1.0
    return "time: " + ", ".join(f"{part} {100 * seconds[part] / total:.0f} %" for part in PARTS)


@dataclass(frozen=True)
class Reported:
    """A step as it was reported; its numbers may still be on the device."""

    row: dict[str, Any]
    """The row of steps.csv; `update` counts from 1."""
    streams: tuple[str, ...] = ()
    """The streams of its batches."""
    finite: bool | Tensor = True


@dataclass
class Steps:
    """All that history.csv, the warnings and the summary need of the steps so far."""

    columns: list[str] = field(default_factory=list)
    """The columns of steps.csv: those of the first step. A later one may leave some of them out."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums by column, over the steps of this epoch, without NaN."""
    counts: dict[str, int] = field(default_factory=dict)
    """The number of values in each sum."""
    idle: Idle = field(default_factory=Idle)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Steps that steps.csv does not have yet."""
    last: Reported | None = None
    """The last step that was counted, as numbers."""
    reported: list[Reported] = field(default_factory=list)
    """Steps that are not counted yet."""

    def settle(self) -> Reported | None:
        """Turn the reported steps into rows and count them; this waits for the device. Return the first that is not finite.

        Raises:
            RunError: a step has reported what the first one did not.
        """
        settled, self.reported = self.reported, []
        for step in settled:
            row = {name: value.item() if isinstance(value, Tensor) else value for name, value in step.row.items()}
            self._count(replace(step, row=row))
        return next((step for step in settled if not step.finite), None)

    def end_epoch(self) -> dict[str, float]:
        """Return the means over the epoch, the number of steps with `all_zero`, and start a new epoch."""
        assert self.last is not None
        means = {name: self.sums[name] / count if count else math.nan for name, count in self.counts.items() if name != "all_zero"}
        ended = {"learning_rate": self.last.row["learning_rate"], **means, "all_zero_steps": int(self.sums["all_zero"])}
        self.sums, self.counts = {}, {}
        return ended

    def _count(self, step: Reported) -> None:
        row = step.row
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
        self.last = step

    def pack(self) -> dict[str, Any]:
        """Return plain values, without the rows: write these first."""
        return {"columns": self.columns, "sums": self.sums, "counts": self.counts, "idle": asdict(self.idle)}

    @classmethod
    def unpacked(cls, packed: dict[str, Any]) -> Self:
        """Return the steps of a checkpoint; an older version kept all rows there, which are then written again."""
        stored = packed["steps"]
        if isinstance(stored, dict):
            return cls(**{**stored, "idle": Idle(**stored["idle"])})
        steps, ends = cls(), {epoch["update"] for epoch in packed["epochs"]}
        for row in stored:
            steps._count(Reported(row))
            if row["update"] in ends:
                steps.end_epoch()
        return steps
